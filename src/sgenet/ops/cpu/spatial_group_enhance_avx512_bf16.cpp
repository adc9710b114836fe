// AVX-512 with its rounding to bfloat16: Zen 4, Cooper Lake, Sapphire Rapids and later.
// build.py compiles this file with the flags for it.
#define SGENET_ISA avx512_bf16
#define SGENET_WIDTH 16
#define SGENET_LAST false

#include "kernels.h"

namespace sgenet {

extern const Kernels kernels_avx512_bf16;
const Kernels kernels_avx512_bf16 = {
    "avx512_bf16",
    avx512_bf16::enhance_forward,
    avx512_bf16::enhance_backward,
    avx512_bf16::scale_forward,
    avx512_bf16::scale_backward,
    avx512_bf16::channel_means,
    avx512_bf16::squeeze_excite,
    avx512_bf16::moments,
    avx512_bf16::norm_backward,
};

}  // namespace sgenet
