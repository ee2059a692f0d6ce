#include "weft/execute/value.h"

#include <algorithm>

namespace weft::execute_internal {

// ---- what is written

bool Written::add(SetPool& pool, const Slice& slice) {
  for (const Piece& piece : pieces_) {
    if (!(piece.fields & slice.fields).empty() && pool.intersects(piece.tokens, slice.tokens) &&
        pool.intersects(piece.heads, slice.heads)) {
      return false;
    }
  }
  // Joined to a piece that differs in one respect only, so that lists stay short: parts of a
  // gathered value come rank by rank, those of exchanged heads head by head.
  for (Piece& piece : pieces_) {
    const bool fields = piece.fields == slice.fields, tokens = piece.tokens == slice.tokens,
               heads = piece.heads == slice.heads;
    if (fields + tokens + heads < 2) continue;
    if (!tokens) piece.tokens = pool.unite(piece.tokens, slice.tokens);
    if (!heads) piece.heads = pool.unite(piece.heads, slice.heads);
    piece.fields = piece.fields | slice.fields;
    return true;
  }
  pieces_.push_back({slice.fields, slice.tokens, slice.heads});
  return true;
}

bool Written::covers(SetPool& pool, const Slice& slice) const {
  return covers_from(pool, 0, {slice.fields, slice.tokens, slice.heads});
}

bool Written::covers_from(SetPool& pool, size_t from, Piece rest) const {
  if (rest.fields.empty() || rest.tokens == SetId::empty || rest.heads == SetId::empty) return true;
  for (size_t i = from; i < pieces_.size(); ++i) {
    const Piece& piece = pieces_[i];
    const Piece both{piece.fields & rest.fields, pool.intersect(piece.tokens, rest.tokens),
                     pool.intersect(piece.heads, rest.heads)};
    if (both.fields.empty() || both.tokens == SetId::empty || both.heads == SetId::empty) continue;
    const Fields other_fields = Fields::from_bits(rest.fields.bits() & ~both.fields.bits());
    return covers_from(pool, i + 1, {other_fields, rest.tokens, rest.heads}) &&
           covers_from(pool, i + 1, {both.fields, pool.subtract(rest.tokens, both.tokens), rest.heads}) &&
           covers_from(pool, i + 1, {both.fields, both.tokens, pool.subtract(rest.heads, both.heads)});
  }
  return false;
}

// ---- rows

std::vector<RowRun> runs_of(const IntervalSet& part, const IntervalSet& all) {
  std::vector<RowRun> runs;
  int64_t before = 0;  // members of `all` before *interval
  auto interval = all.ranges().begin();
  for (const Range& range : part.ranges()) {
    while (interval != all.ranges().end() && interval->end <= range.begin) {
      before += interval->size();
      ++interval;
    }
    WEFT_CHECK(interval != all.ranges().end() && interval->begin <= range.begin && range.end <= interval->end);
    runs.push_back({range, before + range.begin - interval->begin});
  }
  return runs;
}

std::vector<Region> regions_of(SetPool& pool, const RankValue& value, const Slice& slice, Field field,
                               int64_t columns) {
  const FieldMemory& memory = value.field(field);
  const int64_t element = size_of(memory.type);
  // Head runs that follow each other without a gap, as when all heads of the value are meant.
  std::vector<std::pair<int64_t, int64_t>> heads;  // first, count
  for (const RowRun& run : runs_of(heads_in(pool, memory, slice.heads), heads_in(pool, memory, value.all.heads))) {
    if (!heads.empty() && heads.back().first + heads.back().second == run.row) {
      heads.back().second += run.size();
    } else {
      heads.emplace_back(run.row, run.size());
    }
  }
  std::vector<Region> regions;
  int64_t next_row = -1;
  for (const RowRun& run : runs_of(rows_in(pool, value, slice), rows_in(pool, value, value.all))) {
    if (heads.size() == 1) {
      if (run.row == next_row) {
        regions.back().rows += run.size();
      } else {
        regions.push_back({memory.at(run.row, heads[0].first), run.size(), heads[0].second * columns * element,
                           memory.row_stride * element});
      }
      next_row = run.row + run.size();
      continue;
    }
    for (int64_t row = run.row; row < run.row + run.size(); ++row) {
      for (const auto& [head, count] : heads) {
        const int64_t bytes = count * columns * element;
        regions.push_back({memory.at(row, head), 1, bytes, bytes});
      }
    }
  }
  return regions;
}

}  // namespace weft::execute_internal
