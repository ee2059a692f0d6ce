// The portable path: no instruction beyond the compiler's baseline. Compiled with flags of its own:
// see flags.cmake.
#include "weft/kernels/simd_portable.inc.h"
//
#include "weft/kernels/path.inc.h"

namespace weft::kernels {

const TileOps& portable_tile_ops() {
  static constexpr TileOps kOps = tile_ops("portable");
  return kOps;
}

}  // namespace weft::kernels
