// Group-cast: any layout; every run of keys goes exactly to the ranks that need it, every gradient straight home.
//
//   stage 0: own keys while the rows of near ranks arrive; stage 1: those while the next ranks' arrive; ...
//
// The remote rows are fetched in stages by distance between ranks, so that all but the first travel under compute, and
// memory holds two stages. Chunks of tokens are dealt to ranks so that causal work and tokens are both even, whatever the
// documents: the heaviest chunk first, to the rank with the least work that has room; among equal ranks the one that
// already holds the chunk before, whose keys then need not travel. MagiAttention (SandAI-org/MagiAttention 2025), with
// its dispatch by min-heap; its hypergraph placement is not here.
#include <algorithm>
#include <numeric>

#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/gather_pass.h"

namespace weft::methods {
namespace {

struct Chunk {
  Range tokens;
  int64_t work = 0;  // causal pairs of its queries
};

// Chunks that end at document borders or at full size, with their causal work.
std::vector<Chunk> cut_in_chunks(const std::vector<int64_t>& lengths, int64_t size) {
  std::vector<Chunk> chunks;
  Range open{0, 0};
  int64_t work = 0, begin = 0;
  for (int64_t length : lengths) {
    for (int64_t done = 0; done < length;) {
      const int64_t take = std::min(length - done, size - (open.end - open.begin));
      work += take * (2 * done + take + 1) / 2;
      done += take;
      open.end = begin + done;
      if (open.end - open.begin < size) continue;
      chunks.push_back({open, work});
      open.begin = open.end, work = 0;
    }
    begin += length;
  }
  if (open.end > open.begin) chunks.push_back({open, work});
  return chunks;
}

// The rank for each chunk.
std::vector<int> deal(const std::vector<Chunk>& chunks, int64_t tokens, int64_t size, int ranks) {
  std::vector<size_t> order(chunks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return chunks[a].work > chunks[b].work; });
  const int64_t whole = (tokens + size - 1) / size, room = (whole + ranks - 1) / ranks;  // chunks a rank may hold
  std::vector<int> owner(chunks.size(), -1);
  std::vector<int64_t> work(static_cast<size_t>(ranks)), held(static_cast<size_t>(ranks));
  for (size_t c : order) {
    int best = -1;
    for (int r = 0; r < ranks; ++r) {
      if (held[static_cast<size_t>(r)] >= room) continue;
      const bool near = (c > 0 && owner[c - 1] == r) || (c + 1 < chunks.size() && owner[c + 1] == r);
      const int64_t load = work[static_cast<size_t>(r)];
      if (best < 0 || load < work[static_cast<size_t>(best)] || (near && load == work[static_cast<size_t>(best)])) {
        best = r;
      }
    }
    owner[c] = best;
    work[static_cast<size_t>(best)] += chunks[c].work;
    ++held[static_cast<size_t>(best)];
  }
  return owner;
}

// Sixteen chunks a rank, no shorter than 64 tokens where there are as many.
int64_t chunk_size(int64_t tokens, int ranks, const MethodOptions& options) {
  if (!options.is("chunk", "auto")) return options.integer("chunk");
  const int64_t share = std::max<int64_t>(1, tokens / ranks);
  return std::min(std::max<int64_t>(share / 16, 64), share);
}

Layout balanced_layout(const Documents& documents, int ranks, const MethodOptions& options) {
  const std::vector<int64_t>& lengths = documents.lengths;
  const int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  const int64_t size = chunk_size(tokens, ranks, options);
  const std::vector<Chunk> chunks = cut_in_chunks(lengths, size);
  const std::vector<int> owner = deal(chunks, tokens, size, ranks);
  std::vector<std::vector<Run>> shards(static_cast<size_t>(ranks));
  for (size_t c = 0; c < chunks.size(); ++c) {
    std::vector<Run>& runs = shards[static_cast<size_t>(owner[c])];
    const Range tokens_of_chunk = chunks[c].tokens;
    const int64_t count = tokens_of_chunk.end - tokens_of_chunk.begin;
    if (!runs.empty() && runs.back().base + runs.back().count == tokens_of_chunk.begin) {
      runs.back().count += count;
    } else {
      runs.push_back({tokens_of_chunk.begin, 1, count});
    }
  }
  return Layout::from_runs(tokens, std::move(shards));
}

}  // namespace

const Method group_cast = {
    .name = "group-cast",
    .paper = "MagiAttention, SandAI-org/MagiAttention 2025",
    .summary = "chunks dealt for even work; every run of keys goes exactly to the ranks that need it, in stages",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "any tokens, ranks, heads and kv heads",
    .options = {MethodOption::integer("stages", "2", {.min = 1, .max = 65536},
                                      "parts in which remote keys are fetched, each under the compute of another"),
                MethodOption::integer("chunk", "auto", {.min = 1, .max = int64_t{1} << 31},
                                      "tokens of a chunk that is dealt as a whole", {"auto"})},
    .layout = balanced_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      const GatherPieces pieces{.stages = static_cast<int>(options.integer("stages"))};
      return [problem, pieces](int rank, Builder& b) { return write_gather(problem, pieces, rank, b); };
    },
    .formula = [](const Configuration& c, const MethodOptions& options) -> Formula {
      const GatherPieces pieces{.stages = static_cast<int>(options.integer("stages"))};
      if (!c.layout.empty() || c.ranks == 1) return gather_formula(c, "contiguous", pieces);
      if (c.mask.causal)
        return no_formula("no closed form for dealt chunks under a causal mask; known on other layouts");
      // Nobody's place matters under a full mask, as long as the shares are equal.
      const int64_t chunk = chunk_size(c.tokens, c.ranks, options);
      if (c.tokens % (c.ranks * chunk) != 0)
        return no_formula("no closed form for chunks that do not divide the tokens");
      return gather_formula(c, "contiguous", pieces);
    },
};

}  // namespace weft::methods
