// attend_backward on the CPU: dK and dV of one packed key block are summed over all query tiles and
// all heads that read it, and written once; dQ is added to per (query tile, key block).
#include <algorithm>
#include <limits>

#include "weft/kernels/checks.h"
#include "weft/kernels/cpu_kernels.h"
#include "weft/kernels/element.h"
#include "weft/kernels/scratch.h"

namespace weft::kernels {
namespace {

constexpr double kLog2E = 1.44269504088896341;

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

RowsIn rows_of(const ConstView& view, Range rows, int64_t head, int64_t columns) {
  return {address(view, rows.begin, head), view.type, view.row_stride, rows.size(), columns};
}

class Backward {
 public:
  Backward(const TileOps& ops, const AttendBackwardArgs& args) : ops_(ops), args_(args), scratch_(thread_scratch()) {}

  void run() {
    for (const HeadGroup& group : group_heads(args_.kv_head)) {
      for (const Block& block : args_.blocks) run_block(group, block);
    }
  }

 private:
  void run_block(const HeadGroup& group, const Block& block) {
    const BandRectangle band = shrink(block.band);
    for (int64_t key = band.k.begin; key < band.k.end; key += kBackwardKeyBlock) {
      const BandRectangle part = shrink(cut(band, band.q, {key, key + kBackwardKeyBlock}));
      if (part.q.empty()) continue;
      pack_keys(group.kv_head, part.k);
      for (int32_t head : group.heads) {
        for (int64_t query = part.q.begin; query < part.q.end; query += kBackwardQueryTile) {
          if (args_.stop) args_.stop->poll();
          run_tile(head, block, part, intersect(part.q, {query, query + kBackwardQueryTile}));
        }
      }
      const int64_t row = block.kv_grad_row + part.k.begin - block.band.k.begin;
      add_key_gradient(args_.dk, dk_, args_.scale, row, group.kv_head, part.k.size(), args_.dim);
      add_key_gradient(args_.dv, dv_, 1, row, group.kv_head, part.k.size(), args_.dim_v);
    }
  }

  void pack_keys(int64_t kv_head, Range keys) {
    const RowsIn k = rows_of(args_.k, keys, kv_head, args_.dim), v = rows_of(args_.v, keys, kv_head, args_.dim_v);
    const int64_t padded = round_up(keys.size(), ops_.panel);
    k_ = scratch_.k.get(padded * args_.dim);
    v_ = scratch_.v.get(padded * args_.dim_v);
    ops_.pack_rows(k, ops_.panel, 1, k_);
    ops_.pack_rows(v, ops_.panel, 1, v_);
    if (args_.dq.data) {
      k_columns_ = scratch_.k_columns.get(keys.size() * round_up(args_.dim, ops_.panel));
      ops_.pack_columns(k, ops_.panel, keys.size(), k_columns_);
    }
    if (args_.dk.data) dk_ = zeros(scratch_.dk, padded * round_up(args_.dim, ops_.strip));
    if (args_.dv.data) dv_ = zeros(scratch_.dv, padded * round_up(args_.dim_v, ops_.strip));
  }

  void run_tile(int32_t head, const Block& block, const BandRectangle& part, Range queries) {
    const int64_t padded = round_up(queries.size(), ops_.strip), shift = part.k.begin - queries.begin;
    const int64_t bundle_row = block.bundle_row + queries.begin - block.band.q.begin;
    const RowsIn q = rows_of(args_.q, queries, head, args_.dim);
    const RowsIn dout = rows_of(args_.dout, {bundle_row, bundle_row + queries.size()}, head, args_.dim_v);
    const int64_t padded_dim = round_up(args_.dim, ops_.panel);
    float* const rows = scratch_.rows.get(2 * padded);
    read_statistics(head, bundle_row, queries.size(), padded, rows, rows + padded);

    float* const q_packed = scratch_.q.get(padded * args_.dim);
    float* const dout_packed = scratch_.dout.get(padded * args_.dim_v);
    ops_.pack_rows(q, ops_.strip, static_cast<float>(args_.scale * kLog2E), q_packed);
    ops_.pack_rows(dout, ops_.strip, 1, dout_packed);
    BackwardTile tile = {
        .queries = queries.size(),
        .keys = part.k.size(),
        .dim = args_.dim,
        .dim_v = args_.dim_v,
        .lo = part.lo - shift,
        .hi = part.hi - shift,
        .q = q_packed,
        .dout = dout_packed,
        .q_columns = nullptr,
        .dout_columns = nullptr,
        .lse = rows,
        .delta = rows + padded,
        .k = k_,
        .v = v_,
        .k_columns = args_.dq.data ? k_columns_ : nullptr,
        .dq = nullptr,
        .dk = dk_,
        .dv = dv_,
        .p = scratch_.scores.get(kBackwardQueryTile * kBackwardKeyTile),
        .ds = scratch_.gradients.get(kBackwardQueryTile * kBackwardKeyTile),
    };
    if (args_.dk.data) tile.q_columns = pack_columns(scratch_.q_columns, q, padded);
    if (args_.dv.data) tile.dout_columns = pack_columns(scratch_.dout_columns, dout, padded);
    if (args_.dq.data) tile.dq = zeros(scratch_.dq, padded * padded_dim);
    ops_.backward(tile);
    if (!args_.dq.data) return;
    const int64_t row = block.out_row + queries.begin - block.band.q.begin;
    ops_.add_strips(tile.dq, padded_dim, static_cast<float>(args_.scale), queries.size(), args_.dim,
                    static_cast<float*>(address(args_.dq, row, head)), args_.dq.row_stride,
                    scratch_.transposed.get(ops_.strip * padded_dim));
  }

  // lse in base 2 and delta. A row without keys gets lse = +inf, so that its p is exp2(-inf) = 0
  // without a branch.
  void read_statistics(int32_t head, int64_t first_row, int64_t count, int64_t padded, float* lse, float* delta) const {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < padded; ++i) {
      lse[i] = kInfinity;
      delta[i] = 0;
      if (i >= count) continue;
      const float natural = *static_cast<const float*>(address(args_.lse, first_row + i, head));
      if (natural == -kInfinity) continue;
      lse[i] = static_cast<float>(natural * kLog2E);
      delta[i] = *static_cast<const float*>(address(args_.delta, first_row + i, head));
    }
  }

  const float* pack_columns(ScratchBuffer& buffer, const RowsIn& rows, int64_t padded_rows) const {
    float* packed = buffer.get(padded_rows * round_up(rows.columns, ops_.strip));
    ops_.pack_columns(rows, ops_.strip, padded_rows, packed);
    return packed;
  }

  void add_key_gradient(const View& to, const float* sum, double factor, int64_t row, int64_t kv_head, int64_t rows,
                        int64_t columns) const {
    if (!to.data) return;
    ops_.add_panels(sum, static_cast<float>(factor), rows, columns, static_cast<float*>(address(to, row, kv_head)),
                    to.row_stride);
  }

  static float* zeros(ScratchBuffer& buffer, int64_t count) {
    float* data = buffer.get(count);
    std::fill(data, data + count, 0.0f);
    return data;
  }

  const TileOps& ops_;
  const AttendBackwardArgs& args_;
  Scratch& scratch_;
  float* k_ = nullptr;
  float* v_ = nullptr;
  float* k_columns_ = nullptr;
  float* dk_ = nullptr;
  float* dv_ = nullptr;
};

}  // namespace

void cpu_attend_backward(const TileOps& ops, const AttendBackwardArgs& args) {
  check(args);
  Backward(ops, args).run();
}

}  // namespace weft::kernels
