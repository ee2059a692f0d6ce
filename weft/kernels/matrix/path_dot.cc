// The matrix engine of processors with AVX512-BF16. Compiled with flags of its own: see flags.cmake.
#if defined(__x86_64__)
#include "weft/kernels/simd_avx512.inc.h"
//
#include "weft/kernels/path.inc.h"
//
#include "weft/kernels/matrix/engine_dot.inc.h"
//
#include "weft/kernels/matrix/path.inc.h"

namespace weft::kernels {

const MatrixOps& dot_ops() {
  static constexpr MatrixOps kOps = matrix_ops();
  return kOps;
}

}  // namespace weft::kernels
#endif
