// attend_backward on the CPU: dK and dV of one packed key block are summed over all query tiles and
// all heads that read it, and written once; dQ is added to per (query tile, key block).
#include <algorithm>
#include <limits>

#include "weft/kernels/checks.h"
#include "weft/kernels/cpu_kernels.h"
#include "weft/kernels/driver.h"

namespace weft::kernels {
namespace {

class Backward {
 public:
  Backward(const TileOps& ops, const AttendBackwardArgs& args) : ops_(ops), args_(args), scratch_(thread_scratch()) {}

  // For all heads that read one kv head.
  void run(const HeadGroup& group, const Block& block) {
    const auto run_or_go_row_by_row = [&](int32_t head, const BandRectangle& tile) {
      const bool finite = pack_queries(head, block, tile.q) && keys_finite_;
      if (finite || !has_edge(tile)) return run_tile(head, block, tile);
      add_key_gradients(group.kv_head, block, tile.k);
      run_rows(group.kv_head, head, block, tile);
      pack_keys(group.kv_head, tile.k);
    };
    for_each_tile(
        group, shrink(block.band), {kBackwardKeyBlock, kBackwardQueryTile}, args_.stop,
        [&](Range keys) { pack_keys(group.kv_head, keys); }, run_or_go_row_by_row,
        [&](Range keys) { add_key_gradients(group.kv_head, block, keys); });
  }

 private:
  // Each query alone with the keys that it sees: the gradient 0 of a pair that does not count, times what is not a
  // number, would not be 0.
  void run_rows(int64_t kv_head, int32_t head, const Block& block, const BandRectangle& tile) {
    for (int64_t query = tile.q.begin; query < tile.q.end; ++query) {
      const BandRectangle row = shrink(cut(tile, {query, query + 1}, tile.k));
      if (row.q.empty()) continue;
      pack_keys(kv_head, row.k);
      pack_queries(head, block, row.q);
      run_tile(head, block, row);
      add_key_gradients(kv_head, block, row.k);
    }
  }

  void pack_keys(int64_t kv_head, Range keys) {
    const RowsIn k = rows_of(args_.k, keys, kv_head, args_.dim), v = rows_of(args_.v, keys, kv_head, args_.dim_v);
    const int64_t padded = round_up(keys.size(), ops_.panel);
    k_ = scratch_.k.get(padded * args_.dim);
    v_ = scratch_.v.get(padded * args_.dim_v);
    ops_.pack_rows(k, ops_.panel, 1, k_);
    ops_.pack_rows(v, ops_.panel, 1, v_);
    keys_finite_ = ops_.all_finite(k_, padded * args_.dim) && ops_.all_finite(v_, padded * args_.dim_v);
    if (args_.dq.data) {
      k_columns_ = scratch_.k_columns.get(keys.size() * round_up(args_.dim, ops_.panel));
      ops_.pack_columns(k, ops_.panel, keys.size(), k_columns_);
    }
    if (args_.dk.data) dk_ = zeros(scratch_.dk, padded * round_up(args_.dim, ops_.strip));
    if (args_.dv.data) dv_ = zeros(scratch_.dv, padded * round_up(args_.dim_v, ops_.strip));
  }

  // False if anything in it is not finite.
  bool pack_queries(int32_t head, const Block& block, Range queries) {
    const int64_t count = queries.size(), padded = round_up(count, ops_.strip);
    const int64_t bundle_row = block.bundle_row + queries.begin - block.band.q.begin;
    const RowsIn q = rows_of(args_.q, queries, head, args_.dim);
    const RowsIn dout = rows_of(args_.dout, {bundle_row, bundle_row + count}, head, args_.dim_v);
    lse_ = scratch_.rows.get(2 * padded);
    delta_ = lse_ + padded;
    read_statistics(args_, head, bundle_row, count, padded, lse_, delta_);
    q_ = scratch_.q.get(padded * args_.dim);
    dout_ = scratch_.dout.get(padded * args_.dim_v);
    ops_.pack_rows(q, ops_.strip, static_cast<float>(args_.scale * kLog2E), q_);
    ops_.pack_rows(dout, ops_.strip, 1, dout_);
    q_columns_ = args_.dk.data ? pack_columns(scratch_.q_columns, q, padded) : nullptr;
    dout_columns_ = args_.dv.data ? pack_columns(scratch_.dout_columns, dout, padded) : nullptr;
    return ops_.all_finite(q_, padded * args_.dim) && ops_.all_finite(dout_, padded * args_.dim_v) &&
           ops_.all_finite(delta_, padded);
  }

  // The packed queries with the packed keys.
  void run_tile(int32_t head, const Block& block, const BandRectangle& part) {
    const Range queries = part.q;
    const int64_t padded = round_up(queries.size(), ops_.strip), padded_dim = round_up(args_.dim, ops_.panel);
    const int64_t shift = part.k.begin - queries.begin;
    const BackwardTile tile = {
        .queries = queries.size(),
        .keys = part.k.size(),
        .dim = args_.dim,
        .dim_v = args_.dim_v,
        .lo = part.lo - shift,
        .hi = part.hi - shift,
        .q = q_,
        .dout = dout_,
        .q_columns = q_columns_,
        .dout_columns = dout_columns_,
        .lse = lse_,
        .delta = delta_,
        .k = k_,
        .v = v_,
        .k_columns = args_.dq.data ? k_columns_ : nullptr,
        .dq = args_.dq.data ? zeros(scratch_.dq, padded * padded_dim) : nullptr,
        .dk = dk_,
        .dv = dv_,
        .p = scratch_.scores.get(kBackwardQueryTile * kBackwardKeyTile),
        .ds = scratch_.gradients.get(kBackwardQueryTile * kBackwardKeyTile),
    };
    ops_.backward(tile);
    if (!args_.dq.data) return;
    const int64_t row = block.out_row + queries.begin - block.band.q.begin;
    ops_.add_strips(tile.dq, padded_dim, static_cast<float>(args_.scale), queries.size(), args_.dim,
                    static_cast<float*>(address(args_.dq, row, head)), args_.dq.row_stride,
                    scratch_.transposed.get(ops_.strip * padded_dim));
  }

  const float* pack_columns(ScratchBuffer& buffer, const RowsIn& rows, int64_t padded_rows) const {
    float* packed = buffer.get(padded_rows * round_up(rows.columns, ops_.strip));
    ops_.pack_columns(rows, ops_.strip, padded_rows, packed);
    return packed;
  }

  void add_key_gradients(int64_t kv_head, const Block& block, Range keys) const {
    const int64_t row = block.kv_grad_row + keys.begin - block.band.k.begin;
    add_key_gradient(args_.dk, dk_, args_.scale, row, kv_head, keys.size(), args_.dim);
    add_key_gradient(args_.dv, dv_, 1, row, kv_head, keys.size(), args_.dim_v);
  }
  void add_key_gradient(const View& to, const float* sum, double factor, int64_t row, int64_t kv_head, int64_t rows,
                        int64_t columns) const {
    if (!to.data) return;
    ops_.add_panels(sum, static_cast<float>(factor), rows, columns, static_cast<float*>(address(to, row, kv_head)),
                    to.row_stride);
  }

  const TileOps& ops_;
  const AttendBackwardArgs& args_;
  Scratch& scratch_;
  // Packed keys, and the sums of their gradients.
  float *k_ = nullptr, *v_ = nullptr, *k_columns_ = nullptr;
  float *dk_ = nullptr, *dv_ = nullptr;
  bool keys_finite_ = true;
  // Packed queries.
  float *q_ = nullptr, *dout_ = nullptr, *lse_ = nullptr, *delta_ = nullptr;
  const float *q_columns_ = nullptr, *dout_columns_ = nullptr;
};

}  // namespace

void cpu_attend_backward_in_tiles(const TileOps& ops, const AttendBackwardArgs& args, const HeadGroup& group,
                                  const Block& block) {
  Backward(ops, args).run(group, block);
}

void cpu_attend_backward(const TileOps& ops, const AttendBackwardArgs& args) {
  check(args);
  const std::vector<HeadGroup> all = group_heads(args.kv_head);
  for_each_group(args.pool, all, args.blocks, [&](std::span<const HeadGroup> groups, const Block& block) {
    if (is_short(block, ops.short_backward)) return cpu_attend_backward_short(ops, args, groups, block);
    for (const HeadGroup& group : groups) cpu_attend_backward_in_tiles(ops, args, group, block);
  });
}

}  // namespace weft::kernels
