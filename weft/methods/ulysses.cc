// Ulysses: trade tokens for heads by all-to-all, attend to whole sequences, trade back.
//
//   rank p holds tokens p, all heads  ->  all tokens, heads p  ->  attention  ->  tokens p, all heads
//
// DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv 2309.14509. Heads and kv heads need not divide by the ranks, and there
// may be fewer of them than ranks. With S tokens, P ranks, H and Hkv heads dividing by P, elements of one head's row sent
// per rank: forward (P-1)/P^2 * S * (2H + 2Hkv); backward as many (and H values of delta per token).
#include "weft/methods/head_exchange.h"
#include "weft/methods/methods.h"

namespace weft::methods {

const Method ulysses = {
    .name = "ulysses",
    .paper = "DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv 2309.14509",
    .summary = "all-to-all turns shards of tokens into shards of heads and back",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "any tokens, heads and kv heads; ranks beyond the number of heads stay idle in attention",
    .options = {},
    .layout = [](const std::vector<int64_t>& lengths, int ranks,
                 const MethodOptions&) { return make_layout("contiguous", lengths, ranks); },
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions&) -> Writer {
      auto grid = make_head_grid(*problem, problem->ranks(), true, 1);
      return [grid](int rank, Builder& b) { return write_head_exchange(grid, rank, b); };
    },
};

}  // namespace weft::methods
