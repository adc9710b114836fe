// AVX-512: Skylake-SP and later.
// build.py compiles this file with the flags for it.
#define SGENET_ISA avx512
#define SGENET_WIDTH 16
#define SGENET_LAST false

#include "kernels.h"

namespace sgenet {

extern const Kernels kernels_avx512;
const Kernels kernels_avx512 = {
    "avx512",
    avx512::enhance_forward,
    avx512::enhance_backward,
    avx512::scale_forward,
    avx512::scale_backward,
    avx512::channel_means,
    avx512::squeeze_excite,
    avx512::moments,
    avx512::norm_backward,
};

}  // namespace sgenet
