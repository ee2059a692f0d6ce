// Ring attention: queries stay, key-value blocks go round, partial results merge where the queries are.
//
//   4 ranks, causal, zigzag layout, reverse (cell: key-value block that the rank attends to)
//            rank 0   rank 1   rank 2   rank 3
//   step 0      0        1        2        3
//   step 1      1        2        3        0lo      0lo: only the half that the ranks after the wrap still need
//   step 2      2        3        0lo      1lo
//   step 3      3        0lo      1lo      2lo
//
// One writer, three names: the layout and the direction are all that distinguishes ring (Liu, Zaharia, Abbeel 2023,
// arXiv 2310.01889), zigzag (zhuzilin/ring-flash-attention, issue 2; Megatron context parallelism) and striped
// (Brandon et al. 2023, arXiv 2311.09431). With S tokens and P ranks, kv rows sent per rank under a full mask:
// forward (P-1)/P * S, backward (P-2)/P * S, and (P-1)/P * S rows of dk, dv.
#include <numeric>

#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/backward_inputs.h"
#include "weft/methods/passes/ring_pass.h"

namespace weft::methods {
namespace {

Steps write(std::shared_ptr<const Ring> ring, int rank, Builder& b) {
  RingPass pass(b, ring, rank, b.all_kv_heads());
  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value acc = b.partial(q), current = kv;
  for (int t = 0; t < pass.steps(); ++t) {
    pass.forward(t, q, acc, current);
    co_yield Step{};
  }
  b.result(b.finish(acc));
  acc.reset(), q.reset(), kv.reset();
  if (!b.problem().backward) co_return;

  if (pass.steps() == 1) current.reset();  // it is the own block, which the caller gives again
  BackwardInputs in(b);
  in.prepare();
  Value sums;
  if (pass.steps() == 1) current = in.kv;
  for (int t = 0; t < pass.steps(); ++t) {
    pass.backward(t, in.q, in.kv, in.bundle(), in.dq, current, sums);
    co_yield Step{};
  }
  b.result(b.finish(in.dq));
  b.result(b.finish(sums));
}

Writer make_writer(std::shared_ptr<const Problem> problem, const MethodOptions& options) {
  auto ring = std::make_shared<Ring>();
  for (int r = 0; r < problem->ranks(); ++r) ring->ranks.push_back(r);
  ring->queries = problem->query_layout.shards();
  ring->keys = problem->key_layout.shards();
  ring->direction = direction_of(options);
  ring->prepare(problem->pairs);
  return [ring = std::shared_ptr<const Ring>(std::move(ring))](int rank, Builder& b) { return write(ring, rank, b); };
}

constexpr std::string_view kAllMasks = "full, causal, sliding window, packed documents and combinations";
constexpr std::string_view kNeeds = "any tokens, ranks, heads and kv heads";

}  // namespace

const Method ring = {
    .name = "ring",
    .paper = "Ring Attention, Liu, Zaharia, Abbeel 2023, arXiv 2310.01889",
    .summary = "key-value blocks go round a ring of contiguous shards; under a causal mask they stop by themselves",
    .masks = kAllMasks,
    .needs = kNeeds,
    .options = {direction_option("forward")},
    .layout = contiguous_layout,
    .writer = make_writer,
    .formula = [](const Configuration& c,
                  const MethodOptions& options) { return ring_formula(c, "contiguous", direction_of(options)); },
};

const Method zigzag = {
    .name = "zigzag",
    .paper = "zigzag ring of zhuzilin/ring-flash-attention 2024, also Megatron context parallelism and Llama 3",
    .summary = "ring over a layout that balances causal work; long documents are cut in 2 x ranks chunks",
    .masks = kAllMasks,
    .needs = kNeeds,
    .options = {direction_option("reverse")},
    .layout = zigzag_layout,
    .writer = make_writer,
    .formula = [](const Configuration& c,
                  const MethodOptions& options) { return ring_formula(c, "zigzag", direction_of(options)); },
};

const Method striped = {
    .name = "striped",
    .paper = "Striped Attention, Brandon et al. 2023, arXiv 2311.09431",
    .summary = "ring over tokens dealt one by one, balanced to within a token per row and step, or in blocks of them",
    .masks = kAllMasks,
    .needs = kNeeds,
    .options = {direction_option("forward"),
                MethodOption::integer("block", "1", {.min = 1, .max = (int64_t{1} << 31) - 1},
                                      "tokens dealt at a time")},
    .layout =
        [](const Documents& documents, int ranks, const MethodOptions& options) {
          const int64_t tokens = std::accumulate(documents.lengths.begin(), documents.lengths.end(), int64_t{0});
          return Layout::striped(tokens, ranks, options.integer("block"));
        },
    .writer = make_writer,
    .formula =
        [](const Configuration& c, const MethodOptions& options) {
          return ring_formula(c, "striped", direction_of(options), options.integer("block"));
        },
};

}  // namespace weft::methods
