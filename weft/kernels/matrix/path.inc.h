// The algorithm of every matrix path, over the SIMD type and the engine that the including file chose.
#pragma once

#include "weft/kernels/matrix/matrix_ops.h"
// The order matters: each builds on those before it.
// clang-format off
#include "weft/kernels/matrix/pack.inc.h"
#include "weft/kernels/matrix/forward.inc.h"
#include "weft/kernels/matrix/backward.inc.h"
// clang-format on

namespace weft::kernels {
namespace {

static_assert(kStrip == kMatrixBlock);

constexpr MatrixOps matrix_ops() {
  return {matrix_pack_rows,  matrix_pack_rows_pairs, matrix_pack_columns, matrix_pack_columns_pairs,
          matrix_all_finite, matrix_forward,         matrix_backward};
}

}  // namespace
}  // namespace weft::kernels
