// Ulysses: trade tokens for heads by all-to-all, attend to whole sequences, trade back.
//
//   rank p holds tokens p, all heads  ->  all tokens, heads p  ->  attention  ->  tokens p, all heads
//
// DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv 2309.14509. Heads and kv heads need not divide by the ranks, and there
// may be fewer of them than ranks (head_exchange.h says who takes what). With S tokens, P ranks, H and Hkv heads dividing
// by P, elements of one head's row sent per rank: forward (P-1)/P^2 * S * (2H + 2Hkv); backward as many (and H values of
// delta per token). With P a multiple of Hkv, P kv heads travel instead of Hkv, and their gradients as sums.
//
// Published codes repeat kv heads in memory to that end, refuse what does not divide (DeepSpeed, TransformerEngine), or pad
// kv heads to a multiple of the ranks and query heads with them (vLLM-Omni; compare `kv=whole`).
// `exchange=each` is the exchange of VeOmni's async Ulysses: a message for each of q, k, v.
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/head_exchange.h"

namespace weft::methods {
namespace {

HeadGridShape ulysses_shape(int ranks, const MethodOptions& options) {
  HeadGridShape shape{.degree = ranks};
  read_head_options(options, shape);
  return shape;
}

}  // namespace

const Method ulysses = {
    .name = "ulysses",
    .paper = "DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv 2309.14509",
    .summary = "all-to-all turns shards of tokens into shards of heads and back",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "any tokens, heads and kv heads; ranks without heads stay idle in attention",
    .options = {kv_option(), exchange_option()},
    .layout = contiguous_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      auto grid = make_head_grid(*problem, ulysses_shape(problem->ranks(), options));
      return [grid](int rank, Builder& b) { return write_head_exchange(grid, rank, b); };
    },
    .formula =
        [](const Configuration& c, const MethodOptions& options) {
          return head_exchange_formula(c, ulysses_shape(c.ranks, options), "contiguous");
        },
};

}  // namespace weft::methods
