#include "weft/torch/block_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

#include "weft/torch/device_ints.h"

namespace weft::torch_internal {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::ScalarType accumulator_of(at::ScalarType element) { return element == at::kDouble ? at::kDouble : at::kFloat; }

// Calls f(first query, queries, first key, keys) for every piece.
template <typename F>
void for_each_piece(const PackedCall& call, F&& f) {
  int64_t q = 0, k = 0;
  for (size_t i = 0; i < call.q_ends.size(); ++i) {
    if (call.stop) call.stop->poll();
    f(q, call.q_ends[i] - q, k, call.k_ends[i] - k);
    q = call.q_ends[i], k = call.k_ends[i];
  }
}

// ---- dense

class DenseBlocks final : public BlockAttention {
 public:
  PackedResult forward(const PackedCall& call) const override {
    const auto options = call.q.options().dtype(accumulator_of(call.q.scalar_type()));
    PackedResult result{at::empty({call.q.size(0), call.q.size(1), call.v.size(2)}, options),
                        at::empty({call.q.size(0), call.q.size(1)}, options)};
    for_each_chunk(call, [&](const Chunk& c) {
      const at::Tensor lse = c.scores.logsumexp(-1);  // [kv heads, group x rows]
      const at::Tensor out = at::bmm((c.scores - lse.masked_fill(lse == -kInfinity, 0).unsqueeze(-1)).exp(), c.v);
      c.rows_of(result.out).copy_(c.by_token(out));
      c.rows_of(result.lse).copy_(c.by_token(lse.unsqueeze(-1)).squeeze(-1));
    });
    return result;
  }

  PackedGradients backward(const PackedCall& call, const at::Tensor& dout, const at::Tensor& lse,
                           const at::Tensor& delta) const override {
    const auto options = call.q.options().dtype(accumulator_of(call.q.scalar_type()));
    PackedGradients grads{at::empty(call.q.sizes(), options), at::zeros(call.k.sizes(), options),
                          at::zeros(call.v.sizes(), options)};
    for_each_chunk(call, [&](const Chunk& c) {
      const at::Tensor their_lse = c.by_head(lse.unsqueeze(-1));
      const at::Tensor p = (c.scores - their_lse.masked_fill(their_lse == -kInfinity, kInfinity)).exp();
      const at::Tensor their_dout = c.by_head(dout);
      const at::Tensor ds =
          p * (at::bmm(their_dout, c.v.transpose(1, 2)) - c.by_head(delta.unsqueeze(-1))) * call.scale;
      c.rows_of(grads.q).copy_(c.by_token(at::bmm(ds, c.k)));
      c.keys_of(grads.k).add_(at::bmm(ds.transpose(1, 2), c.q).transpose(0, 1));
      c.keys_of(grads.v).add_(at::bmm(p.transpose(1, 2), their_dout).transpose(0, 1));
    });
    return grads;
  }

 private:
  // Some queries of a piece against all its keys; heads in front: [kv heads, group x rows, columns].
  struct Chunk {
    int64_t kv_heads, group, key, keys, row = 0, rows = 0;
    at::Tensor q = {}, k = {}, v = {};  // accumulator type
    at::Tensor scores = {};             // [kv heads, group x rows, keys], -inf where not allowed

    at::Tensor rows_of(const at::Tensor& t) const { return t.narrow(0, row, rows); }
    at::Tensor keys_of(const at::Tensor& t) const { return t.narrow(0, key, keys); }
    at::Tensor by_head(const at::Tensor& t) const {  // of [queries, heads, columns]
      return rows_of(t)
          .to(q.scalar_type())
          .view({rows, kv_heads, group, t.size(2)})
          .permute({1, 2, 0, 3})
          .reshape({kv_heads, group * rows, t.size(2)});
    }
    at::Tensor by_token(const at::Tensor& t) const {
      return t.view({kv_heads, group, rows, t.size(2)})
          .permute({2, 0, 1, 3})
          .reshape({rows, kv_heads * group, t.size(2)});
    }
  };

  template <typename F>
  static void for_each_chunk(const PackedCall& call, F&& f) {
    constexpr int64_t kScores = 1 << 24;  // at once
    const auto type = accumulator_of(call.q.scalar_type());
    for_each_piece(call, [&](int64_t first_q, int64_t queries, int64_t first_k, int64_t keys) {
      Chunk c{.kv_heads = call.k.size(1), .group = call.group(), .key = first_k, .keys = keys};
      c.k = call.k.narrow(0, first_k, keys).to(type).transpose(0, 1).contiguous();
      c.v = call.v.narrow(0, first_k, keys).to(type).transpose(0, 1).contiguous();
      const int64_t step = std::max<int64_t>(1, kScores / (call.q.size(1) * keys));
      for (int64_t done = 0; done < queries; done += step) {
        if (call.stop) call.stop->poll();
        c.row = first_q + done, c.rows = std::min(step, queries - done);
        c.q = call.q.narrow(0, c.row, c.rows).to(type).contiguous();
        c.q = c.q.view({c.rows, c.kv_heads, c.group, c.q.size(2)})
                  .permute({1, 2, 0, 3})
                  .reshape({c.kv_heads, c.group * c.rows, c.q.size(2)});
        c.scores = at::bmm(c.q, c.k.transpose(1, 2)) * call.scale;
        if (call.causal) {
          const auto ints = call.q.options().dtype(at::kLong);
          const at::Tensor hidden = at::arange(keys, ints) > at::arange(done, done + c.rows, ints).unsqueeze(1);
          c.scores.view({c.kv_heads, c.group, c.rows, keys}).masked_fill_(hidden, -kInfinity);
        }
        f(c);
      }
    });
  }
};

// ---- fused, in main memory

// [rows, heads, columns] as [1, heads, rows, columns].
at::Tensor with_batch(const at::Tensor& t) { return t.transpose(0, 1).unsqueeze(0); }
at::Tensor without_batch(const at::Tensor& t) { return t.squeeze(0).transpose(0, 1); }

class FlashCpuBlocks final : public BlockAttention {
 public:
  PackedResult forward(const PackedCall& call) const override {
    const auto type = accumulator_of(call.q.scalar_type());
    PackedResult result{at::empty({call.q.size(0), call.q.size(1), call.v.size(2)}, call.q.options()),
                        at::empty({call.q.size(0), call.q.size(1)}, call.q.options().dtype(type))};
    for_each_piece(call, [&](int64_t q, int64_t queries, int64_t k, int64_t keys) {
      const auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
          with_batch(call.q.narrow(0, q, queries).to(type)), each_head(call, call.k.narrow(0, k, keys).to(type)),
          each_head(call, call.v.narrow(0, k, keys).to(type)), 0, call.causal, {}, call.scale);
      result.out.narrow(0, q, queries).copy_(without_batch(out));
      result.lse.narrow(0, q, queries).copy_(lse.squeeze(0).transpose(0, 1));
    });
    return result;
  }

  PackedGradients backward(const PackedCall& call, const at::Tensor& dout, const at::Tensor& lse,
                           const at::Tensor& delta) const override {
    const auto element = call.q.scalar_type(), type = accumulator_of(element);
    PackedGradients grads{at::empty_like(call.q), at::empty_like(call.k), at::empty_like(call.v)};
    const bool narrow = element != type;
    DoutAndOut row = out_of_delta(dout, delta, narrow ? 0x1p-10 : type == at::kDouble ? 0x1p-45 : 0x1p-20);
    if (narrow) row = {row.dout.to(element).to(type), row.out.to(element).to(type)};
    const at::Tensor no_empty = lse.masked_fill(lse == -kInfinity, kInfinity);
    for_each_piece(call, [&](int64_t q, int64_t queries, int64_t k, int64_t keys) {
      const auto part = [&](const at::Tensor& t) { return with_batch(t.narrow(0, q, queries)); };
      const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          part(row.dout), part(call.q.to(type)), each_head(call, call.k.narrow(0, k, keys).to(type)),
          each_head(call, call.v.narrow(0, k, keys).to(type)), part(row.out),
          no_empty.narrow(0, q, queries).transpose(0, 1).unsqueeze(0), 0, call.causal, {}, call.scale);
      grads.q.narrow(0, q, queries).copy_(without_batch(dq));
      grads.k.narrow(0, k, keys).copy_(per_kv_head(call, without_batch(dk)));
      grads.v.narrow(0, k, keys).copy_(per_kv_head(call, without_batch(dv)));
    });
    return grads;
  }

 private:
  static at::Tensor each_head(const PackedCall& call, const at::Tensor& t) {
    return with_batch(call.group() == 1 ? t : t.repeat_interleave(call.group(), 1));
  }
  static at::Tensor per_kv_head(const PackedCall& call, const at::Tensor& t) {
    return t.reshape({t.size(0), call.k.size(1), call.group(), t.size(2)}).sum(2);
  }
};

// ---- fused, on a GPU

class FlashGpuBlocks final : public BlockAttention {
 public:
  PackedResult forward(const PackedCall& call) const override {
    const int64_t dim = call.q.size(2);
    const auto [out, lse, seed, offset, mask] = at::_flash_attention_forward(
        padded(call.q), padded(call.k), padded(call.v), ends(call.q_ends, call.q), ends(call.k_ends, call.q),
        longest(call.q_ends), longest(call.k_ends), 0, call.causal, false, call.scale, {}, {});
    return {out.narrow(2, 0, dim), lse.narrow(1, 0, call.q.size(0)).transpose(0, 1)};
  }

  PackedGradients backward(const PackedCall& call, const at::Tensor& dout, const at::Tensor& lse,
                           const at::Tensor& delta) const override {
    const DoutAndOut row = out_of_delta(dout, delta, 0x1p-10);
    const auto type = call.q.scalar_type();
    const at::Tensor no_dropout = at::zeros({2}, call.q.options().dtype(at::kLong)).view(at::kUInt64);
    const auto [dq, dk, dv] = at::_flash_attention_backward(
        padded(row.dout.to(type)), padded(call.q), padded(call.k), padded(call.v), padded(row.out.to(type)),
        lse.masked_fill(lse == -kInfinity, kInfinity).transpose(0, 1).contiguous(), ends(call.q_ends, call.q),
        ends(call.k_ends, call.q), longest(call.q_ends), longest(call.k_ends), 0, call.causal, no_dropout,
        no_dropout.narrow(0, 0, 1), call.scale, {}, {});
    const int64_t dim = call.q.size(2);
    return {dq.narrow(2, 0, dim), dk.narrow(2, 0, dim), dv.narrow(2, 0, dim)};
  }

 private:
  // Columns are a multiple of 8, and rows have no gaps.
  static at::Tensor padded(const at::Tensor& t) {
    const int64_t more = (8 - t.size(2) % 8) % 8;
    return more == 0 ? t.contiguous() : at::constant_pad_nd(t, {0, more});
  }
  static at::Tensor ends(const std::vector<int64_t>& list, const at::Tensor& like) {
    std::vector<int64_t> all{0};
    all.insert(all.end(), list.begin(), list.end());
    return device_ints(all, like.device()).to(at::kInt);
  }
  static int64_t longest(const std::vector<int64_t>& list) {
    int64_t before = 0, most = 0;
    for (int64_t end : list) most = std::max(most, end - before), before = end;
    return most;
  }
};

}  // namespace

DoutAndOut out_of_delta(const at::Tensor& dout, const at::Tensor& delta, double least) {
  at::Tensor rows = dout.to(delta.scalar_type());
  const at::Tensor threshold = delta.abs() * least;
  const at::Tensor small = rows.abs().amax(-1) < threshold;
  rows = rows.clone();
  rows.select(-1, 0).copy_(rows.select(-1, 0).where(small.logical_not(), threshold));
  // By way of the row's largest, whose square does not vanish.
  const at::Tensor most = rows.abs().amax(-1, true);
  const at::Tensor unit = rows / most.masked_fill(most == 0, 1);
  const at::Tensor square = unit.square().sum(-1, true);
  const at::Tensor factor = delta.unsqueeze(-1) / (most * square).masked_fill(most == 0, kInfinity);
  return {rows, unit * factor};
}

const BlockAttention& dense_attention_blocks() {
  static const DenseBlocks blocks;
  return blocks;
}
const BlockAttention& flash_cpu_blocks() {
  static const FlashCpuBlocks blocks;
  return blocks;
}
const BlockAttention& flash_gpu_blocks() {
  static const FlashGpuBlocks blocks;
  return blocks;
}

}  // namespace weft::torch_internal
