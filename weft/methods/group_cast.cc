// Group-cast: any layout; every run of keys goes exactly to the ranks that need it, every gradient straight home.
//
//   stage 0: own keys while the rows of near ranks arrive; stage 1: those while the next ranks' arrive; ...
//
// The remote rows are fetched in stages by distance between ranks, so that all but the first travel under compute, and
// memory holds two stages: about a shard's rows, whatever the number of ranks. Tokens are dealt in chunks, so that work under the mask and tokens are even, whatever the
// documents, and rows that ranks need of each other are few (weft/layout/placement.h). MagiAttention (SandAI-org/
// MagiAttention 2025) deals by work alone, which scatters documents; placement by traffic follows DCP (Jiang et al. 2025,
// arXiv 2510.10620).
#include <algorithm>

#include "weft/layout/placement.h"
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/gather_pass.h"

namespace weft::methods {
namespace {

// Sixteen chunks a rank, or an even number of at least 64 tokens, or two.
std::vector<Range> cut_in_chunks(int64_t tokens, int ranks, const MethodOptions& options) {
  const bool given = !options.is("chunk", "auto");
  const int64_t share = tokens / ranks, a_rank = std::clamp<int64_t>(share / 128 * 2, 2, 16);
  const int64_t size = given ? options.integer("chunk") : 1;
  const int64_t count = given ? (tokens + size - 1) / size : std::min(tokens, a_rank * ranks);
  const auto border = [&](int64_t i) { return given ? std::min(tokens, i * size) : i * tokens / count; };
  std::vector<Range> chunks;
  for (int64_t i = 0; i < count; ++i) chunks.push_back({border(i), border(i + 1)});
  return chunks;
}

// Where one sequence is placed without a search; empty: nowhere. These are even, and no even placement is known to send
// less: only with a few percent more work on some ranks than on others does one.
std::string_view known_placement(const MaskRule& rule, const MethodOptions& options) {
  if (!options.is("placement", "traffic") || !options.is("chunk", "auto") || rule.window > 0) return {};
  return rule.causal ? "zigzag" : "contiguous";
}

Layout placed_layout(const Documents& documents, int ranks, const MethodOptions& options) {
  const std::vector<int64_t>& lengths = documents.lengths;
  const std::string_view known = known_placement(documents.rule, options);
  if (lengths.size() == 1 && !known.empty()) return make_layout(known, lengths, ranks);
  const Mask mask = Mask::documents(lengths, documents.rule);
  const std::vector<Range> chunks = cut_in_chunks(mask.keys(), ranks, options);
  if (options.is("placement", "work")) return place_by_work(mask, chunks, ranks);
  return place_by_traffic(mask, lengths, chunks, ranks, options.integer("imbalance"));
}

// Two stages are held at a time: `auto` makes that one shard's rows on the mean, with one other rank in a stage at least.
// Fewer are no better: the last stage of gradients is never hidden, and it is a larger part of them then.
int stages_of(const Problem& problem, const MethodOptions& options) {
  if (!options.is("stages", "auto")) return static_cast<int>(options.integer("stages"));
  const AllowedPairs pairs(problem.mask, problem.query_layout.axis(), problem.key_layout.axis());
  const IntervalSet all(Range{0, problem.key_layout.tokens()});
  int64_t fetched = 0;  // by all ranks
  for (int rank = 0; rank < problem.ranks(); ++rank) {
    const IntervalSet needed = pairs.keys_needed(problem.query_layout.shard(rank), all);
    fetched += subtract(needed, problem.key_layout.shard(rank)).size();
  }
  const int64_t most = std::max(1, problem.ranks() - 1), shards = ceil_div(2 * fetched, all.size());
  return static_cast<int>(std::clamp(shards, std::min<int64_t>(2, most), most));
}

Formula group_cast_formula(const Configuration& c, const MethodOptions& options) {
  // Without a window, half a shard or more travels between two ranks on the mean: as many stages as other ranks.
  const int stages =
      options.is("stages", "auto") ? std::max(1, c.ranks - 1) : static_cast<int>(options.integer("stages"));
  const GatherPieces pieces{.stages = stages};
  const std::string_view known = known_placement(c.mask, options);
  if (!c.layout.empty() || c.ranks == 1 || !known.empty())
    return gather_formula(c, known.empty() ? "contiguous" : known, pieces);
  if (c.mask.causal) return no_formula("no closed form for dealt chunks under a causal mask; known on other layouts");
  // Nobody's place matters under a full mask, as long as the shares are equal.
  const std::vector<Range> chunks = cut_in_chunks(c.tokens, c.ranks, options);
  const auto differs = [&](Range chunk) { return chunk.size() != chunks[0].size(); };
  if (chunks.size() % static_cast<size_t>(c.ranks) != 0 || std::any_of(chunks.begin(), chunks.end(), differs))
    return no_formula("no closed form for chunks that do not divide the tokens");
  return gather_formula(c, "contiguous", pieces);
}

}  // namespace

const Method group_cast = {
    .name = "group-cast",
    .paper = "MagiAttention, SandAI-org/MagiAttention 2025",
    .summary =
        "chunks placed for even work and few rows to send; every run of keys goes exactly to the ranks that need it, "
        "in stages",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "any tokens, ranks, heads and kv heads",
    .options = {MethodOption::integer("stages", "auto", {.min = 1, .max = 65536},
                                      "parts in which remote keys are fetched, each under the compute of another",
                                      {"auto"}),
                MethodOption::choice(
                    "placement", "traffic", {"traffic", "work"},
                    "of chunks on ranks: for few rows to send within the imbalance, or for even work alone"),
                MethodOption::integer("imbalance", "5", {.min = 0, .max = 1000},
                                      "percent above the mean that a rank's work may be, with placement=traffic"),
                MethodOption::integer("chunk", "auto", {.min = 1, .max = int64_t{1} << 31},
                                      "tokens of a chunk that is placed as a whole", {"auto"})},
    .layout = placed_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      const GatherPieces pieces{.stages = stages_of(*problem, options)};
      return [problem, pieces](int rank, Builder& b) { return write_gather(problem, pieces, rank, b); };
    },
    .formula = group_cast_formula,
};

}  // namespace weft::methods
