#include "weft/model/attention.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>

#include <cmath>
#include <limits>
#include <utility>

#include "weft/base/error.h"

namespace weft {

namespace {

// One document; q, k, v [heads, length, head_dim].
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t length = q.size(1);
  const auto wide = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor hidden_keys = at::ones({length, length}, q.options().dtype(at::kBool)).triu(1);
  const at::Tensor scores = at::matmul(q, k.transpose(1, 2))
                                .to(wide)
                                .mul(1 / std::sqrt(static_cast<double>(q.size(2))))
                                .masked_fill(hidden_keys, -std::numeric_limits<double>::infinity());
  return at::matmul(at::softmax(scores, -1).to(q.scalar_type()), v);
}

}  // namespace

AttentionFunction dense_attention(std::vector<int64_t> document_lengths) {
  return [lengths = std::move(document_lengths)](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const int64_t repeat = q.size(1) / k.size(1);
    std::vector<at::Tensor> parts;
    int64_t begin = 0;
    for (const int64_t length : lengths) {
      const auto piece = [&](const at::Tensor& t) { return t.narrow(0, begin, length).transpose(0, 1); };
      parts.push_back(attend(piece(q), piece(k).repeat_interleave(repeat, 0), piece(v).repeat_interleave(repeat, 0))
                          .transpose(0, 1));
      begin += length;
    }
    WEFT_CHECK(begin == q.size(0));
    return parts.empty() ? at::empty_like(q) : at::cat(parts, 0);
  };
}

}  // namespace weft
