#include "weft/layout/layout.h"

#include <algorithm>

#include "weft/base/error.h"

namespace weft {
namespace {

constexpr int64_t kMaxTokens = (int64_t{1} << 31) - 1;
constexpr int kMaxRanks = 65536;

void check_size(int64_t tokens, int64_t ranks) {
  if (tokens < 1 || tokens > kMaxTokens) {
    throw Error(ErrorCode::usage,
                "tokens " + std::to_string(tokens) + " is out of range; use 1 to " + std::to_string(kMaxTokens));
  }
  if (ranks < 1 || ranks > kMaxRanks) {
    throw Error(ErrorCode::usage,
                "ranks " + std::to_string(ranks) + " is out of range; use 1 to " + std::to_string(kMaxRanks));
  }
}

// Boundary i of `parts` nearly equal parts of `tokens`, shifted by a phase below `parts` that decides which parts
// get the remainder.
int64_t boundary(int64_t tokens, int64_t parts, int64_t i, int64_t phase = 0) { return (tokens * i + phase) / parts; }

int64_t sum(const std::vector<int64_t>& lengths) {
  int64_t total = 0;
  for (int64_t length : lengths) {
    if (length < 1) throw Error(ErrorCode::usage, "a document of " + std::to_string(length) + " tokens; use 1 or more");
    total += length;
    check_size(total, 1);
  }
  return total;
}

}  // namespace

Layout::Layout(std::string name, Axis axis, std::vector<IntervalSet> shards)
    : name_(std::move(name)), axis_(std::move(axis)), shards_(std::move(shards)) {
  unions_.push_back(shards_);
  for (size_t width = 2; width <= shards_.size(); width *= 2) {
    const std::vector<IntervalSet>& half = unions_.back();
    std::vector<IntervalSet> level(shards_.size() - width + 1);
    for (size_t r = 0; r < level.size(); ++r) level[r] = unite(half[r], half[r + width / 2]);
    unions_.push_back(std::move(level));
  }
}

Layout Layout::contiguous(int64_t tokens, int ranks) {
  check_size(tokens, ranks);
  std::vector<IntervalSet> shards(static_cast<size_t>(ranks));
  for (int r = 0; r < ranks; ++r) {
    shards[static_cast<size_t>(r)] = Range{boundary(tokens, ranks, r), boundary(tokens, ranks, r + 1)};
  }
  return Layout("contiguous", Axis::identity(tokens), std::move(shards));
}

Layout Layout::zigzag(int64_t tokens, int ranks) {
  Layout layout = document_zigzag({tokens}, ranks);
  layout.name_ = "zigzag";
  return layout;
}

Layout Layout::striped(int64_t tokens, int ranks) {
  check_size(tokens, ranks);
  std::vector<Run> runs;
  std::vector<IntervalSet> shards(static_cast<size_t>(ranks));
  int64_t slot = 0;
  for (int r = 0; r < ranks; ++r) {
    const int64_t count = tokens > r ? (tokens - r - 1) / ranks + 1 : 0;
    runs.push_back({.base = r, .stride = ranks, .count = count});
    shards[static_cast<size_t>(r)] = Range{slot, slot + count};
    slot += count;
  }
  return Layout("striped", Axis::from_runs(std::move(runs)), std::move(shards));
}

Layout Layout::document_zigzag(const std::vector<int64_t>& lengths, int ranks) {
  const int64_t tokens = sum(lengths);
  check_size(tokens, ranks);
  const int64_t chunks = 2 * static_cast<int64_t>(ranks);
  std::vector<std::vector<Range>> parts(static_cast<size_t>(ranks));
  int64_t begin = 0;
  for (int64_t length : lengths) {
    const int64_t phase = begin % chunks;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const Range part{begin + boundary(length, chunks, chunk, phase), begin + boundary(length, chunks, chunk + 1, phase)};
      if (part.empty()) continue;
      parts[static_cast<size_t>(std::min(chunk, chunks - 1 - chunk))].push_back(part);
    }
    begin += length;
  }
  std::vector<IntervalSet> shards;
  for (const std::vector<Range>& ranges : parts) shards.emplace_back(std::span<const Range>(ranges));
  return Layout("document-zigzag", Axis::identity(tokens), std::move(shards));
}

Layout Layout::from_runs(int64_t tokens, std::vector<std::vector<Run>> shard_runs) {
  check_size(tokens, static_cast<int64_t>(shard_runs.size()));
  std::vector<char> seen(static_cast<size_t>(tokens), 0);
  int64_t found = 0;
  bool identity = true;  // slot = position works when every shard lists unit runs in ascending order
  for (std::vector<Run>& runs : shard_runs) {
    int64_t last = 0;
    for (Run& run : runs) {
      if (run.count <= 1) run.stride = 1;
      const bool inside = run.count >= 0 && run.count <= tokens && run.stride >= 1 && run.stride <= tokens &&
                          run.base >= 0 && run.base < tokens + (run.count == 0) &&
                          (run.count == 0 || run.base + (run.count - 1) * run.stride < tokens);
      if (!inside) {
        throw Error(ErrorCode::usage, "run (base " + std::to_string(run.base) + ", stride " +
                                          std::to_string(run.stride) + ", count " + std::to_string(run.count) +
                                          ") leaves the " + std::to_string(tokens) + " tokens of the layout");
      }
      identity &= run.stride == 1 && (run.count == 0 || run.base >= last);
      for (int64_t i = 0; i < run.count; ++i) {
        char& taken = seen[static_cast<size_t>(run.base + i * run.stride)];
        if (taken) {
          throw Error(ErrorCode::usage, "position " + std::to_string(run.base + i * run.stride) +
                                            " is on two ranks; every token needs exactly one place");
        }
        taken = 1;
      }
      found += run.count;
      if (run.count > 0) last = run.base + run.count;
    }
  }
  if (found != tokens) {
    const auto missing = std::find(seen.begin(), seen.end(), 0) - seen.begin();
    throw Error(ErrorCode::usage, "position " + std::to_string(missing) + " is on no rank; every token needs a place");
  }
  std::vector<Run> all;
  std::vector<IntervalSet> shards;
  int64_t slot = 0;
  for (const std::vector<Run>& runs : shard_runs) {
    std::vector<Range> ranges;
    for (const Run& run : runs) {
      const int64_t begin = identity ? run.base : slot;
      ranges.push_back({begin, begin + run.count});
      slot += run.count;
      all.push_back(run);
    }
    shards.emplace_back(std::span<const Range>(ranges));
  }
  return Layout("runs", identity ? Axis::identity(tokens) : Axis::from_runs(std::move(all)), std::move(shards));
}

IntervalSet Layout::shards(int first, int count) const {
  if (count <= 0) return {};
  const int wrapped = first + count - ranks();
  if (wrapped > 0) return unite(shards(first, count - wrapped), shards(0, wrapped));
  size_t level = 0;
  while ((2 << level) <= count) ++level;
  const int width = 1 << level;
  return unite(unions_[level][static_cast<size_t>(first)], unions_[level][static_cast<size_t>(first + count - width)]);
}

std::vector<int64_t> Layout::positions(int rank) const {
  std::vector<int64_t> result;
  result.reserve(static_cast<size_t>(tokens_of(rank)));
  for (const Run& run : runs(rank)) {
    for (int64_t i = 0; i < run.count; ++i) result.push_back(run.base + i * run.stride);
  }
  return result;
}

std::vector<Run> Layout::runs(int rank) const {
  std::vector<Run> result;
  for (const Range& slots : shard(rank).ranges()) {
    axis_.for_each_run(slots, [&](Range, Run run) { result.push_back(run); });
  }
  return result;
}

std::vector<std::string_view> layout_names() { return {"contiguous", "zigzag", "striped", "document-zigzag"}; }

Layout make_layout(std::string_view name, const std::vector<int64_t>& lengths, int ranks) {
  if (name == "contiguous") return Layout::contiguous(sum(lengths), ranks);
  if (name == "zigzag") return Layout::zigzag(sum(lengths), ranks);
  if (name == "striped") return Layout::striped(sum(lengths), ranks);
  if (name == "document-zigzag") return Layout::document_zigzag(lengths, ranks);
  throw Error(ErrorCode::usage, "unknown layout '" + std::string(name) +
                                    "'; use contiguous, zigzag, striped or document-zigzag");
}

std::vector<int64_t> next_token_labels(std::span<const int64_t> ids, std::span<const int64_t> lengths,
                                       int64_t ignore) {
  std::vector<int64_t> labels(ids.size(), ignore);
  size_t begin = 0;
  for (int64_t length : lengths) {
    for (size_t i = begin; i + 1 < begin + static_cast<size_t>(length); ++i) labels[i] = ids[i + 1];
    begin += static_cast<size_t>(length);
  }
  return labels;
}

}  // namespace weft
