#include "weft/model/attention_block.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/sigmoid.h>

#include "weft/base/error.h"
#include "weft/model/ops.h"
#include "weft/model/rows.h"

namespace weft {

namespace {

// The first columns of each head as pairs (i, i + half), turned by the row's angles; the others as they are.
at::Tensor rotated(const at::Tensor& t, const at::Tensor& cos, const at::Tensor& sin) {
  const int64_t half = cos.size(1), rest = t.size(2) - 2 * half;
  const at::Tensor a = t.narrow(2, 0, half), b = t.narrow(2, half, half), c = cos.unsqueeze(1), s = sin.unsqueeze(1);
  return at::cat({a.mul(c).sub(b.mul(s)), b.mul(c).add(a.mul(s)), t.narrow(2, 2 * half, rest)}, 2);
}

at::Tensor normed_by_head(const at::Tensor& t, const at::Tensor& weight, double eps) {
  if (!weight.defined()) return t;
  return rms_norm(t.reshape({t.size(0) * t.size(1), t.size(2)}), weight, eps).view({t.size(0), t.size(1), t.size(2)});
}

}  // namespace

at::Tensor attention_block(const at::Tensor& x, const at::Tensor& norm, const AttentionBlockWeights& weights,
                           const at::Tensor& cos, const at::Tensor& sin, const HeadShape& shape, double eps,
                           const AttentionFunction& attention, at::ScalarType operands) {
  const int64_t tokens = x.size(0), dim = shape.head_dim, of_keys = 2 * shape.kv_heads * dim;
  const int64_t of_queries = weights.qkv.size(0) - of_keys;
  const bool gated = of_queries == 2 * shape.heads * dim;
  WEFT_CHECK(gated || of_queries == shape.heads * dim);
  const at::Tensor all = product(rms_norm(x, norm, eps), weights.qkv, operands);
  const at::Tensor queries = all.narrow(1, 0, of_queries).view({tokens, shape.heads, gated ? 2 * dim : dim});
  const at::Tensor kv = all.narrow(1, of_queries, of_keys).view({tokens, 2 * shape.kv_heads, dim});
  const at::Tensor q = rotated(normed_by_head(queries.narrow(2, 0, dim), weights.q_norm, eps), cos, sin);
  const at::Tensor k = rotated(normed_by_head(kv.narrow(1, 0, shape.kv_heads), weights.k_norm, eps), cos, sin);
  const at::Tensor v = kv.narrow(1, shape.kv_heads, shape.kv_heads);
  at::Tensor attended = attention(q.to(x.scalar_type()), k.to(x.scalar_type()), v.to(x.scalar_type()));
  WEFT_CHECK(attended.sizes() == q.sizes());
  if (gated) attended = attended.to(queries.scalar_type()).mul(at::sigmoid(queries.narrow(2, dim, dim)));
  return x.add(product(attended.reshape({tokens, shape.heads * dim}), weights.o, operands).to(x.scalar_type()));
}

}  // namespace weft
