// The AVX-512 (F, BW, DQ, VL) path. Compiled with flags of its own: see flags.cmake.
#if defined(__x86_64__)
#include "weft/kernels/simd_avx512.inc.h"
//
#include "weft/kernels/path.inc.h"

namespace weft::kernels {

const TileOps& avx512_tile_ops() {
  static constexpr TileOps kOps = tile_ops("avx512");
  return kOps;
}

}  // namespace weft::kernels
#endif
