// The functions that Python calls, and the choice of an instruction set when the library runs.
#define SGENET_ISA portable
#include <atomic>
#include <cstdint>
#include <cstring>

#include "abi.h"
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

Shape shape_of(Index batch, Index channels, Index positions, int channels_last, int bfloat16, int threads) {
  return {batch, channels, positions, channels_last != 0, bfloat16 ? Element::kBfloat16 : Element::kFloat32, threads};
}

}  // namespace
}  // namespace sgenet

using sgenet::Index;
using sgenet::Kernels;
using sgenet::run;
using sgenet::shape_of;

// Uses the named instruction set, and narrower ones, from now on; 0 where this CPU or this library does not have it.
SGENET_EXPORT int sgenet_use(const char* name) {
  for (const sgenet::Choice& choice : sgenet::choices.list) {
    if (choice.runs_here && std::strcmp(choice.kernels->name, name) == 0) {
      sgenet::asked = &choice;
      return 1;
    }
  }
  return 0;
}

SGENET_EXPORT const char* sgenet_used() { return sgenet::widest()->kernels->name; }

// Whether a runtime for threads was found when the library was loaded.
SGENET_EXPORT int sgenet_has_threads() { return GOMP_parallel != nullptr; }

SGENET_EXPORT int sgenet_enhance_forward(const void* x, const void* residual, void* y, const float* weight,
                                         const float* bias, const float* factor, const float* shift, float* semantic,
                                         float* statistics, Index batch, Index channels, Index positions, Index groups,
                                         float eps, float scale, int relu, int channels_last, int bfloat16,
                                         int threads) {
  return run<sgenet::EnhanceForward>(
      &Kernels::enhance_forward,
      {shape_of(batch, channels, positions, channels_last, bfloat16, threads),
       groups, eps, scale, relu != 0, x, residual, y, weight, bias,
       {factor, shift}, semantic, statistics});
}

SGENET_EXPORT int sgenet_enhance_backward(const void* gradient, const void* x, const void* y, const float* weight,
                                          const float* bias, const float* semantic, const float* statistics,
                                          const float* factor, const float* shift, void* dx, void* dresidual,
                                          float* dweight, float* dbias, Index batch, Index channels, Index positions,
                                          Index groups, float eps, float scale, int channels_last, int bfloat16,
                                          int threads) {
  return run<sgenet::EnhanceBackward>(
      &Kernels::enhance_backward,
      {shape_of(batch, channels, positions, channels_last, bfloat16, threads),
       groups, eps, scale, gradient, x, y, weight, bias, semantic, statistics,
       {factor, shift}, dx, dresidual, dweight, dbias});
}

SGENET_EXPORT int sgenet_scale_forward(const void* x, const void* residual, void* y, const float* gate,
                                       const float* factor, const float* shift, Index batch, Index channels,
                                       Index positions, int relu, int channels_last, int bfloat16, int threads) {
  return run<sgenet::ScaleForward>(
      &Kernels::scale_forward,
      {shape_of(batch, channels, positions, channels_last, bfloat16, threads),
       relu != 0, x, residual, y, gate, {factor, shift}});
}

SGENET_EXPORT int sgenet_scale_backward(const void* gradient, const void* x, const void* y, const float* gate,
                                        const float* factor, const float* shift, void* dx, void* dresidual,
                                        float* dgate, Index batch, Index channels, Index positions, int channels_last,
                                        int bfloat16, int threads) {
  return run<sgenet::ScaleBackward>(
      &Kernels::scale_backward,
      {shape_of(batch, channels, positions, channels_last, bfloat16, threads),
       gradient, x, y, gate, {factor, shift}, dx, dresidual, dgate});
}

SGENET_EXPORT int sgenet_moments(const void* x, float* mean, float* variance, Index batch, Index channels,
                                 Index positions, int channels_last, int bfloat16, int threads) {
  return run<sgenet::Moments>(
      &Kernels::moments,
      {shape_of(batch, channels, positions, channels_last, bfloat16, threads), x, mean, variance});
}

SGENET_EXPORT int sgenet_norm_backward(const void* gradient, const void* x, const float* mean, const float* inverse,
                                       const float* weight, void* dx, float* dweight, float* dbias, Index batch,
                                       Index channels, Index positions, int channels_last, int bfloat16, int threads) {
  return run<sgenet::NormBackward>(
      &Kernels::norm_backward,
      {shape_of(batch, channels, positions, channels_last, bfloat16, threads),
       gradient, x, mean, inverse, weight, dx, dweight, dbias});
}

namespace sgenet {
namespace {

// A part of an array of either element type as floats: itself, or in `room`; `value` throughout where there is none.
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

}  // namespace
}  // namespace sgenet

// A batch norm's affine layer: weight / sqrt(variance + eps) into `factor`, bias - mean * factor into `summand`. Bits 0
// to 3 of `bfloat16` are set where mean, variance, weight, bias hold bfloat16; weight and bias may be null.
SGENET_EXPORT void sgenet_affine(const void* mean, const void* variance, const void* weight, const void* bias,
                                 float* factor, float* summand, Index channels, float eps, int bfloat16) {
  constexpr Index kBlock = 64;  // converted at a time, on the stack
  float room[4][kBlock];
  for (Index first = 0; first < channels; first += kBlock) {
    const Index count = channels - first < kBlock ? channels - first : kBlock;
    const auto part = [&](int which, const void* values, float value) {
      return sgenet::floats_of(values, bfloat16 >> which & 1, first, count, value, room[which]);
    };
    const float *means = part(0, mean, 0.0f), *variances = part(1, variance, 1.0f);
    const float *weights = part(2, weight, 1.0f), *biases = part(3, bias, 0.0f);
    for (Index i = 0; i < count; ++i) {
      factor[first + i] = weights[i] / __builtin_sqrtf(variances[i] + eps);
      summand[first + i] = biases[i] - means[i] * factor[first + i];
    }
  }
}
