// All-gather attention: every rank fetches the keys and values that its queries see, then attends in one go.
//
//   forward   send each rank the rows of k, v that it needs; meanwhile attend to the own rows; then to the fetched ones
//   backward  fetch again; dk, dv partials go straight home and are added there in rank order
//
// Llama 3 (Grattafiori et al. 2024, arXiv 2407.21783, section 3.3.2). No merging of partials across steps and one
// exchange per direction, at the price of memory: up to all S rows of k and v live on every rank. With S tokens and P
// ranks, rows of k, v sent per rank under a full mask: forward (P-1)/P * S, backward the same plus as many of dk, dv.
#include "weft/methods/gather_pass.h"
#include "weft/methods/methods.h"

namespace weft::methods {

const Method all_gather = {
    .name = "all-gather",
    .paper = "Llama 3, Grattafiori et al. 2024, arXiv 2407.21783, section 3.3.2",
    .summary = "every rank fetches the keys and values that its queries see, and attends in one go",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "any tokens, ranks, heads and kv heads; memory for the gathered keys and values",
    .options = {},
    .layout = [](const std::vector<int64_t>& lengths, int ranks,
                 const MethodOptions&) { return zigzag_layout(lengths, ranks); },
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions&) -> Writer {
      return [problem](int rank, Builder& b) { return write_gather(problem, {}, rank, b); };
    },
};

}  // namespace weft::methods
