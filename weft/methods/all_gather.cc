// All-gather attention: every rank fetches the keys and values that its queries see, then attends in one go.
//
//   forward   send each rank the rows of k, v that it needs; meanwhile attend to the own rows; then to the fetched ones
//   backward  fetch again, or use what was kept; dk, dv partials go straight home and are added there in rank order
//
// In chunks, part 1 of every rank's rows arrives while the own rows are attended to, part 2 while part 1 is, ...: memory
// holds two parts instead of all, and every rank sends to all others at once, in every step. On links from each to each
// that loads them as evenly as `tasp` does, without passing anything on.
//
// Llama 3 (Grattafiori et al. 2024, arXiv 2407.21783, section 3.3.2). No merging of partials across steps and one
// exchange per direction, at the price of memory: up to all S rows of k and v live on every rank. With S tokens and P
// ranks, rows of k, v sent per rank under a full mask: forward (P-1)/P * S, backward the same plus as many of dk, dv; without
// the second gather where forward's is kept, at the price of S rows of k and v a layer until backward.
//
// That is the LSS Transformer (Wang et al. 2023, arXiv 2311.02382) on contiguous shards: one gather in which k and v are one
// message, one reduce-scatter of dk and dv. Its name is an alias. Its other half, averaging the gradients of parameters over
// sequence and data ranks, is the trainer's; a mean over shards of unequal token counts would be wrong.
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/gather_pass.h"

namespace weft::methods {

namespace {

constexpr std::string_view kGatherMasks = "full, causal, sliding window, packed documents and combinations";
constexpr std::string_view kGatherNeeds =
    "any tokens, ranks, heads and kv heads; memory for the gathered keys and values";

MethodOption backward_option(std::string_view fallback) {
  return MethodOption::choice("backward", fallback, {"refetch", "keep"},
                              "gathered keys and values: fetched again in backward, or kept from forward");
}

MethodOption chunks_option() {
  return MethodOption::integer("chunks", "1", {.min = 1, .max = 1024},
                               "parts of every rank's rows, each fetched while the one before is attended to");
}

GatherPieces pieces_of(const MethodOptions& options) {
  return {.chunks = static_cast<int>(options.integer("chunks")), .keep = options.is("backward", "keep")};
}

Writer make_gather_writer(std::shared_ptr<const Problem> problem, const MethodOptions& options) {
  const GatherPieces pieces = pieces_of(options);
  return [problem, pieces](int rank, Builder& b) { return write_gather(problem, pieces, rank, b); };
}

}  // namespace

const Method all_gather = {
    .name = "all-gather",
    .paper = "Llama 3, Grattafiori et al. 2024, arXiv 2407.21783, section 3.3.2",
    .summary = "every rank fetches the keys and values that its queries see, and attends in one go",
    .masks = kGatherMasks,
    .needs = kGatherNeeds,
    .options = {chunks_option(), backward_option("refetch")},
    .layout = zigzag_layout,
    .writer = make_gather_writer,
    .formula = [](const Configuration& c,
                  const MethodOptions& options) { return gather_formula(c, "zigzag", pieces_of(options)); },
};

const Method lss = {
    .name = "lss",
    .paper = "LSS Transformer, Wang et al. 2023, arXiv 2311.02382",
    .summary = "one gather of keys and values of contiguous shards, kept for backward; one reduce-scatter of gradients",
    .masks = kGatherMasks,
    .needs = kGatherNeeds,
    .options = {chunks_option(), backward_option("keep")},
    .layout = contiguous_layout,
    .writer = make_gather_writer,
    .formula = [](const Configuration& c,
                  const MethodOptions& options) { return gather_formula(c, "contiguous", pieces_of(options)); },
    .alias_of = "all-gather",
};

}  // namespace weft::methods
