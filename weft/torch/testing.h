// For tests: linear layers token by token, and convolutions document by document, in torch operators.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv1d.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "weft/schedule/problem.h"
#include "weft/torch/attention.h"

namespace weft {

// Only what the recurrence says (docs/linear.md), differentiable, for the whole sequence; without initial states these are 0.
inline LinearResult linear_token_loop(const AttentionShape& shape, double scale, const std::vector<int64_t>& lengths,
                                      const LinearInputs& in) {
  // A state is [heads, dim, dim_v], a row [heads, columns].
  const auto read = [](const at::Tensor& state, const at::Tensor& row) { return state.mul(row.unsqueeze(2)).sum(1); };
  const auto outer = [](const at::Tensor& k, const at::Tensor& v) { return k.unsqueeze(2).mul(v.unsqueeze(1)); };
  const LayerTraits& layer = traits_of(shape.layer);
  std::vector<at::Tensor> outs, finals;
  int64_t t = 0;
  for (size_t document = 0; document < lengths.size(); ++document) {
    at::Tensor state = in.initial_state.defined()
                           ? in.initial_state[static_cast<int64_t>(document)]
                           : at::zeros({shape.heads, shape.dim, shape.dim_v}, in.q.options().requires_grad(false));
    for (const int64_t end = t + lengths[document]; t < end; ++t) {
      const auto by_head = [&](const at::Tensor& row) { return row.repeat_interleave(shape.heads / row.size(0), 0); };
      const at::Tensor q = by_head(in.q[t]), before = state;
      const auto factor = [&](const at::Tensor& rows, int64_t columns, int64_t n) {
        return by_head(rows[t].narrow(1, n * columns, columns));
      };
      const at::Tensor k = factor(in.k, shape.dim, shape.householders - 1);
      at::Tensor write = factor(in.v, shape.dim_v, shape.householders - 1);
      if (layer.bonus) outs.push_back(read(state, q).add(q.mul(in.u).mul(k).sum(1, true).mul(write)));
      if (in.g.defined()) state = state.mul(in.g[t].exp().unsqueeze(2));
      if (!shape.log_decay.empty()) {
        state =
            state.mul(at::tensor(shape.log_decay, in.q.options().requires_grad(false)).exp().view({shape.heads, 1, 1}));
      }
      for (int64_t n = 0; n + 1 < shape.householders; ++n) {
        const at::Tensor key = factor(in.k, shape.dim, n);
        const at::Tensor missing = factor(in.v, shape.dim_v, n).sub(read(state, key));
        state = state.add(outer(key, factor(in.beta, 1, n).mul(missing)));
      }
      if (in.beta.defined()) write = factor(in.beta, 1, shape.householders - 1).mul(write.sub(read(state, k)));
      if (in.b.defined()) state = state.add(outer(in.b[t], read(before, in.a[t])));
      if (layer.blocks > 0) {  // a as [heads, to, from, numbers], a state as [heads, dim, from, numbers]
        const int64_t blocks = layer.blocks, numbers = shape.dim_v / blocks;
        const at::Tensor a = in.a[t].reshape({shape.heads, 1, blocks, blocks, numbers});
        state = a.mul(state.reshape({shape.heads, shape.dim, 1, blocks, numbers})).sum(3).flatten(2);
      }
      state = state.add(outer(k, write));
      if (!layer.bonus) outs.push_back(read(state, q));
    }
    finals.push_back(state);
  }
  return {at::stack(outs, 0).mul(scale), at::stack(finals, 0)};
}

// Of the whole sequence, as short_convolution has it over ranks.
inline at::Tensor convolution_by_document(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                          const std::vector<int64_t>& lengths) {
  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (const int64_t length : lengths) {
    const at::Tensor rows = at::constant_pad_nd(x.narrow(0, begin, length).t().unsqueeze(0), {weight.size(1) - 1, 0});
    parts.push_back(
        at::conv1d(rows, weight.unsqueeze(1), bias, {1}, at::IntArrayRef{0}, {1}, x.size(1)).squeeze(0).t());
    begin += length;
  }
  return at::cat(parts);
}

inline LinearResult linear_token_loop(const Problem& problem, const std::vector<int64_t>& lengths,
                                      const LinearInputs& in) {
  return linear_token_loop(problem, problem.softmax_scale(), lengths, in);
}

}  // namespace weft
