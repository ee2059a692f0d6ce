#include "weft/methods/passes/head_exchange.h"

#include <algorithm>

namespace weft::methods {
namespace {

// Splits the query heads, and says whether no kv head is read by two members.
void split_heads(const Problem& problem, HeadGrid& grid) {
  const int degree = grid.shape.degree;
  int64_t next_kv_head = 0;
  for (int index = 0; index < degree; ++index) {
    Range heads{problem.heads * index / degree, problem.heads * (index + 1) / degree};
    if (grid.shape.whole_kv_heads) {
      heads = {problem.kv_heads * index / degree * problem.group(),
               problem.kv_heads * (index + 1) / degree * problem.group()};
    }
    grid.heads.push_back(heads);
    if (heads.empty()) continue;
    grid.kv_heads_disjoint &= heads.begin / problem.group() >= next_kv_head;
    next_kv_head = (heads.end - 1) / problem.group() + 1;
  }
}

ContextRing make_context(const HeadGrid& grid, int index, const ConsecutiveUnions& queries,
                         const ConsecutiveUnions& keys) {
  std::vector<int> ranks;
  for (const std::vector<int>& place : grid.members) ranks.push_back(place[static_cast<size_t>(index)]);
  const int places = static_cast<int>(ranks.size()), window = grid.shape.window;
  // One window, or windows of one place: a flat ring, which is cheaper by a hop in backward.
  if (window > 1 && window < places) {
    return double_context(make_double_ring(std::move(ranks), grid.queries, grid.keys, Travels::keys, places / window,
                                           grid.shape.direction));
  }
  auto ring = std::make_shared<Ring>();
  ring->ranks = std::move(ranks);
  ring->queries = queries;
  ring->keys = keys;
  ring->direction = grid.shape.direction;
  return flat_context(std::move(ring));
}

// What changes hands: fields of one side.
struct Load {
  Value from, into;
  Fields fields;
  Combine combine = Combine::copy;
};

// A rank's side of the trades in its place.
class Trader {
 public:
  Trader(Builder& b, const HeadGrid& grid, int place, int index)
      : b_(b), ranks_(grid.members[static_cast<size_t>(place)]), me_(static_cast<size_t>(index)) {
    together_ = grid.shape.together;
    for (int rank : ranks_) queries_.push_back(b.queries_of(rank)), keys_.push_back(b.keys_of(rank));
    for (const Range& range : grid.heads) {
      heads_.push_back(b.set(range));
      kv_heads_.push_back(b.kv_heads_of(heads_.back()));
    }
  }
  Set heads() const { return heads_[me_]; }
  Set kv_heads() const { return kv_heads_[me_]; }

  // All heads of the own tokens become the own heads of all tokens of the place.
  void to_heads(const std::vector<Load>& loads) { trade(loads, true); }
  // And back.
  void to_tokens(const std::vector<Load>& loads) { trade(loads, false); }

 private:
  void add(Exchange& x, const Load& load, Fields fields, bool to_heads) const {
    const bool keys = kKeyFields.includes(fields);
    const std::vector<Set>&tokens = keys ? keys_ : queries_, &heads = keys ? kv_heads_ : heads_;
    for (size_t m = 0; m < ranks_.size(); ++m) {
      const auto my_tokens = [&](const Value& value) { return value.at(tokens[me_], heads[m]).only(fields); };
      const auto my_heads = [&](const Value& value) { return value.at(tokens[m], heads[me_]).only(fields); };
      x.send(ranks_[m], to_heads ? my_tokens(load.from) : my_heads(load.from));
      x.receive(ranks_[m], to_heads ? my_heads(load.into) : my_tokens(load.into), load.combine);
    }
  }

  void trade(const std::vector<Load>& loads, bool to_heads) {
    int lane = 0;
    Exchange x = b_.exchange(lane);
    for (const Load& load : loads) {
      if (together_ || load.combine != Combine::copy) {  // the fields of sums stay together
        add(x, load, load.fields, to_heads);
        if (!together_) x.issue(), x = b_.exchange(++lane);
        continue;
      }
      load.fields.for_each([&](Field field) {
        add(x, load, field, to_heads);
        x.issue(), x = b_.exchange(++lane);
      });
    }
    if (together_) x.issue();
  }

  Builder& b_;
  const std::vector<int>& ranks_;  // of the members
  size_t me_;
  bool together_;
  std::vector<Set> queries_, keys_, heads_, kv_heads_;  // of the members
};

}  // namespace

std::shared_ptr<const HeadGrid> make_head_grid(const Problem& problem, const HeadGridShape& shape) {
  auto grid = std::make_shared<HeadGrid>();
  grid->shape = shape;
  const int places = problem.ranks() / shape.degree;
  grid->queries.resize(static_cast<size_t>(places));
  grid->keys.resize(static_cast<size_t>(places));
  for (int place = 0; place < places; ++place) {
    std::vector<int>& members = grid->members.emplace_back();
    for (int index = 0; index < shape.degree; ++index) {
      members.push_back(shape.rank(place, index, places));
      grid->queries[static_cast<size_t>(place)].unite(problem.query_layout.shard(members.back()));
      grid->keys[static_cast<size_t>(place)].unite(problem.key_layout.shard(members.back()));
    }
  }
  split_heads(problem, *grid);
  const ConsecutiveUnions queries(grid->queries), keys(grid->keys);
  for (int index = 0; index < shape.degree; ++index) {
    grid->rings.push_back(make_context(*grid, index, queries, keys));
  }
  return grid;
}

Steps write_head_exchange(std::shared_ptr<const HeadGrid> grid, int rank, Builder& b) {
  const HeadGridShape& shape = grid->shape;
  const int places = static_cast<int>(grid->members.size());
  const int place = shape.adjacent ? rank / shape.degree : rank % places;
  const int index = shape.adjacent ? rank % shape.degree : rank / places;
  const Set queries = b.set(grid->queries[static_cast<size_t>(place)]);  // all tokens of the place
  const Set keys = b.set(grid->keys[static_cast<size_t>(place)]);
  const Set my_queries = b.queries_of(rank), my_keys = b.keys_of(rank);
  Trader trader(b, *grid, place, index);

  // Heads out, tokens in.
  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value qq = b.whole(Field::q, queries, trader.heads()), kk = b.whole(Field::k | Field::v, keys, trader.kv_heads());
  trader.to_heads({{q, qq, Field::q}, {kv, kk, Field::k | Field::v}});
  q.reset(), kv.reset();
  co_yield Step{};

  Value acc = b.partial(qq);
  const auto context = grid->rings[static_cast<size_t>(index)](b, place, trader.kv_heads());
  for (int t = 0; t < context->forward_steps(); ++t) {
    context->forward(t, qq, kk, acc);
    co_yield Step{};
  }
  // Only lse stays for backward, so it is finished apart from out.
  Value lse = b.finish(acc.only(Field::lse)), computed = b.finish(acc.only(Field::out));
  acc.reset();

  // Tokens out, heads in.
  const bool return_lse = b.problem().return_lse;
  Value out = b.whole(return_lse ? Field::out | Field::lse : Fields(Field::out), my_queries, b.all_heads());
  {
    std::vector<Load> results = {{computed, out, Field::out}};
    if (return_lse) results.push_back({lse, out, Field::lse});
    trader.to_tokens(results);
  }
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
    Value bundle = b.whole(Field::dout | Field::delta, queries, trader.heads());
    trader.to_heads({{dout, bundle, Field::dout}, {delta, bundle, Field::delta}});
    dout = std::move(bundle);
  }
  co_yield Step{};

  Value dqq = b.sums(Field::dq, queries, trader.heads());
  for (int t = 0; t < context->backward_steps(); ++t) {
    context->backward(t, qq, kk, {dout, lse}, dqq);
    co_yield Step{};
  }
  Value sums = context->take_sums();
  qq.reset(), kk.reset(), dout.reset(), lse.reset();

  // Gradients home: complete rows are finished first, which halves 16-bit traffic; repeated kv heads are added.
  Value dq_done = b.finish(dqq), dq = b.whole(Field::dq, my_queries, b.all_heads());
  dqq.reset();
  const bool done = grid->kv_heads_disjoint;
  const Fields dk_dv = Field::dk | Field::dv;
  if (done) sums = b.finish(sums);
  Value dkv = done ? b.whole(dk_dv, my_keys, b.all_kv_heads()) : b.sums(dk_dv, my_keys, b.all_kv_heads());
  trader.to_tokens({{dq_done, dq, Field::dq}, {sums, dkv, dk_dv, done ? Combine::copy : Combine::add}});
  dq_done.reset(), sums.reset();
  b.result(dq);
  b.result(done ? dkv : b.finish(dkv));
}

Layout layout_of_members(const Layout& of_places, const HeadGridShape& shape) {
  const int places = of_places.ranks();
  std::vector<std::vector<Run>> shards(static_cast<size_t>(places * shape.degree));
  for (int place = 0; place < places; ++place) {
    const int64_t tokens = of_places.tokens_of(place);
    int64_t passed = 0;
    int index = 0;
    for (Run run : of_places.runs(place)) {
      while (run.count > 0) {
        const int64_t end = tokens * (index + 1) / shape.degree;  // of this member, in local tokens of the place
        const int64_t take = std::min(run.count, end - passed);
        if (take > 0) {
          shards[static_cast<size_t>(shape.rank(place, index, places))].push_back({run.base, run.stride, take});
        }
        run.base += take * run.stride, run.count -= take, passed += take;
        if (passed == end) ++index;
      }
    }
  }
  return Layout::from_runs(of_places.tokens(), std::move(shards));
}

MethodOption kv_option() {
  return MethodOption::choice("kv", "replicate", {"replicate", "whole"},
                              "heads that do not divide: equal parts, repeating kv heads; or whole kv heads, uneven");
}

MethodOption exchange_option() {
  return MethodOption::choice("exchange", "together", {"together", "each"},
                              "whether q, k and v travel in one message, or each as soon as its projection is there");
}

void read_head_options(const MethodOptions& options, HeadGridShape& shape) {
  shape.whole_kv_heads = options.is("kv", "whole");
  shape.together = options.is("exchange", "together");
}

}  // namespace weft::methods
