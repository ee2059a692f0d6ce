// What the drivers (forward.cc, backward.cc, canonical_cpu.cc) share on the way from arguments to tiles.
#pragma once

#include <algorithm>
#include <limits>

#include "weft/base/worker_pool.h"
#include "weft/kernels/checks.h"
#include "weft/kernels/cpu_kernels.h"
#include "weft/kernels/element.h"
#include "weft/kernels/scratch.h"
#include "weft/kernels/tile_ops.h"

namespace weft::kernels {

inline constexpr double kLog2E = 1.44269504088896341;

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

inline RowsIn rows_of(const ConstView& view, Range rows, int64_t head, int64_t columns) {
  return {address(view, rows.begin, head), view.type, view.row_stride, rows.size(), columns};
}

inline float* zeros(ScratchBuffer& buffer, int64_t count) {
  float* data = buffer.get(count);
  std::fill(data, data + count, 0.0f);
  return data;
}

// lse in base 2 and delta of `count` rows; up to `padded`, those of rows without keys. They get lse = +inf, so that their p
// is exp2(-inf) = 0 without a branch.
inline void read_statistics(const AttendBackwardArgs& args, int32_t head, int64_t first_row, int64_t count,
                            int64_t padded, float* lse, float* delta) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < padded; ++i) {
    lse[i] = kInfinity;
    delta[i] = 0;
    if (i >= count) continue;
    const float natural = *static_cast<const float*>(address(args.lse, first_row + i, head));
    if (natural == -kInfinity) continue;
    lse[i] = static_cast<float>(natural * kLog2E);
    delta[i] = *static_cast<const float*>(address(args.delta, first_row + i, head));
  }
}

// Whether some pair of the rectangle does not count.
inline bool has_edge(const BandRectangle& band) {
  return band.lo > band.k.begin - (band.q.end - 1) || band.hi < band.k.end - 1 - band.q.begin;
}

// The pairs of `tile`, cut from the block's band, with the rows that belong to them.
inline Block part_of(const Block& block, const BandRectangle& tile) {
  Block part = block;
  const int64_t queries = tile.q.begin - block.band.q.begin;
  part.band = tile;
  part.out_row += queries;
  part.bundle_row += queries;
  part.kv_grad_row += tile.k.begin - block.band.k.begin;
  return part;
}

// Keys that are packed at once, and queries that meet them together.
struct TileSteps {
  int64_t keys, queries;
};

// For every block of keys that some query of the band sees: begin(keys), then tile(head, pairs) for all heads of the group and
// all queries that see some, then end(keys).
template <typename Begin, typename Tile, typename End>
void for_each_tile(const HeadGroup& group, const BandRectangle& band, TileSteps steps, const StopFlag* stop,
                   const Begin& begin, const Tile& tile, const End& end) {
  for (int64_t key = band.k.begin; key < band.k.end; key += steps.keys) {
    const BandRectangle part = shrink(cut(band, band.q, {key, key + steps.keys}));
    if (part.q.empty()) continue;
    begin(part.k);
    for (int32_t head : group.heads) {
      for (int64_t query = part.q.begin; query < part.q.end; query += steps.queries) {
        if (stop) stop->poll();
        tile(head, cut(part, {query, query + steps.queries}, part.k));
      }
    }
    end(part.k);
  }
}

// Calls work(groups, block) for all blocks: with all groups without a pool, blocks outside: of short documents, the rows of all
// heads lie side by side. With one, each group is an item: groups share no output, so the bits are the same.
template <typename Work>
void for_each_group(WorkerPool* pool, std::span<const HeadGroup> groups, std::span<const Block> blocks,
                    const Work& work) {
  if (!pool || pool->threads() == 1) {
    for (const Block& block : blocks) work(groups, block);
    return;
  }
  pool->run(static_cast<int64_t>(groups.size()), [&](int64_t item) {
    for (const Block& block : blocks) work(groups.subspan(static_cast<size_t>(item), 1), block);
  });
}

// Calls work(groups, block, queries) for all queries of all blocks: for all groups at once without a pool, else for one
// and at most `step` queries. With more threads than groups, pieces of a block run side by side, and blocks one after the
// other, since they may share queries.
template <typename Work>
void for_each_piece(const AttendArgs& args, int64_t step, const Work& work) {
  const std::vector<HeadGroup> groups = group_heads(args.kv_head);
  if (!args.pool || args.pool->threads() == 1) {
    for (const Block& block : args.blocks) work(std::span(groups), block, block.band.q);
    return;
  }
  const auto pieces_of = [&](const Block& block) { return (block.band.q.size() + step - 1) / step; };
  const auto run_piece = [&](int64_t group, const Block& block, int64_t piece) {
    const int64_t begin = block.band.q.begin + piece * step;
    work(std::span(groups).subspan(static_cast<size_t>(group), 1), block,
         intersect(block.band.q, {begin, begin + step}));
  };
  const int64_t count = static_cast<int64_t>(groups.size());
  if (count < args.pool->threads()) {
    for (const Block& block : args.blocks) {
      const int64_t pieces = pieces_of(block);
      args.pool->run(count * pieces, [&](int64_t item) { run_piece(item / pieces, block, item % pieces); });
    }
    return;
  }
  args.pool->run(count, [&](int64_t group) {
    for (const Block& block : args.blocks) {
      for (int64_t piece = 0; piece < pieces_of(block); ++piece) run_piece(group, block, piece);
    }
  });
}

// Calls run(group, queries) for all groups, at most `step` queries at a time.
template <typename Run>
void for_each_step(std::span<const HeadGroup> groups, Range queries, int64_t step, const Run& run) {
  for (const HeadGroup& group : groups) {
    for (int64_t begin = queries.begin; begin < queries.end; begin += step) {
      run(group, intersect(queries, {begin, begin + step}));
    }
  }
}

// Calls in_tiles(group, block, queries), for at most `step` queries, for all blocks but those of few queries and keys, at most
// `short_block` of each, and of few queries: those are computed here, whole.
template <typename InTiles>
void attend_blocks(const TileOps& ops, const AttendArgs& args, int64_t short_block, int64_t step,
                   const InTiles& in_tiles) {
  WEFT_CHECK(std::max(short_block, kFewQueries) <= step);
  for_each_piece(args, step, [&](std::span<const HeadGroup> groups, const Block& block, Range queries) {
    if (is_short(block, short_block)) return cpu_attend_short(ops, args, groups, block);
    if (block.band.q.size() <= kFewQueries) return cpu_attend_few(ops, args, groups, block);
    for_each_step(groups, queries, step, [&](const HeadGroup& group, Range piece) { in_tiles(group, block, piece); });
  });
}

}  // namespace weft::kernels
