// What the model's operations share: rows of tensors for kernels, the types of sums and of matrix products, and chunks of
// rows small enough that what a product writes is still in a cache when the next operation reads it.
//
//   for (const Range part : chunks_of(x.size(0))) {
//     const at::Tensor h = first_rows(scratch, part.size());
//     kernels::fused_kernels().add({.out = rows_of(h), .a = rows_of(x, part.begin), ...});
//   }
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "weft/base/dtype.h"
#include "weft/base/range.h"
#include "weft/kernels/fused/fused.h"

namespace weft {

// Sums over many elements of `type` are formed in this type.
inline at::ScalarType wide(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

// The type in which matrix products of activations stored as `stored` take their operands. bf16 only where the processor
// multiplies it fast: elsewhere torch's bf16 products are several times slower than converting chunks to fp32.
at::ScalarType operands_for(at::ScalarType stored);

// Of a tensor's element type; fp64, fp32, bf16 or fp16.
DType element_of(const at::Tensor& t);

// Rows from `row` on, and columns from `column` on, of a tensor whose rows are contiguous.
kernels::Rows rows_of(const at::Tensor& t, int64_t row = 0, int64_t column = 0);
kernels::ConstRows const_rows_of(const at::Tensor& t, int64_t row = 0, int64_t column = 0);

inline constexpr int64_t kChunkRows = 512;

// [0, rows) in parts of kChunkRows or fewer.
std::vector<Range> chunks_of(int64_t rows, int64_t most = kChunkRows);

// Memory for one chunk of rows at most.
at::Tensor scratch_rows(int64_t rows, int64_t columns, at::ScalarType type);
inline at::Tensor first_rows(const at::Tensor& t, int64_t rows) { return t.narrow(0, 0, rows); }

// These rows of t in `scratch`'s type: rows of t itself where that is its type.
at::Tensor as_operand(const at::Tensor& t, Range rows, const at::Tensor& scratch);

// to = a b
void multiply(const at::Tensor& to, const at::Tensor& a, const at::Tensor& b);
// to += a^T b, in the type of `to`: how a chunk adds to the gradient of a weight.
void add_transposed_product(const at::Tensor& to, const at::Tensor& a, const at::Tensor& b);

}  // namespace weft
