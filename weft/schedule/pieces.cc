#include "weft/schedule/pieces.h"

#include <algorithm>

namespace weft {

Pieces::Pieces(const Problem& problem) {
  if (problem.layer == Layer::softmax) return;
  for (int rank = 0; rank < problem.ranks(); ++rank) {
    for (const Range& run : problem.query_layout.shard(rank).ranges()) cuts_.push_back(run.begin);
  }
  std::sort(cuts_.begin(), cuts_.end());
}

int64_t Pieces::cuts_in(int64_t first, int64_t last) const {
  return std::upper_bound(cuts_.begin(), cuts_.end(), last) - std::upper_bound(cuts_.begin(), cuts_.end(), first);
}

bool Pieces::is_cut(int64_t token) const { return std::binary_search(cuts_.begin(), cuts_.end(), token); }

std::vector<int64_t>::const_iterator Pieces::first_behind(int64_t token) const {
  if (cuts_.size() > 1 && token >= cuts_.front() && token < cuts_.back()) {
    // Shards are mostly of one size, and then it is here.
    const auto last = static_cast<int64_t>(cuts_.size()) - 1;
    const auto guess = cuts_.begin() + 1 + (token - cuts_.front()) * last / (cuts_.back() - cuts_.front());
    if (*guess > token && *(guess - 1) <= token) return guess;
  }
  return std::upper_bound(cuts_.begin(), cuts_.end(), token);
}

Range Pieces::holding(Range run, int64_t token) const {
  const auto next = first_behind(token);
  const int64_t begin = next == cuts_.begin() ? run.begin : *(next - 1), end = next == cuts_.end() ? run.end : *next;
  return intersect(Range{begin, end}, run);
}

bool Pieces::are_whole(Range part, Range run) const {
  return !part.empty() && part.begin >= run.begin && part.end <= run.end &&
         (part.begin == run.begin || is_cut(part.begin)) && (part.end == run.end || is_cut(part.end));
}

}  // namespace weft
