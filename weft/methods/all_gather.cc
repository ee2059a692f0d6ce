// All-gather attention: every rank fetches the keys and values that its queries see, then attends in one go.
//
//   forward   send each rank the rows of k, v that it needs; meanwhile attend to the own rows; then to the fetched ones
//   backward  fetch again; dk, dv partials go straight home and are added there in rank order
//
// Llama 3 (Grattafiori et al. 2024, arXiv 2407.21783, section 3.3.2). No merging of partials across steps and one
// exchange per direction, at the price of memory: up to all S rows of k and v live on every rank. With S tokens and P
// ranks, rows of k, v sent per rank under a full mask: forward (P-1)/P * S, backward the same plus as many of dk, dv.
#include "weft/methods/methods.h"

namespace weft::methods {
namespace {

// The rows of k and v of all other ranks that this rank needs, in one value.
Value gather(Builder& b, const Value& kv, const std::vector<Set>& taken_by, const std::vector<Set>& taken_from,
             Set everything) {
  Value gathered = b.whole(Field::k | Field::v, everything, b.all_kv_heads());
  Exchange x = b.exchange(0);
  for (size_t p = 0; p < taken_by.size(); ++p) {
    x.send(static_cast<int>(p), kv[taken_by[p]]);
    x.receive(static_cast<int>(p), gathered[taken_from[p]]);
  }
  x.issue();
  return gathered;
}

Steps write(std::shared_ptr<const Problem> problem, int rank, Builder& b) {
  std::vector<Set> taken_by, taken_from;  // by rank: rows of mine that it needs, rows of its that I need
  IntervalSet all;
  for (int p = 0; p < problem->ranks(); ++p) {
    const bool other = p != rank;
    const Layout &queries = problem->query_layout, &keys = problem->key_layout;
    taken_by.push_back(other ? b.keys_needed(queries.shard(p), keys.shard(rank)) : Set());
    taken_from.push_back(other ? b.keys_needed(queries.shard(rank), keys.shard(p)) : Set());
    all.unite(taken_from.back().empty() ? IntervalSet() : taken_from.back().intervals());
  }
  const Set everything = b.set(all);

  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value acc = b.partial(q);
  Value gathered = gather(b, kv, taken_by, taken_from, everything);
  b.attend(q, kv, acc);
  co_yield Step{};
  b.attend(q, gathered, acc);
  gathered.reset();
  b.result(b.finish(acc));
  acc.reset(), q.reset(), kv.reset();
  co_yield Step{};
  if (!problem->backward) co_return;

  b.begin_backward();
  q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value out = b.input(Field::out | Field::lse), dout = b.input(Field::dout);
  gathered = gather(b, kv, taken_by, taken_from, everything);
  Value delta = b.prepare_backward(out.only(Field::out), dout);
  Value dq = b.sums(Field::dq, q.tokens(), q.heads());
  Value dkv = b.sums(Field::dk | Field::dv, kv.tokens(), kv.heads());
  b.attend_backward(q, kv, {dout, out.only(Field::lse), delta}, dq, dkv);
  co_yield Step{};
  Value sums = b.sums(Field::dk | Field::dv, everything, b.all_kv_heads());
  b.attend_backward(q, gathered, {dout, out.only(Field::lse), delta}, dq, sums);
  gathered.reset();
  Exchange x = b.exchange(1);
  for (int p = 0; p < problem->ranks(); ++p) {
    x.send(p, sums[taken_from[static_cast<size_t>(p)]]);
    x.receive(p, dkv[taken_by[static_cast<size_t>(p)]], Combine::add);
  }
  x.issue();
  sums.reset();
  b.result(b.finish(dq));  // while the sums travel
  co_yield Step{};
  b.result(b.finish(dkv));
}

}  // namespace

const Method all_gather = {
    .name = "all-gather",
    .paper = "Llama 3, Grattafiori et al. 2024, arXiv 2407.21783, section 3.3.2",
    .summary = "every rank fetches the keys and values that its queries see, and attends in one go",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "any tokens, ranks, heads and kv heads; memory for the gathered keys and values",
    .options = {},
    .layout =
        [](const std::vector<int64_t>& lengths, int ranks, const MethodOptions&) {
          return make_layout(lengths.size() == 1 ? "zigzag" : "document-zigzag", lengths, ranks);
        },
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions&) -> Writer {
      return [problem](int rank, Builder& b) { return write(problem, rank, b); };
    },
};

}  // namespace weft::methods
