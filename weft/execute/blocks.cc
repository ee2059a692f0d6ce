#include "weft/execute/blocks.h"

#include <algorithm>
#include <string>

#include "weft/execute/value.h"
#include "weft/layout/tile_cuts.h"

namespace weft::execute_internal {
namespace {

// Rows of some operand at the first slot of each interval of a set; all 0 for operands not there.
std::vector<int64_t> first_rows(const SetPool& pool, SetId part, SetId all) {
  std::vector<int64_t> rows(pool[part].ranges().size(), 0);
  if (all == SetId::empty) return rows;
  const std::vector<RowRun> runs = runs_of(pool[part], pool[all]);
  for (size_t i = 0; i < runs.size(); ++i) rows[i] = runs[i].row;
  return rows;
}

}  // namespace

size_t BlockCache::Hash::operator()(const BlockKey& key) const {
  uint64_t h = 0;
  for (SetId id : {key.q, key.k, key.q_all, key.k_all, key.out_all, key.bundle_all, key.grad_all}) {
    h = (h ^ static_cast<uint64_t>(id)) * 0x9e3779b97f4a7c15u;
    h ^= h >> 29;
  }
  return h;
}

std::span<const kernels::Block> BlockCache::of(const BlockKey& key) {
  const auto found = known_.find(key);
  if (found != known_.end()) return found->second;
  if (tile_ != 0) check_tiles(key);
  std::vector<kernels::Block> blocks = compute(key);
  if (remembered_ + blocks.size() > kMaxRemembered) {
    known_.clear();
    remembered_ = 0;
  }
  remembered_ += blocks.size();
  return known_.emplace(key, std::move(blocks)).first->second;
}

std::vector<kernels::Block> BlockCache::compute(const BlockKey& key) const {
  const auto queries = pool_[key.q].ranges(), keys = pool_[key.k].ranges();
  const auto q_rows = first_rows(pool_, key.q, key.q_all);
  const auto out_rows = first_rows(pool_, key.q, key.out_all);
  const auto bundle_rows = first_rows(pool_, key.q, key.bundle_all);
  const auto k_rows = first_rows(pool_, key.k, key.k_all);
  const auto grad_rows = first_rows(pool_, key.k, key.grad_all);
  const Axis &q_axis = pairs_.queries(), &k_axis = pairs_.keys();

  std::vector<kernels::Block> blocks;
  const auto add = [&](size_t i, size_t j) {
    pairs_.for_each_band(queries[i], keys[j], [&](const BandRectangle& band) {
      const int64_t q_to_row = q_rows[i] - queries[i].begin, k_to_row = k_rows[j] - keys[j].begin;
      const int64_t skipped_q = band.q.begin - queries[i].begin;
      const int64_t skipped_k = band.k.begin - keys[j].begin;
      blocks.push_back({.band = {.q = {band.q.begin + q_to_row, band.q.end + q_to_row},
                                 .k = {band.k.begin + k_to_row, band.k.end + k_to_row},
                                 .lo = band.lo + k_to_row - q_to_row,
                                 .hi = band.hi + k_to_row - q_to_row},
                        .out_row = out_rows[i] + skipped_q,
                        .bundle_row = bundle_rows[i] + skipped_q,
                        .kv_grad_row = grad_rows[j] + skipped_k,
                        .q_position = q_axis.position(band.q.begin),
                        .k_position = k_axis.position(band.k.begin)});
      return true;
    });
  };
  for (size_t i = 0; i < queries.size(); ++i) {
    if (keys.size() <= 4) {
      for (size_t j = 0; j < keys.size(); ++j) add(i, j);
      continue;
    }
    // Of many key intervals (packed documents) a query interval meets few: ask which.
    const IntervalSet needed = pairs_.keys_needed(IntervalSet(queries[i]), pool_[key.k]);
    size_t j = 0, last = keys.size();
    for (const Range& part : needed.ranges()) {
      while (keys[j].end <= part.begin) ++j;
      if (j != last) add(i, j);
      last = j;
    }
  }
  std::sort(blocks.begin(), blocks.end(), [](const kernels::Block& a, const kernels::Block& b) {
    return std::pair(a.band.q.begin, a.band.k.begin) < std::pair(b.band.q.begin, b.band.k.begin);
  });
  return blocks;
}

// Layouts have their borders between tiles, so what is found here was cut by the schedule.
void BlockCache::check_tiles(const BlockKey& key) const {
  const auto refuse = [&](const std::optional<int64_t>& position, const char* cut, const char* across) {
    if (!position) return;
    throw Error(ErrorCode::unsupported, std::string("canonical results: ") + cut + " are cut at position " +
                                            std::to_string(*position) + ", inside a tile of " + std::to_string(tile_) +
                                            ", with " + across +
                                            " on both sides; use a method that cuts between tiles");
  };
  const IntervalSet &queries = pool_[key.q], &keys = pool_[key.k];
  if (key.out_all != SetId::empty) {  // out or dq: sums over keys
    refuse(keys_cut_inside_tile(pairs_, queries, keys, tile_), "keys", "keys of one query");
  }
  if (key.grad_all != SetId::empty) {  // dk, dv: sums over queries
    refuse(queries_cut_inside_tile(pairs_, queries, keys, tile_), "queries", "queries of one key");
  }
}

}  // namespace weft::execute_internal
