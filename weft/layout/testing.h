// What tests of layouts share.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "weft/base/random.h"
#include "weft/layout/layout.h"
#include "weft/layout/row_messages.h"
#include "weft/mask/testing.h"

namespace weft {

using Positions = std::vector<int64_t>;

inline std::vector<Positions> all_positions(const Layout& layout) {
  std::vector<Positions> result;
  for (int rank = 0; rank < layout.ranks(); ++rank) result.push_back(layout.positions(rank));
  return result;
}

// Lengths of random documents that sum to `tokens`.
inline std::vector<int64_t> random_lengths(Random& random, int64_t tokens) {
  std::vector<int64_t> lengths;
  while (tokens > 0) {
    lengths.push_back(random.uniform(3) == 0 ? 1 : random.uniform(1, std::min<int64_t>(tokens, 25) + 1));
    tokens -= lengths.back();
  }
  return lengths;
}

// Positions 0 .. tokens - 1 in random order, as runs of random strides dealt to random ranks.
inline std::vector<std::vector<Run>> random_runs(Random& random, int64_t tokens, int ranks) {
  std::vector<char> taken(static_cast<size_t>(tokens), 0);
  std::vector<Run> runs;
  for (int64_t base = 0; base < tokens; ++base) {
    if (taken[static_cast<size_t>(base)]) continue;
    Run run{.base = base, .stride = random.uniform(1, 5), .count = 0};
    const int64_t most = random.uniform(1, 9);
    for (int64_t x = base; x < tokens && run.count < most && !taken[static_cast<size_t>(x)]; x += run.stride) {
      taken[static_cast<size_t>(x)] = 1;
      ++run.count;
    }
    runs.push_back(run);
  }
  random.shuffle(std::span(runs));
  std::vector<std::vector<Run>> shards(static_cast<size_t>(ranks));
  for (const Run& run : runs) shards[static_cast<size_t>(random.uniform(ranks))].push_back(run);
  return shards;
}

// One message gets a token more or less, at one end or at both. False where the rank that was drawn receives nothing.
inline bool change_a_message(Random& random, std::vector<RowMessages>& ranks, int64_t tokens) {
  const auto below = [&](size_t n) { return static_cast<size_t>(random.uniform(static_cast<int64_t>(n))); };
  const size_t rank = below(ranks.size());
  auto& received = ranks[rank].receive;
  if (received.empty()) return false;
  RowMessage& message = received[below(received.size())];
  auto& sent = ranks[static_cast<size_t>(message.peer)].send;
  RowMessage& other =
      *std::find_if(sent.begin(), sent.end(), [&](const RowMessage& m) { return m.peer == static_cast<int>(rank); });
  const int64_t token = random.uniform(tokens);
  IntervalSet changed = message.tokens;
  if (changed.contains(token)) {
    changed = subtract(changed, Range{token, token + 1});
  } else {
    changed.unite(Range{token, token + 1});
  }
  const size_t end = below(3);
  if (end != 1) message.tokens = changed;
  if (end != 0) other.tokens = changed;
  return true;
}

}  // namespace weft
