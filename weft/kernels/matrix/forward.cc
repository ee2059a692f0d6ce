// attend on a matrix unit: key blocks are packed once and meet every query tile of every head that reads them.
#include "weft/kernels/checks.h"
#include "weft/kernels/driver.h"
#include "weft/kernels/matrix/driver.h"

namespace weft::kernels {
namespace {

class MatrixForward {
 public:
  MatrixForward(const MatrixOps& matrix, const TileOps& ops, const AttendArgs& args)
      : matrix_(matrix), ops_(ops), args_(args), scratch_(thread_scratch()) {}

  // The queries of `piece` among those of the block, for all heads that read one kv head.
  void run(const HeadGroup& group, const Block& block, Range piece) {
    const auto run_here_or_in_fp32 = [&](int32_t head, const BandRectangle& tile) {
      if (values_finite_ || !has_edge(tile)) return run_tile(head, block, tile);
      attend_in_fp32(group.kv_head, head, block, tile);
    };
    for_each_tile(
        group, shrink(cut(block.band, piece, block.band.k)), {kMatrixForwardKeyBlock, kMatrixForwardQueryTile},
        args_.stop, [&](Range keys) { pack_keys(group.kv_head, keys); }, run_here_or_in_fp32, [](Range) {});
  }

 private:
  // The fp32 path knows what to do where a value is not a number and some pairs do not count. Its working memory is that
  // of this thread, too: keys are packed again after.
  void attend_in_fp32(int64_t kv_head, int32_t head, const Block& block, const BandRectangle& tile) {
    const Block part = part_of(block, tile);
    AttendArgs args = args_;
    args.q.data = address(args_.q, 0, head);
    args.o.data = address(args_.o, 0, head);
    args.lse.data = address(args_.lse, 0, head);
    args.heads = 1;
    args.kv_head = args_.kv_head.subspan(static_cast<size_t>(head), 1);
    args.blocks = {&part, 1};
    args.pool = nullptr;
    cpu_attend(ops_, args);
    pack_keys(kv_head, tile.k);
  }

  void pack_keys(int64_t kv_head, Range keys) {
    const int64_t padded_v = round_up(args_.dim_v, kMatrixBlock);
    k_ = packed(scratch_.k, keys.size(), args_.dim);
    v_ = packed(scratch_.v, keys.size(), args_.dim_v);
    matrix_.pack_rows(matrix_rows_of(args_.k, keys, kv_head, args_.dim), k_);
    for (int64_t key = keys.begin; key < keys.end; key += kMatrixForwardKeyTile) {
      const Range tile = intersect(keys, {key, key + kMatrixForwardKeyTile});
      matrix_.pack_columns(matrix_rows_of(args_.v, tile, kv_head, args_.dim_v), v_ + (key - keys.begin) * padded_v);
    }
    values_finite_ = matrix_.all_finite(v_, round_up(keys.size(), kMatrixBlock) * padded_v);
  }

  void run_tile(int32_t head, const Block& block, const BandRectangle& part) {
    const Range queries = part.q;
    const int64_t padded = round_up(queries.size(), kMatrixBlock), padded_v = round_up(args_.dim_v, kMatrixBlock);
    const int64_t shift = part.k.begin - queries.begin;
    uint16_t* q = packed(scratch_.q, queries.size(), args_.dim);
    float* state = scratch_.state.get(2 * padded);
    matrix_.pack_rows_pairs(matrix_rows_of(args_.q, queries, head, args_.dim), q);
    float* const o = scratch_.o.get(padded * padded_v);
    matrix_.forward({
        .queries = queries.size(),
        .keys = part.k.size(),
        .dim = args_.dim,
        .dim_v = args_.dim_v,
        .lo = part.lo - shift,
        .hi = part.hi - shift,
        .factor = static_cast<float>(args_.scale * kLog2E),
        .q = q,
        .k = k_,
        .v = v_,
        .maximum = state,
        .sum = state + padded,
        .o = o,
        .weights = halves(scratch_.gradients, kMatrixForwardQueryTile * kMatrixForwardKeyTile),
        .scores = scratch_.scores.get(kMatrixBlock * kMatrixForwardKeyTile),
    });
    finish(head, block.out_row + queries.begin - block.band.q.begin, queries.size(), state, state + padded, o);
  }

  // Merges the tile's state into the accumulators.
  void finish(int32_t head, int64_t row, int64_t queries, const float* maximum, const float* sum, const float* o) {
    const int64_t padded_v = round_up(args_.dim_v, kMatrixBlock);
    float* const rows = scratch_.transposed.get(kMatrixBlock * padded_v);
    for (int64_t query = 0; query < queries; ++query) {
      const int64_t lane = query % kMatrixBlock;
      if (lane == 0) ops_.rows_of_strip(o + query * padded_v, padded_v, rows, padded_v);
      ops_.merge_row(static_cast<float*>(address(args_.o, row + query, head)),
                     static_cast<float*>(address(args_.lse, row + query, head)), rows + lane * padded_v, maximum[query],
                     sum[query], args_.dim_v);
    }
  }

  const MatrixOps& matrix_;
  const TileOps& ops_;
  const AttendArgs& args_;
  Scratch& scratch_;
  uint16_t* k_ = nullptr;
  uint16_t* v_ = nullptr;
  bool values_finite_ = true;
};

}  // namespace

void matrix_attend(const MatrixOps& matrix, const TileOps& ops, const AttendArgs& args) {
  if (args.scale <= 0) return cpu_attend(ops, args);
  check(args);
  attend_blocks(ops, args, kMatrixShort, kMatrixQueryBlock,
                [&](const HeadGroup& group, const Block& block, Range queries) {
                  MatrixForward(matrix, ops, args).run(group, block, queries);
                });
}

}  // namespace weft::kernels
