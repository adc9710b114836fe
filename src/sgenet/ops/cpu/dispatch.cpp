// The functions that Python calls, and the choice of an instruction set when the library runs.
#define SGENET_ISA portable
#include <atomic>
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
