// The functions that Python calls, and the choice of an instruction set when the library runs.
#define SGENET_ISA portable
#include <atomic>
#include <cstdint>
#include <cstring>

#include "arguments.h"
#include "threads.h"

#define SGENET_EXPORT extern "C" __attribute__((visibility("default")))

namespace sgenet {

extern const Kernels kernels_portable;
#if defined(__x86_64__)
extern const Kernels kernels_avx512_bf16, kernels_avx512, kernels_avx2;
#endif

Scratch& scratch_of_this_thread() {
  static thread_local Scratch scratch;
  return scratch;
}

namespace {

struct Choice {
  const Kernels* kernels;
  bool runs_here;
};

// From the widest vectors to those that every CPU has.
struct Choices {
#if defined(__x86_64__)
  Choice list[4];
  Choices() {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    list[0] = {&kernels_avx512_bf16, avx512 && __builtin_cpu_supports("avx512bf16")};
    list[1] = {&kernels_avx512, avx512};
    list[2] = {&kernels_avx2, avx2};
    list[3] = {&kernels_portable, true};
  }
#else
  Choice list[1] = {{&kernels_portable, true}};
#endif
};

const Choices choices;
std::atomic<const Choice*> asked{choices.list};  // the widest that may be used

const Choice* widest() {
  const Choice* choice = asked;
  while (!choice->runs_here) ++choice;
  return choice;
}

// Lets the widest kernels that take the call do it; the last take every call.
template <class Call>
Status run(Status (*Kernels::* function)(const Call&), const Call& call) {
  for (const Choice* choice = widest();; ++choice) {
    if (!choice->runs_here) continue;
    const Status status = (choice->kernels->*function)(call);
    if (status != kNotHere) return status;
  }
}

// `count` of the values as floats: themselves, or in `room`; `value` throughout where there are none.
const float* floats_of(Values values, Index first, Index count, float value, float* room) {
  if (values.data == nullptr) {
    for (Index i = 0; i < count; ++i) room[i] = value;
    return room;
  }
  if (!values.bfloat16) return static_cast<const float*>(values.data) + first;
  const auto* narrow = static_cast<const std::uint16_t*>(values.data) + first;
  for (Index i = 0; i < count; ++i) {
    const std::uint32_t bits = std::uint32_t{narrow[i]} << 16;
    std::memcpy(room + i, &bits, sizeof bits);
  }
  return room;
}

// What a call needs of what is given, as floats; `room` is kept by the calling thread from call to call.
class Prepared {
 public:
  // False without memory. `more` floats are left for the caller.
  bool make_room(Index channels, Index more = 0) {
    static thread_local Scratch scratch;
    room_ = scratch.take(std::size_t(2 * channels + more + 1));
    return room_ != nullptr;
  }

  float* take(Index count) {
    float* taken = room_;
    room_ += count;
    return taken;
  }

  const float* floats(Values values, Index count) { return floats_of(values, 0, count, 0.0f, take(count)); }

  // weight / sqrt(variance + eps), and bias - mean times that.
  Affine affine_of(const Norm& norm, Index channels) {
    if (norm.mean.data == nullptr) return {nullptr, nullptr};
    float *factor = take(channels), *shift = take(channels);
    constexpr Index kBlock = 64;  // converted at a time, on the stack
    float room[4][kBlock];
    for (Index first = 0; first < channels; first += kBlock) {
      const Index count = channels - first < kBlock ? channels - first : kBlock;
      const float* means = floats_of(norm.mean, first, count, 0.0f, room[0]);
      const float* variances = floats_of(norm.variance, first, count, 1.0f, room[1]);
      const float* weights = floats_of(norm.weight, first, count, 1.0f, room[2]);
      const float* biases = floats_of(norm.bias, first, count, 0.0f, room[3]);
      for (Index i = 0; i < count; ++i) {
        factor[first + i] = weights[i] / __builtin_sqrtf(variances[i] + float(norm.eps));
        shift[first + i] = biases[i] - means[i] * factor[first + i];
      }
    }
    return {factor, shift};
  }

 private:
  float* room_ = nullptr;
};

// The status of a call for Python: of compute(), where all arguments fit.
template <class Compute>
PyObject* answer(const Arguments& arguments, Compute compute) {
  return PyLong_FromLong(arguments.fit() ? without_lock(compute) : kUnfit);
}

// What each function takes, in this order, stands where it reads it: `x`, say, before what is as long as its channels.

struct Gate {
  Index groups;
  Values weight, bias;
  double eps, scale;

  explicit Gate(Arguments& next)
      : groups(next.groups()), weight(next.values(groups)), bias(next.values(groups)), eps(next.positive()),
        scale(next.number()) {}
};

PyObject* enhance_forward(PyObject* watchers, PyObject* const* given, PySize count) {
  Arguments next(watchers, given, count, 17);
  const void* x = next.first_map();
  const Gate gate(next);
  const void* residual = next.map_beside_or_none();
  const bool relu = next.integer() != 0;
  const Norm norm = next.norm();
  void* y = next.map();
  const Index batch = next.shape().batch, channels = next.shape().channels, groups = gate.groups;
  float* semantic = next.floats_or_none(batch * channels);
  float* statistics = next.floats_or_none(batch * groups * 2);
  const Shape shape = next.threads();
  return answer(next, [&] {
    Prepared prepared;
    if (!prepared.make_room(channels, 2 * groups + batch * (channels + 2 * groups))) return kOutOfMemory;
    const float *weight = prepared.floats(gate.weight, groups), *bias = prepared.floats(gate.bias, groups);
    const Affine affine = prepared.affine_of(norm, channels);
    float* g = semantic != nullptr ? semantic : prepared.take(batch * channels);
    float* found = statistics != nullptr ? statistics : prepared.take(batch * groups * 2);
    return run<EnhanceForward>(&Kernels::enhance_forward, {shape, groups, float(gate.eps), float(gate.scale), relu, x,
                                                           residual, y, weight, bias, affine, g, found});
  });
}

PyObject* enhance_backward(PyObject* watchers, PyObject* const* given, PySize count) {
  Arguments next(watchers, given, count, 20);
  const void* x = next.first_map();
  const Gate gate(next);
  const void *gradient = next.map(), *y = next.map_or_none();
  const Norm norm = next.norm();
  const Index channels = next.shape().channels, batch = next.shape().batch, groups = gate.groups;
  const float *semantic = next.floats(batch * channels), *statistics = next.floats(batch * groups * 2);
  void *dx = next.map(), *dresidual = next.map_or_none();
  float *dweight = next.floats(groups), *dbias = next.floats(groups);
  const Shape shape = next.threads();
  return answer(next, [&] {
    Prepared prepared;
    if (!prepared.make_room(channels, 2 * groups)) return kOutOfMemory;
    const float *weight = prepared.floats(gate.weight, groups), *bias = prepared.floats(gate.bias, groups);
    const Affine affine = prepared.affine_of(norm, channels);
    return run<EnhanceBackward>(&Kernels::enhance_backward,
                                {shape, groups, float(gate.eps), float(gate.scale), gradient, x, y, weight, bias,
                                 semantic, statistics, affine, dx, dresidual, dweight, dbias});
  });
}

PyObject* scale_forward(PyObject* watchers, PyObject* const* given, PySize count) {
  Arguments next(watchers, given, count, 11);
  const void* x = next.first_map();
  const Index channels = next.shape().channels, gates = next.shape().batch * channels;
  const Values gate = next.by_channel();
  const void* residual = next.map_beside_or_none();
  const bool relu = next.integer() != 0;
  const Norm norm = next.norm();
  void* y = next.map();
  const Shape shape = next.threads();
  return answer(next, [&] {
    Prepared prepared;
    if (!prepared.make_room(channels, gates)) return kOutOfMemory;
    const float* factors = prepared.floats(gate, gates);
    const Affine affine = prepared.affine_of(norm, channels);
    return run<ScaleForward>(&Kernels::scale_forward, {shape, relu, x, residual, y, factors, affine});
  });
}

PyObject* scale_backward(PyObject* watchers, PyObject* const* given, PySize count) {
  Arguments next(watchers, given, count, 13);
  const void* x = next.first_map();
  const Index channels = next.shape().channels, gates = next.shape().batch * channels;
  const Values gate = next.by_channel();
  const void *gradient = next.map(), *y = next.map_or_none();
  const Norm norm = next.norm();
  void *dx = next.map(), *dresidual = next.map_or_none();
  float* dgate = next.floats(gates);
  const Shape shape = next.threads();
  return answer(next, [&] {
    Prepared prepared;
    if (!prepared.make_room(channels, gates)) return kOutOfMemory;
    const float* factors = prepared.floats(gate, gates);
    const Affine affine = prepared.affine_of(norm, channels);
    return run<ScaleBackward>(&Kernels::scale_backward,
                              {shape, gradient, x, y, factors, affine, dx, dresidual, dgate});
  });
}

PyObject* channel_means(PyObject* watchers, PyObject* const* given, PySize count) {
  Arguments next(watchers, given, count, 8);
  const void* x = next.first_map();
  const Index channels = next.shape().channels;
  const Norm norm = next.norm();
  float* means = next.floats(next.shape().batch * channels);
  const Shape shape = next.threads();
  return answer(next, [&] {
    Prepared prepared;
    if (!prepared.make_room(channels)) return kOutOfMemory;
    return run<Means>(&Kernels::channel_means, {shape, x, prepared.affine_of(norm, channels), means});
  });
}

PyObject* squeeze_excite(PyObject* watchers, PyObject* const* given, PySize count) {
  Arguments next(watchers, given, count, 12);
  const void* x = next.first_map();
  const Index channels = next.shape().channels, hidden = next.size_of_next();
  const void *weight1 = next.weights(hidden, channels), *bias1 = next.biases_or_none(hidden);
  const void *weight2 = next.weights(channels, hidden), *bias2 = next.biases_or_none(channels);
  const Norm norm = next.norm();
  float* gate = next.floats(next.shape().batch * channels);
  const Shape shape = next.threads();
  return answer(next, [&] {
    Prepared prepared;
    if (!prepared.make_room(channels)) return kOutOfMemory;
    return run<SqueezeExcite>(&Kernels::squeeze_excite, {shape, x, prepared.affine_of(norm, channels), hidden, weight1,
                                                         bias1, weight2, bias2, gate});
  });
}

PyObject* moments(PyObject* watchers, PyObject* const* given, PySize count) {
  Arguments next(watchers, given, count, 4);
  const void* x = next.first_map();
  const Index channels = next.shape().channels;
  float *mean = next.floats(channels), *variance = next.floats(channels);
  const Shape shape = next.threads();
  return answer(next, [&] { return run<Moments>(&Kernels::moments, {shape, x, mean, variance}); });
}

PyObject* norm_backward(PyObject* watchers, PyObject* const* given, PySize count) {
  Arguments next(watchers, given, count, 10);
  const void *x = next.first_map(), *gradient = next.map();
  const Index channels = next.shape().channels;
  const float *mean = next.floats(channels), *inverse = next.floats(channels);
  const float* weight = next.floats_or_none(channels);
  const bool kept = next.integer() != 0;
  void* dx = next.map();
  float *dweight = next.floats(channels), *dbias = next.floats(channels);
  const Shape shape = next.threads();
  return answer(next, [&] {
    return run<NormBackward>(&Kernels::norm_backward,
                             {shape, gradient, x, mean, inverse, weight, dx, dweight, dbias, kept});
  });
}

#define SGENET_FUNCTION(name) {#name, name, kFastCall, nullptr}
PyMethodDef functions[] = {SGENET_FUNCTION(enhance_forward), SGENET_FUNCTION(enhance_backward),
                           SGENET_FUNCTION(scale_forward),   SGENET_FUNCTION(scale_backward),
                           SGENET_FUNCTION(channel_means),   SGENET_FUNCTION(squeeze_excite),
                           SGENET_FUNCTION(moments),         SGENET_FUNCTION(norm_backward)};

}  // namespace

Reader reader;

}  // namespace sgenet

using namespace sgenet;

// Uses the named instruction set, and narrower ones, from now on; 0 where this CPU or this library does not have it.
SGENET_EXPORT int sgenet_use(const char* name) {
  for (const Choice& choice : choices.list) {
    if (choice.runs_here && std::strcmp(choice.kernels->name, name) == 0) {
      asked = &choice;
      return 1;
    }
  }
  return 0;
}

// What this library was compiled from, and how; build.py looks for it in the file.
SGENET_EXPORT const char* sgenet_stamp() { return SGENET_STAMP; }

SGENET_EXPORT const char* sgenet_used() { return widest()->kernels->name; }

// Whether a runtime for threads was found when the library was loaded.
SGENET_EXPORT int sgenet_has_threads() { return GOMP_parallel != nullptr; }

// How tensors are read: by DLPack's table, in a capsule of Python, or, where that is None, by a function in Python, which
// returns a Tensor as bytes.
SGENET_EXPORT void sgenet_read_by(PyObject* capsule, PyObject* in_python) {
  constexpr std::uint32_t kMajor = 1;
  const auto* table = static_cast<const DlpackTable*>(
      capsule == none() ? nullptr : PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  if (table == nullptr) PyErr_Clear();
  Py_IncRef(in_python);
  reader = {table != nullptr && table->major == kMajor ? table->describe : nullptr, in_python};
}

// The function of that name, for Python to call; it returns a Status. It does nothing unless `watchers`, where that is
// not None, are idle. None where there is no such function.
SGENET_EXPORT PyObject* sgenet_function(const char* name, PyObject* watchers) {
  for (PyMethodDef& function : functions) {
    if (std::strcmp(function.name, name) != 0) continue;
    return PyCFunction_NewEx(&function, watchers == none() ? nullptr : watchers, nullptr);
  }
  Py_IncRef(none());
  return none();
}
