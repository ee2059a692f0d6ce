// The shapes of AVX-512 and AMX on a processor with AVX2: slow, and the same algorithms step by step. Compiled with flags
// of its own: see flags.cmake.
#if defined(__x86_64__)
#include "weft/kernels/simd_wide.inc.h"
//
#include "weft/kernels/path.inc.h"
//
#include "weft/kernels/matrix/engine_emulated.inc.h"
//
#include "weft/kernels/matrix/path.inc.h"

namespace weft::kernels {

const MatrixOps& emulated_ops() {
  static constexpr MatrixOps kOps = matrix_ops();
  return kOps;
}

const TileOps& wide_tile_ops() {
  static constexpr TileOps kOps = tile_ops("emulated");
  return kOps;
}

}  // namespace weft::kernels
#endif
