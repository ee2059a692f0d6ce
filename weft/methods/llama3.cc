// Llama 3's all-gather by groups of kv heads: the next group travels while the current one is attended to.
//
//   group 0 arrives | attend own rows | group 1 arrives, attend group 0 | group 2 arrives, attend group 1 | ...
//
// Every row sees all its keys of a group at once, so partial results never meet across ranks. Memory holds two groups of
// gathered keys and values instead of all. In backward the groups are fetched again and the gradients of each are sent
// home and added in fp32 (or the wire type) while the next is computed. Grattafiori et al. 2024, arXiv 2407.21783,
// section 3.3.2; with groups in zhuzilin/ring-flash-attention, llama3_flash_attn_varlen, which adds in 16 bits and cannot
// do zigzag. Bytes are those of all-gather, messages as many times more as there are groups.
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/gather_pass.h"

namespace weft::methods {

const Method llama3 = {
    .name = "llama3",
    .paper = "Llama 3, Grattafiori et al. 2024, arXiv 2407.21783, section 3.3.2; groups as in ring-flash-attention",
    .summary = "all-gather of keys and values by groups of kv heads, each fetched while the one before is attended to",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "any tokens, ranks, heads and kv heads; memory for two gathered groups",
    .options = {MethodOption::integer("stride", "1", {.min = 1, .max = 65536}, "kv heads fetched at a time")},
    .layout = contiguous_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      const GatherPieces pieces{.kv_heads = options.integer("stride")};
      return [problem, pieces](int rank, Builder& b) { return write_gather(problem, pieces, rank, b); };
    },
    .formula =
        [](const Configuration& c, const MethodOptions& options) {
          return gather_formula(c, "contiguous", {.kv_heads = options.integer("stride")});
        },
};

}  // namespace weft::methods
