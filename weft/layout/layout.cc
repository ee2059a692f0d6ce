#include "weft/layout/layout.h"

#include <algorithm>

#include "weft/base/error.h"
#include "weft/base/text.h"
#include "weft/layout/document_deal.h"

namespace weft {
namespace {

constexpr int64_t kMaxTokens = (int64_t{1} << 31) - 1;
constexpr int kMaxRanks = 65536;
constexpr int64_t kMaxBlocks = int64_t{1} << 24;

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

// Boundary i of `parts` nearly equal parts of `tokens`.
int64_t boundary(int64_t tokens, int64_t parts, int64_t i) { return tokens * i / parts; }

int64_t sum(const std::vector<int64_t>& lengths) {
  int64_t total = 0;
  for (int64_t length : lengths) {
    if (length < 1) throw Error(ErrorCode::usage, "a document of " + std::to_string(length) + " tokens; use 1 or more");
    check_size(length, 1);  // so that the sum cannot overflow
    total += length;
    check_size(total, 1);
  }
  return total;
}

std::vector<IntervalSet> deal_blocks(int64_t tokens, int ranks, int64_t block) {
  if (block < 1) throw Error(ErrorCode::usage, "blocks of " + std::to_string(block) + " tokens; use 1 or more");
  if (tokens / block >= kMaxBlocks) {
    throw Error(ErrorCode::usage, std::to_string(tokens) + " tokens in blocks of " + std::to_string(block) +
                                      " are too many blocks; use 1, or at least " +
                                      std::to_string(tokens / kMaxBlocks + 1));
  }
  std::vector<IntervalSet> shards(static_cast<size_t>(ranks));
  size_t rank = 0;
  for (int64_t begin = 0; begin < tokens; begin += block) {
    shards[rank].append({begin, std::min(begin + block, tokens)});
    rank = (rank + 1) % shards.size();
  }
  return shards;
}

}  // namespace

Layout::Layout(std::string name, Axis axis, std::vector<IntervalSet> shards)
    : name_(std::move(name)), axis_(std::move(axis)), shards_(std::move(shards)) {}

bool operator==(const Layout& a, const Layout& b) {
  if (a.ranks() != b.ranks() || !(a.axis_ == b.axis_)) return false;
  for (int r = 0; r < a.ranks(); ++r) {
    if (!(a.shard(r) == b.shard(r))) return false;
  }
  return true;
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

Layout Layout::striped(int64_t tokens, int ranks, int64_t block) {
  check_size(tokens, ranks);
  if (block != 1) return Layout("block-striped", Axis::identity(tokens), deal_blocks(tokens, ranks, block));
  std::vector<Run> runs;
  std::vector<IntervalSet> shards(static_cast<size_t>(ranks));
  int64_t slot = 0;
  for (int r = 0; r < ranks; ++r) {
    const int64_t count = tokens > r ? (tokens - r - 1) / ranks + 1 : 0;
    runs.push_back({.base = r, .stride = ranks, .count = count});
    shards[static_cast<size_t>(r)] = Range{slot, slot + count};
    slot += count;
  }
  return Layout("striped", Axis::from_runs(runs), std::move(shards));
}

Layout Layout::document_zigzag(const std::vector<int64_t>& lengths, int ranks) {
  const int64_t tokens = sum(lengths);
  check_size(tokens, ranks);
  std::vector<IntervalSet> shards;
  for (const std::vector<Range>& ranges : deal_documents(lengths, ranks)) {
    shards.emplace_back(std::span<const Range>(ranges));
  }
  return Layout("document-zigzag", Axis::identity(tokens), std::move(shards));
}

Layout Layout::dual_chunk(const std::vector<int64_t>& lengths, int ranks) {
  const int64_t tokens = sum(lengths);
  check_size(tokens, ranks);
  const int64_t chunks = 2 * int64_t{ranks};
  std::vector<IntervalSet> shards(static_cast<size_t>(ranks));
  int64_t begin = 0;
  for (int64_t length : lengths) {
    const int64_t size = (length + chunks - 1) / chunks;
    for (int64_t chunk = 0; chunk * size < length; ++chunk) {
      const int64_t rank = std::min(chunk, chunks - 1 - chunk);
      shards[static_cast<size_t>(rank)].append({begin + chunk * size, begin + std::min((chunk + 1) * size, length)});
    }
    begin += length;
  }
  return Layout("dual-chunk", Axis::identity(tokens), std::move(shards));
}

Layout Layout::from_runs(int64_t tokens, std::vector<std::vector<Run>> shard_runs) {
  check_size(tokens, static_cast<int64_t>(shard_runs.size()));
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
      found += run.count;
      if (run.count > 0) last = run.base + run.count;
    }
  }
  // Before anything of the size of `tokens` is touched, which a few hostile runs may claim to be huge.
  if (found != tokens) {
    throw Error(ErrorCode::usage, "the runs hold " + std::to_string(found) + " positions for " +
                                      std::to_string(tokens) + " tokens; every token needs exactly one place");
  }
  std::vector<bool> seen(static_cast<size_t>(tokens));
  for (const std::vector<Run>& runs : shard_runs) {
    for (const Run& run : runs) {
      for (int64_t i = 0; i < run.count; ++i) {
        const auto position = static_cast<size_t>(run.base + i * run.stride);
        if (seen[position]) {
          throw Error(ErrorCode::usage,
                      "position " + std::to_string(position) + " is given twice; every token needs exactly one place");
        }
        seen[position] = true;
      }
    }
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
  return Layout("runs", identity ? Axis::identity(tokens) : Axis::from_runs(all), std::move(shards));
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

std::vector<std::string_view> layout_names() {
  return {"contiguous", "zigzag", "striped", "document-zigzag", "dual-chunk"};
}

Layout make_layout(std::string_view name, const std::vector<int64_t>& lengths, int ranks) {
  if (name == "contiguous") return Layout::contiguous(sum(lengths), ranks);
  if (name == "zigzag") return Layout::zigzag(sum(lengths), ranks);
  if (name == "striped") return Layout::striped(sum(lengths), ranks);
  if (name == "document-zigzag") return Layout::document_zigzag(lengths, ranks);
  if (name == "dual-chunk") return Layout::dual_chunk(lengths, ranks);
  throw unknown_name_error("layout", name, layout_names());
}

std::vector<int64_t> next_token_labels(std::span<const int64_t> ids, std::span<const int64_t> lengths, int64_t ignore) {
  const int64_t tokens = static_cast<int64_t>(ids.size());
  int64_t total = 0;
  for (int64_t length : lengths) {
    if (length < 1 || length > tokens - total) {
      throw Error(ErrorCode::usage, "a document of " + std::to_string(length) + " tokens does not fit; use lengths " +
                                        "from 1 that sum to the " + std::to_string(tokens) + " ids");
    }
    total += length;
  }
  if (total != tokens) {
    throw Error(ErrorCode::usage, "document lengths sum to " + std::to_string(total) +
                                      "; use lengths that sum to the " + std::to_string(tokens) + " ids");
  }
  std::vector<int64_t> labels(ids.size(), ignore);
  size_t begin = 0;
  for (int64_t length : lengths) {
    for (size_t i = begin; i + 1 < begin + static_cast<size_t>(length); ++i) labels[i] = ids[i + 1];
    begin += static_cast<size_t>(length);
  }
  return labels;
}

}  // namespace weft
