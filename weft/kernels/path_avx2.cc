// The AVX2 + FMA + F16C path. Compiled with flags of its own: see flags.cmake.
#if defined(__x86_64__)
#include "weft/kernels/simd_avx2.inc.h"
//
#include "weft/kernels/path.inc.h"

namespace weft::kernels {

const TileOps& avx2_tile_ops() {
  static constexpr TileOps kOps = tile_ops("avx2");
  return kOps;
}

}  // namespace weft::kernels
#endif
