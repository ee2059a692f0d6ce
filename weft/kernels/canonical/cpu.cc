// Canonical attend and attend_backward with the tile arithmetic of a CPU path.
//
// Why a row's tile does not depend on the other rows in the call: a query is a lane of its own; every score is one chain of
// multiply-adds over the columns; the sums over the keys of a tile (and over its queries, for dk and dv) are one chain in
// ascending order that starts from zero, and what a row must not see adds an exact zero to it. A tile is one pass of the
// kernel, so no running maximum carries over. The exception is a zero weight times an infinity or NaN: results that are not
// finite are computed again with the row (the key) alone, against what it sees and nothing else.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "weft/kernels/canonical/canonical.h"
#include "weft/kernels/checks.h"
#include "weft/kernels/driver.h"

namespace weft::kernels {
namespace {

constexpr int64_t kCanonicalQueryTile = 128;  // queries whose sums stay in the second-level cache

// ops.add_exactly, also for numbers that are not `finite`.
void add_sums(const TileOps& ops, const float* from, bool finite, double factor, int64_t bins, int64_t* sums,
              int64_t n) {
  if (finite) return ops.add_exactly(from, factor, bins, sums, n);
  for (int64_t i = 0; i < n; ++i) add_one_exactly(from[i] * factor, bins, sums + i, n);
}

// ---- forward

// Many tiles of keys are packed at once, and each few queries meet all of them in turn, so that their sums, which are large,
// stay in the cache.
class CanonicalForward {
 public:
  CanonicalForward(const TileOps& ops, const AttendArgs& args)
      : ops_(ops), args_(args), scratch_(thread_scratch()), padded_v_(round_up(args.dim_v, ops.panel)) {}

  void run() {
    for (const HeadGroup& group : group_heads(args_.kv_head)) {
      for (const Block& block : args_.blocks) {
        const BandRectangle band = shrink(block.band);
        for_each_tile(band.k, block.k_position + band.k.begin - block.band.k.begin, args_.tile, [&](Range keys) {
          tiles_.push_back({keys});
          if (keys.end - tiles_.front().keys.begin >= kForwardKeyBlock) run_tiles(group, block, band);
        });
        if (!tiles_.empty()) run_tiles(group, block, band);
      }
    }
  }

 private:
  struct Tile {
    Range keys;
    const float *k = nullptr, *v = nullptr;  // packed
  };
  struct Row {
    int32_t head;
    int64_t query;
    Range keys;
  };

  // tiles_ against all queries of the band, and no more of them.
  void run_tiles(const HeadGroup& group, const Block& block, const BandRectangle& band) {
    pack_keys(group.kv_head);
    const Range seeing = shrink(cut(band, band.q, {tiles_.front().keys.begin, tiles_.back().keys.end})).q;
    for (int32_t head : group.heads) {
      for (int64_t query = seeing.begin; query < seeing.end; query += kCanonicalQueryTile) {
        run_queries(head, block, cut(band, intersect(seeing, {query, query + kCanonicalQueryTile}), band.k), false);
      }
    }
    for (const Row& row : std::exchange(again_, {})) {
      const BandRectangle alone = shrink(cut(band, {row.query, row.query + 1}, row.keys));
      tiles_ = {{alone.k}};
      pack_keys(group.kv_head);
      run_queries(row.head, block, alone, true);
    }
    tiles_.clear();
  }

  void pack_keys(int64_t kv_head) {
    int64_t keys = 0, padded = 0;
    for (const Tile& tile : tiles_) keys += tile.keys.size(), padded += round_up(tile.keys.size(), ops_.panel);
    float* k = scratch_.k.get(padded * args_.dim);
    float* v = scratch_.v.get(keys * padded_v_);
    for (Tile& tile : tiles_) {
      ops_.pack_rows(rows_of(args_.k, tile.keys, kv_head, args_.dim), ops_.panel, 1, k);
      ops_.pack_columns(rows_of(args_.v, tile.keys, kv_head, args_.dim_v), ops_.panel, tile.keys.size(), v);
      tile.k = k, tile.v = v;
      k += round_up(tile.keys.size(), ops_.panel) * args_.dim;
      v += tile.keys.size() * padded_v_;
    }
  }

  void run_queries(int32_t head, const Block& block, const BandRectangle& band, bool alone) {
    const Range queries = band.q;
    const int64_t padded = round_up(queries.size(), ops_.strip);
    float* q = scratch_.q.get(padded * args_.dim);
    ops_.pack_rows(rows_of(args_.q, queries, head, args_.dim), ops_.strip, static_cast<float>(args_.scale * kLog2E), q);
    float* state = scratch_.state.get(2 * padded);
    float* rows = scratch_.transposed.get(ops_.strip * padded_v_);
    for (const Tile& keys : tiles_) {
      if (shrink(cut(band, queries, keys.keys)).q.empty()) continue;
      if (args_.stop) args_.stop->poll();
      const int64_t shift = keys.keys.begin - queries.begin;
      const ForwardTile tile = {
          .queries = queries.size(),
          .keys = keys.keys.size(),
          .dim = args_.dim,
          .dim_v = args_.dim_v,
          .lo = band.lo - shift,
          .hi = band.hi - shift,
          .q = q,
          .k = keys.k,
          .v = keys.v,
          .maximum = state,
          .sum = state + padded,
          .o = scratch_.o.get(padded * padded_v_),
          .scores = scratch_.scores.get((kForwardKeyTile + ops_.panel) * ops_.strip),
      };
      ops_.forward(tile);
      for (int64_t i = 0; i < queries.size(); ++i) {
        const int64_t lane = i % ops_.strip;
        if (lane == 0) ops_.rows_of_strip(tile.o + i * padded_v_, padded_v_, rows, padded_v_);
        const Row row{head, queries.begin + i, keys.keys};
        add_row(row, block, tile.maximum[i], tile.sum[i], rows + lane * padded_v_, alone);
      }
    }
  }

  // Adds a row's tile: e^maximum (in base 2) times o and sum.
  void add_row(const Row& at, const Block& block, float maximum, float sum, const float* o, bool alone) {
    if (sum == 0) return;  // no key; else the largest term alone is 1
    const bool finite_scores = std::isfinite(maximum) && std::isfinite(sum);
    const bool finite = ops_.all_finite(o, args_.dim_v);
    if (!alone && !(finite_scores && finite)) return again_.push_back(at);
    const int64_t row = block.out_row + at.query - block.band.q.begin;
    int64_t *to = words_at(args_.o, row, at.head), *expsum = words_at(args_.lse, row, at.head);
    if (!finite_scores) return add_nan(to, expsum, args_.o.type, args_.dim_v);
    const TileWeight weight = weight_of(maximum);
    const int64_t down = raise_reference(to, expsum, args_.o.type, args_.dim_v, weight.reference);
    add_sums(ops_, o, finite, weight.factor, down, to, args_.dim_v);
    ops_.add_exactly(&sum, weight.factor, down, expsum + 1, 1);
  }

  const TileOps& ops_;
  const AttendArgs& args_;
  Scratch& scratch_;
  const int64_t padded_v_;
  std::vector<Tile> tiles_;
  std::vector<Row> again_;
};

// ---- backward

class CanonicalBackward {
 public:
  CanonicalBackward(const TileOps& ops, const AttendBackwardArgs& args)
      : ops_(ops), args_(args), scratch_(thread_scratch()) {}

  void run() {
    for (const HeadGroup& group : group_heads(args_.kv_head)) {
      for (const Block& block : args_.blocks) run_block(group, block);
    }
  }

 private:
  // What is taken from a tile, and whether it is taken as it is.
  struct Take {
    bool dq, dkv, alone;
  };

  void run_block(const HeadGroup& group, const Block& block) {
    const BandRectangle& band = block.band;
    for_each_tile(band.k, block.k_position, args_.tile, [&](Range keys) {
      const BandRectangle part = shrink(cut(band, band.q, keys));
      if (part.q.empty()) return;
      pack_keys(group.kv_head, part.k);
      for_each_tile(part.q, block.q_position + part.q.begin - band.q.begin, args_.tile, [&](Range queries) {
        const BandRectangle tile = cut(part, queries, part.k);
        for (int32_t head : group.heads) {
          if (args_.stop) args_.stop->poll();
          run_tile(head, block, tile, {.dq = true, .dkv = true, .alone = false});
          if (rows_again_.empty() && keys_again_.empty()) continue;
          run_again(head, block, tile);
          pack_keys(group.kv_head, part.k);
        }
      });
    });
  }

  void run_again(int32_t head, const Block& block, const BandRectangle& tile) {
    const auto run_part = [&](Range queries, Range keys, const Take& take) {
      const BandRectangle part = shrink(cut(tile, queries, keys));
      if (part.q.empty()) return;  // sees nothing: what is not finite there is not its own
      pack_keys(args_.kv_head[static_cast<size_t>(head)], part.k);
      run_tile(head, block, part, take);
    };
    for (int64_t q : rows_again_) run_part({q, q + 1}, tile.k, {.dq = true, .dkv = false, .alone = true});
    for (int64_t k : keys_again_) run_part(tile.q, {k, k + 1}, {.dq = false, .dkv = true, .alone = true});
    rows_again_.clear();
    keys_again_.clear();
  }

  void pack_keys(int64_t kv_head, Range keys) {
    const RowsIn k = rows_of(args_.k, keys, kv_head, args_.dim), v = rows_of(args_.v, keys, kv_head, args_.dim_v);
    const int64_t padded = round_up(keys.size(), ops_.panel);
    k_ = scratch_.k.get(padded * args_.dim);
    v_ = scratch_.v.get(padded * args_.dim_v);
    ops_.pack_rows(k, ops_.panel, 1, k_);
    ops_.pack_rows(v, ops_.panel, 1, v_);
    if (!args_.dq.data) return;
    k_columns_ = scratch_.k_columns.get(keys.size() * round_up(args_.dim, ops_.panel));
    ops_.pack_columns(k, ops_.panel, keys.size(), k_columns_);
  }

  void run_tile(int32_t head, const Block& block, const BandRectangle& part, const Take& take) {
    const int64_t padded = round_up(part.q.size(), ops_.strip), shift = part.k.begin - part.q.begin;
    const int64_t padded_keys = round_up(part.k.size(), ops_.panel), padded_dim = round_up(args_.dim, ops_.panel);
    const int64_t bundle_row = block.bundle_row + part.q.begin - block.band.q.begin;
    const RowsIn q = rows_of(args_.q, part.q, head, args_.dim);
    const RowsIn dout = rows_of(args_.dout, {bundle_row, bundle_row + part.q.size()}, head, args_.dim_v);
    float* const rows = scratch_.rows.get(2 * padded);
    read_statistics(args_, head, bundle_row, part.q.size(), padded, rows, rows + padded);
    float* const q_packed = scratch_.q.get(padded * args_.dim);
    float* const dout_packed = scratch_.dout.get(padded * args_.dim_v);
    ops_.pack_rows(q, ops_.strip, static_cast<float>(args_.scale * kLog2E), q_packed);
    ops_.pack_rows(dout, ops_.strip, 1, dout_packed);
    const bool dq = take.dq && args_.dq.data, dk = take.dkv && args_.dk.data, dv = take.dkv && args_.dv.data;
    BackwardTile tile = {
        .queries = part.q.size(),
        .keys = part.k.size(),
        .dim = args_.dim,
        .dim_v = args_.dim_v,
        .lo = part.lo - shift,
        .hi = part.hi - shift,
        .q = q_packed,
        .dout = dout_packed,
        .q_columns = dk ? columns(scratch_.q_columns, q, padded) : nullptr,
        .dout_columns = dv ? columns(scratch_.dout_columns, dout, padded) : nullptr,
        .lse = rows,
        .delta = rows + padded,
        .k = k_,
        .v = v_,
        .k_columns = dq ? k_columns_ : nullptr,
        .dq = dq ? zeros(scratch_.dq, padded * padded_dim) : nullptr,
        .dk = dk ? zeros(scratch_.dk, padded_keys * round_up(args_.dim, ops_.strip)) : nullptr,
        .dv = dv ? zeros(scratch_.dv, padded_keys * round_up(args_.dim_v, ops_.strip)) : nullptr,
        .p = scratch_.scores.get(kBackwardQueryTile * kBackwardKeyTile),
        .ds = scratch_.gradients.get(kBackwardQueryTile * kBackwardKeyTile),
    };
    ops_.backward(tile);
    if (dq) add_query_gradient(head, block, part, tile.dq, padded_dim, take.alone);
    if (dk || dv) add_key_gradients(args_.kv_head[static_cast<size_t>(head)], block, part, tile, take.alone);
  }

  const float* columns(ScratchBuffer& buffer, const RowsIn& rows, int64_t padded_rows) const {
    float* packed = buffer.get(padded_rows * round_up(rows.columns, ops_.strip));
    ops_.pack_columns(rows, ops_.strip, padded_rows, packed);
    return packed;
  }

  void add_query_gradient(int32_t head, const Block& block, const BandRectangle& part, const float* dq, int64_t padded,
                          bool alone) {
    float* rows = scratch_.transposed.get(ops_.strip * padded);
    for (int64_t i = 0; i < part.q.size(); ++i) {
      const int64_t lane = i % ops_.strip, query = part.q.begin + i;
      if (lane == 0) ops_.rows_of_strip(dq + i * padded, padded, rows, padded);
      const float* row = rows + lane * padded;
      const bool finite = ops_.all_finite(row, args_.dim);
      if (!alone && !finite) {
        rows_again_.push_back(query);
        continue;
      }
      int64_t* to = words_at(args_.dq, block.out_row + query - block.band.q.begin, head);
      add_sums(ops_, row, finite, args_.scale, 0, to, args_.dim);
    }
  }

  void add_key_gradients(int32_t kv_head, const Block& block, const BandRectangle& part, const BackwardTile& tile,
                         bool alone) {
    for (int64_t i = 0; i < part.k.size(); ++i) {
      const int64_t key = part.k.begin + i, row = block.kv_grad_row + key - block.band.k.begin;
      const float* dk = tile.dk ? row_of_panels(scratch_.dk_row, tile.dk, i, args_.dim) : nullptr;
      const float* dv = tile.dv ? row_of_panels(scratch_.dv_row, tile.dv, i, args_.dim_v) : nullptr;
      const bool finite_dk = !dk || ops_.all_finite(dk, args_.dim), finite_dv = !dv || ops_.all_finite(dv, args_.dim_v);
      if (!alone && !(finite_dk && finite_dv)) {
        keys_again_.push_back(key);
        continue;
      }
      if (dk) add_sums(ops_, dk, finite_dk, args_.scale, 0, words_at(args_.dk, row, kv_head), args_.dim);
      if (dv) add_sums(ops_, dv, finite_dv, 1, 0, words_at(args_.dv, row, kv_head), args_.dim_v);
    }
  }

  // Row i of a result in the form of BackwardTile::dk.
  const float* row_of_panels(ScratchBuffer& buffer, const float* from, int64_t i, int64_t columns) const {
    const int64_t padded = round_up(columns, ops_.strip);
    const float* panel = from + i / ops_.panel * ops_.panel * padded + i % ops_.panel * ops_.strip;
    float* row = buffer.get(padded);
    for (int64_t c = 0; c < columns; c += ops_.strip) {
      std::copy_n(panel + c * ops_.panel, ops_.strip, row + c);
    }
    return row;
  }

  const TileOps& ops_;
  const AttendBackwardArgs& args_;
  Scratch& scratch_;
  float* k_ = nullptr;
  float* v_ = nullptr;
  float* k_columns_ = nullptr;
  std::vector<int64_t> rows_again_, keys_again_;
};

}  // namespace

void canonical_cpu_attend(const TileOps& ops, const AttendArgs& args) { CanonicalForward(ops, args).run(); }
void canonical_cpu_attend_backward(const TileOps& ops, const AttendBackwardArgs& args) {
  CanonicalBackward(ops, args).run();
}

}  // namespace weft::kernels
