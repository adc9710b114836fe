// Four lanes: what every CPU of a family has (SSE2, NEON), or what the compiler makes of them.
// build.py compiles this file with the flags for it.
#define SGENET_ISA portable
#define SGENET_WIDTH 4
#define SGENET_LAST true

#include "kernels.h"

namespace sgenet {

extern const Kernels kernels_portable;
const Kernels kernels_portable = {
    "portable",
    portable::enhance_forward,
    portable::enhance_backward,
    portable::scale_forward,
    portable::scale_backward,
    portable::channel_means,
    portable::squeeze_excite,
    portable::moments,
    portable::norm_backward,
};

}  // namespace sgenet
