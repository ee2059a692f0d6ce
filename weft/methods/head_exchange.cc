#include "weft/methods/head_exchange.h"

#include <algorithm>

namespace weft::methods {

std::shared_ptr<const HeadGrid> make_head_grid(const Problem& problem, int degree, bool adjacent, int direction) {
  auto grid = std::make_shared<HeadGrid>();
  const int places = problem.ranks() / degree;
  grid->degree = degree;
  std::vector<IntervalSet> queries(static_cast<size_t>(places)), keys(static_cast<size_t>(places));
  for (int place = 0; place < places; ++place) {
    std::vector<int>& members = grid->members.emplace_back();
    for (int index = 0; index < degree; ++index) {
      members.push_back(adjacent ? place * degree + index : index * places + place);
      queries[static_cast<size_t>(place)].unite(problem.query_layout.shard(members.back()));
      keys[static_cast<size_t>(place)].unite(problem.key_layout.shard(members.back()));
    }
  }
  const ConsecutiveUnions query_unions(queries), key_unions(keys);
  int64_t next_kv_head = 0;
  for (int index = 0; index < degree; ++index) {
    auto ring = std::make_shared<Ring>();
    for (int place = 0; place < places; ++place) {
      ring->ranks.push_back(grid->members[static_cast<size_t>(place)][static_cast<size_t>(index)]);
    }
    ring->queries = query_unions;
    ring->keys = key_unions;
    ring->direction = direction;
    grid->rings.push_back(std::move(ring));
    const Range heads{problem.heads * index / degree, problem.heads * (index + 1) / degree};
    grid->heads.push_back(heads);
    if (heads.empty()) continue;
    grid->kv_heads_disjoint &= heads.begin / problem.group() >= next_kv_head;
    next_kv_head = (heads.end - 1) / problem.group() + 1;
  }
  return grid;
}

Steps write_head_exchange(std::shared_ptr<const HeadGrid> grid, int rank, Builder& b) {
  int place = 0, index = 0;
  for (size_t p = 0; p < grid->members.size(); ++p) {
    const auto found = std::find(grid->members[p].begin(), grid->members[p].end(), rank);
    if (found == grid->members[p].end()) continue;
    place = static_cast<int>(p);
    index = static_cast<int>(found - grid->members[p].begin());
  }
  const std::vector<int>& members = grid->members[static_cast<size_t>(place)];
  const std::shared_ptr<const Ring>& ring = grid->rings[static_cast<size_t>(index)];
  const Set queries = b.set(ring->queries[place]), keys = b.set(ring->keys[place]);  // all tokens of the place
  const Set my_queries = b.queries_of(rank), my_keys = b.keys_of(rank);
  std::vector<Set> heads, kv_heads;
  for (const Range& range : grid->heads) {
    heads.push_back(b.set(range));
    kv_heads.push_back(b.kv_heads_of(heads.back()));
  }
  const Set my_heads = heads[static_cast<size_t>(index)], my_kv_heads = kv_heads[static_cast<size_t>(index)];
  RingPass pass(b, ring, place, my_kv_heads);

  // Heads out, tokens in.
  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value qq = b.whole(Field::q, queries, my_heads), kk = b.whole(Field::k | Field::v, keys, my_kv_heads);
  Exchange to_heads = b.exchange(0);
  for (size_t m = 0; m < members.size(); ++m) {
    to_heads.send(members[m], q.at(my_queries, heads[m])).send(members[m], kv.at(my_keys, kv_heads[m]));
    to_heads.receive(members[m], qq[b.queries_of(members[m])]).receive(members[m], kk[b.keys_of(members[m])]);
  }
  to_heads.issue();
  q.reset(), kv.reset();
  co_yield Step{};

  Value acc = b.partial(qq), current = kk;
  for (int t = 0; t < pass.steps(); ++t) {
    pass.forward(t, qq, acc, current);
    co_yield Step{};
  }
  // Only lse stays for backward, so it is finished apart from out.
  Value lse = b.finish(acc.only(Field::lse)), computed = b.finish(acc.only(Field::out));
  acc.reset();

  // Tokens out, heads in.
  const bool return_lse = b.problem().return_lse;
  Value out = b.whole(return_lse ? Field::out | Field::lse : Fields(Field::out), my_queries, b.all_heads());
  Exchange to_tokens = b.exchange(0);
  for (size_t m = 0; m < members.size(); ++m) {
    const Set theirs = b.queries_of(members[m]);
    to_tokens.send(members[m], computed[theirs]);
    to_tokens.receive(members[m], out.at(my_queries, heads[m]).only(Field::out));
    if (!return_lse) continue;
    to_tokens.send(members[m], lse[theirs]);
    to_tokens.receive(members[m], out.at(my_queries, heads[m]).only(Field::lse));
  }
  to_tokens.issue();
  computed.reset();
  b.result(out);
  out.reset();
  co_yield Step{};
  if (!b.problem().backward) co_return;

  b.begin_backward();
  Value dout = b.input(Field::dout);
  {
    Value given = b.input(Field::out);
    Value delta = b.prepare_backward(given, dout);
    Value bundle = b.whole(Field::dout | Field::delta, queries, my_heads);
    Exchange x = b.exchange(0);
    for (size_t m = 0; m < members.size(); ++m) {
      const Slice theirs = bundle[b.queries_of(members[m])];
      x.send(members[m], dout.at(my_queries, heads[m])).send(members[m], delta.at(my_queries, heads[m]));
      x.receive(members[m], theirs.only(Field::dout)).receive(members[m], theirs.only(Field::delta));
    }
    x.issue();
    dout = std::move(bundle);
  }
  co_yield Step{};

  Value dqq = b.sums(Field::dq, queries, my_heads), sums;
  for (int t = 0; t < pass.steps(); ++t) {
    pass.backward(t, qq, kk, {dout, lse}, dqq, current, sums);
    co_yield Step{};
  }
  qq.reset(), kk.reset(), current.reset(), dout.reset(), lse.reset();

  // Gradients home: complete rows are finished first, which halves 16-bit traffic; repeated kv heads are added.
  Value dq_done = b.finish(dqq), dq = b.whole(Field::dq, my_queries, b.all_heads());
  dqq.reset();
  const bool done = grid->kv_heads_disjoint;
  const Fields dk_dv = Field::dk | Field::dv;
  if (done) sums = b.finish(sums);
  Value dkv = done ? b.whole(dk_dv, my_keys, b.all_kv_heads()) : b.sums(dk_dv, my_keys, b.all_kv_heads());
  Exchange home = b.exchange(0);
  for (size_t m = 0; m < members.size(); ++m) {
    home.send(members[m], dq_done[b.queries_of(members[m])]).send(members[m], sums[b.keys_of(members[m])]);
    home.receive(members[m], dq.at(my_queries, heads[m]));
    home.receive(members[m], dkv.at(my_keys, kv_heads[m]), done ? Combine::copy : Combine::add);
  }
  home.issue();
  dq_done.reset(), sums.reset();
  b.result(dq);
  b.result(done ? dkv : b.finish(dkv));
}

}  // namespace weft::methods
