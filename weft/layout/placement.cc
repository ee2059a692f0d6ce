// The vertices are chunks, with queries, keys and outputs tied together since attention is computed where queries live;
// the net of a row connects the ranks whose chunks see it, and (ranks connected - 1) is what it costs: the metric of DCP
// (Jiang et al. 2025, arXiv 2510.10620). ChunkHolders knows it exactly without nets.
//
// The search swaps chunks of two ranks, from two starts: chunks in order, and a dealing by work that looks for rows in
// common among the less loaded half of the ranks (as the top-p dispatch of MagiAttention). A swap may cost some rows, fewer
// and fewer as the search goes on, and work above the limit has a price in rows that rises (threshold accepting, Dueck and
// Scheuer 1990). Against descending only, this saves a tenth of the rows.
#include "weft/layout/placement.h"

#include <limits>
#include <numeric>
#include <set>
#include <utility>

#include "weft/base/random.h"
#include "weft/layout/chunks.h"

namespace weft {
namespace {

// Integers throughout: every rank of a job must come to the same layout, whatever its compiler does to floating point.
__extension__ using Wide = __int128;

constexpr int64_t kProposals = int64_t{1} << 22;  // of both searches together: about half a second
constexpr int64_t kMostSweeps = 1024;             // and as many proposals for each chunk at most
constexpr int64_t kFewestSweeps = 16;             // with fewer a search finds nothing
constexpr int64_t kLooks = int64_t{1} << 22;      // of the dealing that looks at half of the ranks for each chunk

using Owners = std::vector<int>;  // the rank of each chunk

// The chunks, and empty ones at the end for a number that ranks divide.
std::vector<Chunk> padded_chunks_of(const Mask& mask, std::span<const Range> tokens, int ranks) {
  std::vector<Chunk> chunks = chunks_of(mask, tokens);
  const Range end{mask.keys(), mask.keys()};
  while (chunks.size() % static_cast<size_t>(ranks) != 0) chunks.push_back({end, end, 0});
  return chunks;
}

int64_t empty_ones(std::span<const Chunk> chunks) {
  return std::count_if(chunks.begin(), chunks.end(), [](const Chunk& chunk) { return chunk.tokens.empty(); });
}

// Ranks that may still be given a chunk, by load. A rank holds one empty chunk at most, so as many ranks as there are
// empty chunks stop one short.
class OpenRanks {
 public:
  OpenRanks(const ChunkHolders& held, int ranks, int64_t empty) : held_(held), full_left_(ranks - empty) {
    for (int rank = 0; rank < ranks; ++rank) open_.insert({0, rank});
    close_if_last();
  }
  bool may_take(int rank) const { return held_.count(rank) < held_.places() - (full_left_ > 0 ? 0 : 1); }
  auto begin() const { return open_.begin(); }
  auto end() const { return open_.end(); }
  // Around give().
  void leave(int rank) { open_.erase({held_.work(rank), rank}); }
  void enter(int rank) {
    if (held_.count(rank) == held_.places()) --full_left_, close_if_last();
    if (may_take(rank)) open_.insert({held_.work(rank), rank});
  }

 private:
  void close_if_last() {
    if (full_left_ == 0) std::erase_if(open_, [&](const auto& entry) { return !may_take(entry.second); });
  }
  const ChunkHolders& held_;
  int64_t full_left_;  // ranks that may still be given their last chunk
  std::set<std::pair<int64_t, int>> open_;
};

// The heaviest chunk first, to the rank that needs the fewest rows more among the `looks` least loaded that have room, the
// least loaded of equal ones. One look: by work alone.
Owners deal(std::span<const Chunk> chunks, int ranks, int64_t looks) {
  const auto real = static_cast<int64_t>(chunks.size()) - empty_ones(chunks);
  std::vector<int64_t> order(static_cast<size_t>(real));
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto work = [&](int64_t chunk) { return chunks[static_cast<size_t>(chunk)].work; };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return work(a) > work(b); });
  ChunkHolders held(chunks, ranks);
  OpenRanks open(held, ranks, empty_ones(chunks));
  for (int64_t chunk : order) {
    int best = -1;
    int64_t fewest = 0, highest = 0;  // the load of the last one looked at
    const auto look = [&](int rank) {
      const int64_t rows = held.rows_added(rank, chunk);
      if (best < 0 || rows < fewest) best = rank, fewest = rows;
    };
    int64_t left = looks;
    for (auto rank = open.begin(); rank != open.end() && left > 0; ++rank, --left) {
      highest = rank->first;
      look(rank->second);
    }
    for (int64_t neighbour : {chunk - 1, chunk + 1}) {
      if (neighbour < 0 || neighbour >= real) continue;
      const int rank = held.holder(neighbour);
      if (rank >= 0 && open.may_take(rank) && held.work(rank) <= highest) look(rank);
    }
    open.leave(best);
    held.give(best, chunk);
    open.enter(best);
  }
  int64_t empty = real;
  for (int rank = 0; rank < ranks; ++rank) {
    if (held.count(rank) < held.places()) held.give(rank, empty++);
  }
  return held.holders();
}

// The last ranks have one fewer where chunks are empty.
Owners in_order(std::span<const Chunk> chunks, int ranks) {
  const int64_t empty = empty_ones(chunks), places = static_cast<int64_t>(chunks.size()) / ranks;
  Owners owners;
  for (int rank = 0; rank < ranks; ++rank) {
    owners.insert(owners.end(), static_cast<size_t>(places - (rank < ranks - empty ? 0 : 1)), rank);
  }
  for (int64_t i = 0; i < empty; ++i) owners.push_back(static_cast<int>(ranks - 1 - i));
  return owners;
}

class Search {
 public:
  Search(std::span<const Chunk> chunks, int ranks, int64_t limit, const Owners& start)
      : chunks_(chunks),
        count_(static_cast<int64_t>(chunks.size())),
        real_(count_ - empty_ones(chunks)),
        limit_(limit),
        held_(chunks, ranks) {
    for (int64_t i = 0; i < count_; ++i) held_.give(start[static_cast<size_t>(i)], i);
    int64_t work = 0;
    for (int rank = 0; rank < ranks; ++rank) excess_ += above_limit(held_.work(rank)), work += held_.work(rank);
    for (const Chunk& chunk : chunks) {
      mean_keys_ += chunk.keys.size();
      tokens_ += chunk.tokens.size();
    }
    mean_keys_ /= count_;
    // Prices are of units of work: 2^24 at most are the mean of a rank.
    for (mean_units_ = work / ranks; mean_units_ >= int64_t{1} << 24; mean_units_ /= 2) ++shift_;
    mean_units_ = std::max<int64_t>(mean_units_, 1);
  }

  // A sweep proposes as many swaps as there are chunks. Calls found(owners, rows) after those that end within the limit.
  template <typename F>
  void run(int64_t sweeps, F&& found) {
    for (int64_t done = 0; done < sweeps; ++done) {
      const int64_t left = sweeps - 1 - done;
      threshold_ = mean_keys_ * 3 * left / sweeps * left / (10 * sweeps);
      price_ = 256 * tokens_ * (sweeps + 10 * done) / sweeps / mean_units_;
      for (int64_t i = 0; i < count_; ++i) propose();
      if (excess_ == 0) found(held_.holders(), held_.rows());
    }
  }

 private:
  int64_t above_limit(int64_t work) const { return std::max<int64_t>(0, work - limit_); }
  int64_t work(int64_t chunk) const { return chunks_[static_cast<size_t>(chunk)].work; }
  bool is_empty(int64_t chunk) const { return chunk >= real_; }
  // Whether a rank would, with one chunk for another.
  bool has_two_empty(int rank, int64_t gone, int64_t come) const {
    return is_empty(come) && !is_empty(gone) && is_empty(held_.held(rank, held_.places() - 1));
  }
  int64_t keys(int64_t chunk) const { return chunks_[static_cast<size_t>(chunk)].keys.size(); }
  // In rows, for so much more work above the limit.
  int64_t price_of(int64_t excess) const {
    return (excess / (int64_t{1} << shift_) * price_ / 256) + (excess > 0 ? 1 : 0);
  }

  // A chunk, and one of the rank that holds another near it, most often.
  void propose() {
    const int64_t a = random_.uniform(count_);
    int64_t b = random_.uniform(count_);
    if (random_.uniform(4) > 0) {
      const int64_t distance = 1 + random_.uniform(1 + random_.uniform(1 + random_.uniform(1 + count_ / 8)));
      const int64_t near = random_.uniform(2) == 0 ? a + distance : a - distance;
      if (near < 0 || near >= count_) return;
      b = held_.held(held_.holder(near), random_.uniform(held_.places()));
    }
    const int of_a = held_.holder(a), of_b = held_.holder(b);
    if (of_a == of_b || has_two_empty(of_a, a, b) || has_two_empty(of_b, b, a)) return;
    const int64_t more = work(b) - work(a);
    const int64_t excess = above_limit(held_.work(of_a) + more) - above_limit(held_.work(of_a)) +
                           above_limit(held_.work(of_b) - more) - above_limit(held_.work(of_b));
    const int64_t price = price_of(excess);
    if (price > threshold_ + keys(a) + keys(b) + keys(a) + keys(b)) return;  // no swap gains more
    if (price + held_.rows_of_swap(a, b) > threshold_) return;
    held_.swap(a, b);
    excess_ += excess;
  }

  std::span<const Chunk> chunks_;
  int64_t count_, real_, limit_;  // real: not empty, which come last
  ChunkHolders held_;
  Random random_{1};
  int64_t excess_ = 0;     // work above the limit, of all ranks
  int64_t mean_keys_ = 0;  // that a chunk needs
  int64_t tokens_ = 0;
  int shift_ = 0;
  int64_t mean_units_ = 0;
  int64_t threshold_ = 0;  // rows that a swap may cost
  int64_t price_ = 0;      // of a unit of work above the limit, in 1/256 rows
};

// The fewest rows that the searches find within the limit; `fallback` if none does.
Owners search(std::span<const Chunk> chunks, int ranks, int64_t limit, Owners fallback) {
  const auto count = static_cast<int64_t>(chunks.size());
  const int64_t sweeps = std::min(kMostSweeps, kProposals / count) / 2;
  Owners best = std::move(fallback);
  if (sweeps < kFewestSweeps / 2) return best;
  int64_t fewest = std::numeric_limits<int64_t>::max();
  const int64_t looks = std::clamp<int64_t>(kLooks / count, 1, (ranks + 1) / 2);
  for (const Owners& start : {deal(chunks, ranks, looks), in_order(chunks, ranks)}) {
    Search(chunks, ranks, limit, start).run(sweeps, [&](const Owners& owners, int64_t rows) {
      if (rows < fewest) best = owners, fewest = rows;
    });
  }
  return best;
}

Layout layout_of(std::span<const Chunk> chunks, const Owners& owners, int ranks) {
  std::vector<std::vector<Run>> shards(static_cast<size_t>(ranks));
  int64_t tokens = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const Range range = chunks[i].tokens;
    tokens += range.size();
    std::vector<Run>& runs = shards[static_cast<size_t>(owners[i])];
    if (range.empty()) continue;
    if (!runs.empty() && runs.back().base + runs.back().count == range.begin) {
      runs.back().count += range.size();
    } else {
      runs.push_back({range.begin, 1, range.size()});
    }
  }
  return Layout::from_runs(tokens, std::move(shards));
}

}  // namespace

PlacementCost cost_of(const Mask& mask, const Layout& layout) {
  PlacementCost cost;
  for (int rank = 0; rank < layout.ranks(); ++rank) {
    std::vector<Range> ranges;
    for (const Run& run : layout.runs(rank)) {
      for (int64_t i = 0; run.stride != 1 && i < run.count; ++i) {
        ranges.push_back({run.base + i * run.stride, run.base + i * run.stride + 1});
      }
      if (run.stride == 1) ranges.push_back({run.base, run.base + run.count});
    }
    const IntervalSet mine(ranges);
    int64_t work = 0, end = 0;  // of the keys so far
    for (const Chunk& chunk : chunks_of(mask, mine.ranges())) {
      work += chunk.work;
      cost.rows += chunk.keys.end - std::max(end, chunk.keys.begin) - chunk.tokens.size();
      end = chunk.keys.end;
    }
    cost.busiest = std::max(cost.busiest, work);
  }
  return cost;
}

Layout place_by_work(const Mask& mask, std::span<const Range> tokens, int ranks) {
  const std::vector<Chunk> chunks = padded_chunks_of(mask, tokens, ranks);
  return layout_of(chunks, deal(chunks, ranks, 1), ranks);
}

Layout place_by_traffic(const Mask& mask, const std::vector<int64_t>& lengths, std::span<const Range> tokens, int ranks,
                        int64_t imbalance) {
  const std::vector<Chunk> chunks = padded_chunks_of(mask, tokens, ranks);
  const Owners even = deal(chunks, ranks, 1);
  std::vector<Layout> layouts{layout_of(chunks, even, ranks)};
  const auto within = static_cast<int64_t>(Wide{mask.area()} * (100 + imbalance) / (Wide{100} * ranks));
  const int64_t limit = std::max(within, cost_of(mask, layouts[0]).busiest);
  layouts.push_back(layout_of(chunks, search(chunks, ranks, limit, even), ranks));
  for (const char* name : {"contiguous", "zigzag", "document-zigzag"})
    layouts.push_back(make_layout(name, lengths, ranks));
  size_t best = 0;
  std::pair<Wide, int64_t> least;
  for (size_t i = 0; i < layouts.size(); ++i) {
    const PlacementCost cost = cost_of(mask, layouts[i]);
    const std::pair product(Wide{cost.rows} * cost.busiest, cost.busiest);
    if (cost.busiest <= limit && (i == 0 || product < least)) best = i, least = product;
  }
  return std::move(layouts[best]);
}

}  // namespace weft
