// The drivers of matrix paths: bf16 inputs go to the engine's MatrixOps, and what it does not do (scales that are not
// positive, blocks of few queries, values that are not finite beside pairs that do not count) to the fp32 path of `ops`.
#pragma once

#include "weft/kernels/cpu_kernels.h"
#include "weft/kernels/matrix/matrix_ops.h"

namespace weft::kernels {

void matrix_attend(const MatrixOps& matrix, const TileOps& ops, const AttendArgs& args);
void matrix_attend_backward(const MatrixOps& matrix, const TileOps& ops, const AttendBackwardArgs& args);

}  // namespace weft::kernels
