// AVX2 and FMA: Haswell, Zen and later.
// build.py compiles this file with the flags for it.
#define SGENET_ISA avx2
#define SGENET_WIDTH 8
#define SGENET_LAST false

#include "kernels.h"

namespace sgenet {

extern const Kernels kernels_avx2;
const Kernels kernels_avx2 = {
    "avx2",
    avx2::enhance_forward,
    avx2::enhance_backward,
    avx2::scale_forward,
    avx2::scale_backward,
    avx2::channel_means,
    avx2::squeeze_excite,
    avx2::moments,
    avx2::norm_backward,
};

}  // namespace sgenet
