// attend_backward on a matrix unit: dK and dV of one packed key block are summed over all query tiles and all heads that
// read it, and written once; dQ is added to per (query tile, key block).
#include "weft/kernels/checks.h"
#include "weft/kernels/driver.h"
#include "weft/kernels/matrix/driver.h"

namespace weft::kernels {
namespace {

class MatrixBackward {
 public:
  MatrixBackward(const MatrixOps& matrix, const TileOps& ops, const AttendBackwardArgs& args)
      : matrix_(matrix), ops_(ops), args_(args), scratch_(thread_scratch()) {}

  // For all heads that read one kv head.
  void run(const HeadGroup& group, const Block& block) {
    const auto run_here_or_in_fp32 = [&](int32_t head, const BandRectangle& tile) {
      const bool finite = pack_queries(head, block, tile.q) && keys_finite_;
      if (finite || !has_edge(tile)) return run_tile(head, block, tile);
      attend_in_fp32(group.kv_head, head, block, tile);
    };
    for_each_tile(
        group, shrink(block.band), {kMatrixBackwardKeyBlock, kMatrixBackwardQueryTile}, args_.stop,
        [&](Range keys) { pack_keys(group.kv_head, keys); }, run_here_or_in_fp32,
        [&](Range keys) { add_key_gradients(group.kv_head, block, keys); });
  }

 private:
  // The fp32 path knows what to do where something is not a number and some pairs do not count. Its working memory is that
  // of this thread, too: what is summed here is written before, and keys are packed again after.
  void attend_in_fp32(int64_t kv_head, int32_t head, const Block& block, const BandRectangle& tile) {
    add_key_gradients(kv_head, block, tile.k);
    const Block part = part_of(block, tile);
    AttendBackwardArgs args = args_;
    args.q.data = address(args_.q, 0, head);
    args.dout.data = address(args_.dout, 0, head);
    args.lse.data = address(args_.lse, 0, head);
    args.delta.data = address(args_.delta, 0, head);
    if (args.dq.data) args.dq.data = address(args_.dq, 0, head);
    args.heads = 1;
    args.kv_head = args_.kv_head.subspan(static_cast<size_t>(head), 1);
    args.blocks = {&part, 1};
    args.pool = nullptr;
    cpu_attend_backward(ops_, args);
    pack_keys(kv_head, tile.k);
  }

  void pack_keys(int64_t kv_head, Range keys) {
    const MatrixRows k = matrix_rows_of(args_.k, keys, kv_head, args_.dim);
    const MatrixRows v = matrix_rows_of(args_.v, keys, kv_head, args_.dim_v);
    const int64_t padded = round_up(keys.size(), kMatrixBlock);
    const int64_t padded_dim = round_up(args_.dim, kMatrixBlock), padded_v = round_up(args_.dim_v, kMatrixBlock);
    k_ = packed(scratch_.k, keys.size(), args_.dim);
    v_ = packed(scratch_.v, keys.size(), args_.dim_v);
    matrix_.pack_rows(k, k_);
    matrix_.pack_rows(v, v_);
    keys_finite_ = matrix_.all_finite(k_, padded * padded_dim) && matrix_.all_finite(v_, padded * padded_v);
    if (args_.dq.data) {
      k_columns_ = packed(scratch_.k_columns, keys.size(), args_.dim);
      matrix_.pack_columns(k, k_columns_);
    }
    if (args_.dk.data) dk_ = zeros(scratch_.dk, padded * padded_dim);
    if (args_.dv.data) dv_ = zeros(scratch_.dv, padded * padded_v);
  }

  // False if anything in it is not finite.
  bool pack_queries(int32_t head, const Block& block, Range queries) {
    const int64_t count = queries.size(), padded = round_up(count, kMatrixBlock);
    const int64_t bundle_row = block.bundle_row + queries.begin - block.band.q.begin;
    const MatrixRows q = matrix_rows_of(args_.q, queries, head, args_.dim);
    const MatrixRows dout = matrix_rows_of(args_.dout, {bundle_row, bundle_row + count}, head, args_.dim_v);
    lse_ = scratch_.rows.get(2 * padded);
    delta_ = lse_ + padded;
    read_statistics(args_, head, bundle_row, count, padded, lse_, delta_);
    q_ = packed(scratch_.q, count, args_.dim);
    dout_ = packed(scratch_.dout, count, args_.dim_v);
    matrix_.pack_rows_pairs(q, q_);
    matrix_.pack_rows_pairs(dout, dout_);
    q_columns_ = args_.dk.data ? pack_columns_pairs(scratch_.q_columns, q) : nullptr;
    dout_columns_ = args_.dv.data ? pack_columns_pairs(scratch_.dout_columns, dout) : nullptr;
    return matrix_.all_finite(q_, padded * round_up(args_.dim, kMatrixBlock)) &&
           matrix_.all_finite(dout_, padded * round_up(args_.dim_v, kMatrixBlock)) && ops_.all_finite(delta_, padded);
  }

  const uint16_t* pack_columns_pairs(ScratchBuffer& buffer, const MatrixRows& rows) const {
    uint16_t* to = packed(buffer, rows.rows, rows.columns);
    matrix_.pack_columns_pairs(rows, to);
    return to;
  }

  // The packed queries with the packed keys.
  void run_tile(int32_t head, const Block& block, const BandRectangle& part) {
    const Range queries = part.q;
    const int64_t padded = round_up(queries.size(), kMatrixBlock), padded_dim = round_up(args_.dim, kMatrixBlock);
    const int64_t shift = part.k.begin - queries.begin;
    constexpr int64_t kPairs = kMatrixBackwardQueryTile * kMatrixBackwardKeyTile;
    uint16_t* const work = halves(scratch_.gradients, 3 * kPairs);
    float* const dq = args_.dq.data ? zeros(scratch_.dq, padded * padded_dim) : nullptr;
    matrix_.backward({
        .queries = queries.size(),
        .keys = part.k.size(),
        .dim = args_.dim,
        .dim_v = args_.dim_v,
        .lo = part.lo - shift,
        .hi = part.hi - shift,
        .factor = static_cast<float>(args_.scale * kLog2E),
        .q = q_,
        .dout = dout_,
        .q_columns = q_columns_,
        .dout_columns = dout_columns_,
        .lse = lse_,
        .delta = delta_,
        .k = k_,
        .v = v_,
        .k_columns = args_.dq.data ? k_columns_ : nullptr,
        .dq = dq,
        .dk = dk_,
        .dv = dv_,
        .p = work,
        .ds = work + kPairs,
        .ds_pairs = work + 2 * kPairs,
    });
    if (!dq) return;
    const int64_t row = block.out_row + queries.begin - block.band.q.begin;
    ops_.add_strips(dq, padded_dim, static_cast<float>(args_.scale), queries.size(), args_.dim,
                    static_cast<float*>(address(args_.dq, row, head)), args_.dq.row_stride,
                    scratch_.transposed.get(kMatrixBlock * padded_dim));
  }

  void add_key_gradients(int64_t kv_head, const Block& block, Range keys) const {
    const int64_t row = block.kv_grad_row + keys.begin - block.band.k.begin;
    add_key_gradient(args_.dk, dk_, args_.scale, row, kv_head, keys.size(), args_.dim);
    add_key_gradient(args_.dv, dv_, 1, row, kv_head, keys.size(), args_.dim_v);
  }
  void add_key_gradient(const View& to, const float* sum, double factor, int64_t row, int64_t kv_head, int64_t rows,
                        int64_t columns) const {
    if (!to.data) return;
    const int64_t padded = round_up(columns, kMatrixBlock);
    for (int64_t r = 0; r < rows; ++r) {
      ops_.add_row(static_cast<float*>(address(to, row + r, kv_head)), sum + r * padded, static_cast<float>(factor),
                   columns);
    }
  }

  const MatrixOps& matrix_;
  const TileOps& ops_;
  const AttendBackwardArgs& args_;
  Scratch& scratch_;
  // Packed keys, and the sums of their gradients.
  uint16_t *k_ = nullptr, *v_ = nullptr, *k_columns_ = nullptr;
  float *dk_ = nullptr, *dv_ = nullptr;
  bool keys_finite_ = true;
  // Packed queries.
  uint16_t *q_ = nullptr, *dout_ = nullptr;
  const uint16_t *q_columns_ = nullptr, *dout_columns_ = nullptr;
  float *lse_ = nullptr, *delta_ = nullptr;
};

}  // namespace

void matrix_attend_backward(const MatrixOps& matrix, const TileOps& ops, const AttendBackwardArgs& args) {
  if (args.scale <= 0) return cpu_attend_backward(ops, args);
  check(args);
  const std::vector<HeadGroup> all = group_heads(args.kv_head);
  for_each_group(args.pool, all, args.blocks, [&](std::span<const HeadGroup> groups, const Block& block) {
    if (is_short(block, kMatrixShort)) return cpu_attend_backward_short(ops, args, groups, block);
    for (const HeadGroup& group : groups) MatrixBackward(matrix, ops, args).run(group, block);
  });
}

}  // namespace weft::kernels
