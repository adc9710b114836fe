// The functions that Python calls, and the choice of an instruction set when the library runs.
#define SGENET_ISA portable
#include <atomic>
#include <cstdint>
#include <cstring>

#include "records.h"
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

Shape shape_of(const MapRecord& map) {
  return {map.batch,
          map.channels,
          map.positions,
          map.channels_last != 0,
          map.bfloat16 ? Element::kBfloat16 : Element::kFloat32,
          int(map.threads)};
}

// `count` values of either element type as floats: themselves, or in `room`; `value` throughout where there are none.
const float* floats_of(const void* values, bool bfloat16, Index first, Index count, float value, float* room) {
  if (values == nullptr) {
    for (Index i = 0; i < count; ++i) room[i] = value;
    return room;
  }
  if (!bfloat16) return static_cast<const float*>(values) + first;
  const auto* narrow = static_cast<const std::uint16_t*>(values) + first;
  for (Index i = 0; i < count; ++i) {
    const std::uint32_t bits = std::uint32_t{narrow[i]} << 16;
    std::memcpy(room + i, &bits, sizeof bits);
  }
  return room;
}

// What a call needs of the norm and the gate, as floats; `room` is kept by the calling thread from call to call.
class Prepared {
 public:
  // False without memory. `more` floats are left for the caller.
  bool make_room(Index channels, Index groups, Index more = 0) {
    static thread_local Scratch scratch;
    room_ = scratch.take(std::size_t(2 * channels + 2 * groups + more + 1));
    return room_ != nullptr;
  }

  float* take(Index count) {
    float* taken = room_;
    room_ += count;
    return taken;
  }

  // weight / sqrt(variance + eps), and bias - mean times that.
  Affine affine_of(const NormRecord& norm, Index channels) {
    if (norm.mean == nullptr) return {nullptr, nullptr};
    float *factor = take(channels), *shift = take(channels);
    constexpr Index kBlock = 64;  // converted at a time, on the stack
    float room[4][kBlock];
    for (Index first = 0; first < channels; first += kBlock) {
      const Index count = channels - first < kBlock ? channels - first : kBlock;
      const auto part = [&](int which, const void* values, float value) {
        return floats_of(values, norm.bfloat16 >> which & 1, first, count, value, room[which]);
      };
      const float *means = part(0, norm.mean, 0.0f), *variances = part(1, norm.variance, 1.0f);
      const float *weights = part(2, norm.weight, 1.0f), *biases = part(3, norm.bias, 0.0f);
      for (Index i = 0; i < count; ++i) {
        factor[first + i] = weights[i] / __builtin_sqrtf(variances[i] + float(norm.eps));
        shift[first + i] = biases[i] - means[i] * factor[first + i];
      }
    }
    return {factor, shift};
  }

  const float* weight_of(const GateRecord& gate) { return values_of(gate, gate.weight, 0); }
  const float* bias_of(const GateRecord& gate) { return values_of(gate, gate.bias, 1); }

 private:
  const float* values_of(const GateRecord& gate, const void* values, int bit) {
    return floats_of(values, gate.bfloat16 >> bit & 1, 0, gate.groups, 0.0f, take(gate.groups));
  }

  float* room_ = nullptr;
};

}  // namespace
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

SGENET_EXPORT int sgenet_enhance_forward(const EnhanceForwardRecord* given) {
  const Shape shape = shape_of(given->map);
  const Index groups = given->gate.groups;
  const Index unasked = given->semantic == nullptr ? shape.batch * (shape.channels + 2 * groups) : 0;
  Prepared prepared;
  if (!prepared.make_room(shape.channels, groups, unasked)) return kOutOfMemory;
  float *semantic = given->semantic, *statistics = given->statistics;
  if (semantic == nullptr) {
    semantic = prepared.take(shape.batch * shape.channels);
    statistics = prepared.take(shape.batch * 2 * groups);
  }
  const float *weight = prepared.weight_of(given->gate), *bias = prepared.bias_of(given->gate);
  return run<EnhanceForward>(&Kernels::enhance_forward,
                             {shape, groups, float(given->gate.eps), float(given->gate.scale), given->relu != 0,
                              given->x, given->residual, given->y, weight, bias,
                              prepared.affine_of(given->norm, shape.channels), semantic, statistics});
}

SGENET_EXPORT int sgenet_enhance_backward(const EnhanceBackwardRecord* given) {
  const Shape shape = shape_of(given->map);
  const Index groups = given->gate.groups;
  Prepared prepared;
  if (!prepared.make_room(shape.channels, groups)) return kOutOfMemory;
  const float *weight = prepared.weight_of(given->gate), *bias = prepared.bias_of(given->gate);
  return run<EnhanceBackward>(&Kernels::enhance_backward,
                              {shape, groups, float(given->gate.eps), float(given->gate.scale), given->gradient,
                               given->x, given->y, weight, bias, given->semantic, given->statistics,
                               prepared.affine_of(given->norm, shape.channels), given->dx, given->dresidual,
                               given->dweight, given->dbias});
}

SGENET_EXPORT int sgenet_scale_forward(const ScaleForwardRecord* given) {
  const Shape shape = shape_of(given->map);
  Prepared prepared;
  if (!prepared.make_room(shape.channels, 0)) return kOutOfMemory;
  return run<ScaleForward>(&Kernels::scale_forward,
                           {shape, given->relu != 0, given->x, given->residual, given->y, given->gate,
                            prepared.affine_of(given->norm, shape.channels)});
}

SGENET_EXPORT int sgenet_scale_backward(const ScaleBackwardRecord* given) {
  const Shape shape = shape_of(given->map);
  Prepared prepared;
  if (!prepared.make_room(shape.channels, 0)) return kOutOfMemory;
  return run<ScaleBackward>(&Kernels::scale_backward,
                            {shape, given->gradient, given->x, given->y, given->gate,
                             prepared.affine_of(given->norm, shape.channels), given->dx, given->dresidual,
                             given->dgate});
}

SGENET_EXPORT int sgenet_channel_means(const MeansRecord* given) {
  const Shape shape = shape_of(given->map);
  Prepared prepared;
  if (!prepared.make_room(shape.channels, 0)) return kOutOfMemory;
  return run<Means>(&Kernels::channel_means,
                    {shape, given->x, prepared.affine_of(given->norm, shape.channels), given->means});
}

SGENET_EXPORT int sgenet_squeeze_excite(const SqueezeExciteRecord* given) {
  const Shape shape = shape_of(given->map);
  Prepared prepared;
  if (!prepared.make_room(shape.channels, 0)) return kOutOfMemory;
  return run<SqueezeExcite>(&Kernels::squeeze_excite,
                            {shape, given->x, prepared.affine_of(given->norm, shape.channels), given->hidden,
                             given->weight1, given->bias1, given->weight2, given->bias2, given->gate});
}

SGENET_EXPORT int sgenet_moments(const MomentsRecord* given) {
  return run<Moments>(&Kernels::moments, {shape_of(given->map), given->x, given->mean, given->variance});
}

SGENET_EXPORT int sgenet_norm_backward(const NormBackwardRecord* given) {
  return run<NormBackward>(&Kernels::norm_backward,
                           {shape_of(given->map), given->gradient, given->x, given->mean, given->inverse,
                            given->weight, given->dx, given->dweight, given->dbias, given->kept != 0});
}
