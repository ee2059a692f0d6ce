#include "weft/model/rows.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <algorithm>

#include "weft/base/error.h"
#include "weft/kernels/kernels.h"
#include "weft/torch/types.h"

namespace weft {

at::ScalarType operands_for(at::ScalarType stored) {
  static const bool fast_bf16 = kernels::has_fast_bf16();
  return stored == at::kBFloat16 && fast_bf16 ? at::kBFloat16 : wide(stored);
}

DType element_of(const at::Tensor& t) {
  if (const auto type = dtype_of(t.scalar_type())) return *type;
  throw Error(ErrorCode::internal, std::string("no kernel takes tensors of ") + toString(t.scalar_type()));
}

kernels::ConstRows const_rows_of(const at::Tensor& t, int64_t row, int64_t column) {
  WEFT_CHECK(t.numel() == 0 || t.stride(-1) == 1);
  const int64_t stride = t.stride(0);
  return {static_cast<const char*>(t.const_data_ptr()) + (row * stride + column) * t.element_size(), element_of(t),
          stride};
}

kernels::Rows rows_of(const at::Tensor& t, int64_t row, int64_t column) {
  WEFT_CHECK(t.numel() == 0 || t.stride(-1) == 1);
  const int64_t stride = t.stride(0);
  return {static_cast<char*>(t.data_ptr()) + (row * stride + column) * t.element_size(), element_of(t), stride};
}

std::vector<Range> chunks_of(int64_t rows, int64_t most) {
  std::vector<Range> chunks;
  for (int64_t begin = 0; begin < rows; begin += most) chunks.push_back({begin, std::min(rows, begin + most)});
  return chunks;
}

at::Tensor scratch_rows(int64_t rows, int64_t columns, at::ScalarType type) {
  return at::empty({std::min(rows, kChunkRows), columns}, at::TensorOptions().dtype(type));
}

at::Tensor as_operand(const at::Tensor& t, Range rows, const at::Tensor& scratch) {
  const at::Tensor part = t.narrow(0, rows.begin, rows.size());
  if (t.scalar_type() == scratch.scalar_type()) return part;
  return first_rows(scratch, rows.size()).copy_(part);
}

void multiply(const at::Tensor& to, const at::Tensor& a, const at::Tensor& b) {
  at::Tensor result = to;
  at::mm_out(result, a, b);
}

void add_transposed_product(const at::Tensor& to, const at::Tensor& a, const at::Tensor& b) {
  at::Tensor sum = to;
  if (to.scalar_type() == a.scalar_type()) {
    at::addmm_out(sum, sum, a.t(), b);
  } else {
    sum.add_(at::mm(a.t(), b));
  }
}

}  // namespace weft
