// attend on the CPU: key blocks are packed once and meet every query tile of every head that reads
// them.
#include "weft/kernels/checks.h"
#include "weft/kernels/cpu_kernels.h"
#include "weft/kernels/driver.h"

namespace weft::kernels {
namespace {

class Forward {
 public:
  Forward(const TileOps& ops, const AttendArgs& args)
      : ops_(ops), args_(args), scratch_(thread_scratch()), padded_v_(round_up(args.dim_v, ops.panel)) {}

  // The queries of `piece` among those of the block, for all heads that read one kv head.
  void run(const HeadGroup& group, const Block& block, Range piece) {
    const auto run_or_go_row_by_row = [&](int32_t head, const BandRectangle& tile) {
      if (values_finite_ || !has_edge(tile)) return run_tile(head, block, tile);
      run_rows(group.kv_head, head, block, tile);
      pack_keys(group.kv_head, tile.k);
    };
    for_each_tile(
        group, shrink(cut(block.band, piece, block.band.k)), {kForwardKeyBlock, kForwardQueryTile}, args_.stop,
        [&](Range keys) { pack_keys(group.kv_head, keys); }, run_or_go_row_by_row, [](Range) {});
  }

 private:
  // Each query alone with the keys that it sees: where a value is not a number, the weight 0 of a key that is not seen
  // would not keep it out of the sum.
  void run_rows(int64_t kv_head, int32_t head, const Block& block, const BandRectangle& tile) {
    for (int64_t query = tile.q.begin; query < tile.q.end; ++query) {
      const BandRectangle row = shrink(cut(tile, {query, query + 1}, tile.k));
      if (row.q.empty()) continue;
      pack_keys(kv_head, row.k);
      run_tile(head, block, row);
    }
  }

  void pack_keys(int64_t kv_head, Range keys) {
    const int64_t padded_keys = round_up(keys.size(), ops_.panel);
    k_ = scratch_.k.get(padded_keys * args_.dim);
    v_ = scratch_.v.get(keys.size() * padded_v_);
    ops_.pack_rows(rows_of(args_.k, keys, kv_head, args_.dim), ops_.panel, 1, k_);
    for (int64_t key = keys.begin; key < keys.end; key += kForwardKeyTile) {
      const Range tile = intersect(keys, {key, key + kForwardKeyTile});
      ops_.pack_columns(rows_of(args_.v, tile, kv_head, args_.dim_v), ops_.panel, tile.size(),
                        v_ + (key - keys.begin) * padded_v_);
    }
    values_finite_ = ops_.all_finite(v_, keys.size() * padded_v_);
  }

  void run_tile(int32_t head, const Block& block, const BandRectangle& part) {
    const Range queries = part.q;
    const int64_t padded = round_up(queries.size(), ops_.strip), shift = part.k.begin - queries.begin;
    float* q = scratch_.q.get(padded * args_.dim);
    float* state = scratch_.state.get(2 * padded);
    ops_.pack_rows(rows_of(args_.q, queries, head, args_.dim), ops_.strip, static_cast<float>(args_.scale * kLog2E), q);
    const ForwardTile tile = {
        .queries = queries.size(),
        .keys = part.k.size(),
        .dim = args_.dim,
        .dim_v = args_.dim_v,
        .lo = part.lo - shift,
        .hi = part.hi - shift,
        .q = q,
        .k = k_,
        .v = v_,
        .maximum = state,
        .sum = state + padded,
        .o = scratch_.o.get(padded * padded_v_),
        .scores = scratch_.scores.get((kForwardKeyTile + ops_.panel) * ops_.strip),
    };
    ops_.forward(tile);
    const int64_t row = block.out_row + queries.begin - block.band.q.begin;
    ops_.finish_forward(tile, {.o = static_cast<float*>(address(args_.o, row, head)),
                               .o_stride = args_.o.row_stride,
                               .lse = static_cast<float*>(address(args_.lse, row, head)),
                               .lse_stride = args_.lse.row_stride,
                               .scratch = scratch_.transposed.get(ops_.strip * padded_v_)});
  }

  const TileOps& ops_;
  const AttendArgs& args_;
  Scratch& scratch_;
  const int64_t padded_v_;
  float* k_ = nullptr;
  float* v_ = nullptr;
  bool values_finite_ = true;
};

}  // namespace

void cpu_attend_in_tiles(const TileOps& ops, const AttendArgs& args, const HeadGroup& group, const Block& block,
                         Range queries) {
  Forward(ops, args).run(group, block, queries);
}

void cpu_attend(const TileOps& ops, const AttendArgs& args) {
  check(args);
  attend_blocks(ops, args, ops.short_forward, kForwardQueryBlock,
                [&](const HeadGroup& group, const Block& block, Range queries) {
                  cpu_attend_in_tiles(ops, args, group, block, queries);
                });
}

}  // namespace weft::kernels
