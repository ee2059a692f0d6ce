// attend on the CPU: key blocks are packed once and meet every query tile of every head that reads
// them.
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

class Forward {
 public:
  Forward(const TileOps& ops, const AttendArgs& args)
      : ops_(ops), args_(args), scratch_(thread_scratch()), padded_v_(round_up(args.dim_v, ops.panel)) {}

  void run() {
    for (const HeadGroup& group : group_heads(args_.kv_head)) {
      for (const Block& block : args_.blocks) run_block(group, block);
    }
  }

 private:
  void run_block(const HeadGroup& group, const Block& block) {
    const BandRectangle band = shrink(block.band);
    for (int64_t key = band.k.begin; key < band.k.end; key += kForwardKeyBlock) {
      const BandRectangle part = shrink(cut(band, band.q, {key, key + kForwardKeyBlock}));
      if (part.q.empty()) continue;
      pack_keys(group.kv_head, part.k);
      for (int32_t head : group.heads) {
        for (int64_t query = part.q.begin; query < part.q.end; query += kForwardQueryTile) {
          const Range queries = intersect(part.q, {query, query + kForwardQueryTile});
          if (args_.stop) args_.stop->poll();
          run_tile(head, block, part, queries);
        }
      }
    }
  }

  void pack_keys(int64_t kv_head, Range keys) {
    const int64_t padded_keys = round_up(keys.size(), ops_.panel);
    k_ = scratch_.k.get(padded_keys * args_.dim);
    v_ = scratch_.v.get(keys.size() * padded_v_);
    ops_.pack_rows(rows_of(args_.k, keys, kv_head, args_.dim), ops_.panel, 1, k_);
    ops_.pack_columns(rows_of(args_.v, keys, kv_head, args_.dim_v), ops_.panel, keys.size(), v_);
  }

  void run_tile(int32_t head, const Block& block, const BandRectangle& part, Range queries) {
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
};

}  // namespace

void cpu_attend(const TileOps& ops, const AttendArgs& args) {
  check(args);
  Forward(ops, args).run();
}

}  // namespace weft::kernels
