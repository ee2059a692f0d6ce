// Whole rows of scores in programs written by hand: what rsa does not do but a schedule may.
#include <gtest/gtest.h>

#include "tests/execute_case.h"
#include "weft/schedule/builder.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

using Shared = std::shared_ptr<const Problem>;

// The rows of one field of all ranks, on every rank.
Value gather(Shared problem, Builder& b, const Value& mine, Field field) {
  const bool keys = kKeyFields.has(field);
  const Set all = b.set(Range{0, (keys ? problem->key_layout : problem->query_layout).tokens()});
  Value everything = b.whole(field, all, mine.empty() ? (keys ? b.all_kv_heads() : b.all_heads()) : mine.heads());
  Exchange x = b.exchange(0);
  for (int p = 0; p < problem->ranks(); ++p) {
    x.send(p, mine).receive(p, everything[keys ? b.keys_of(p) : b.queries_of(p)]);
  }
  x.issue();
  return everything;
}

// Heads 0, 2, 4, ... and heads 1, 3, 5, ...
std::vector<Set> head_sets(Builder& b) {
  IntervalSet even;
  for (int64_t h = 0; h < b.problem().heads; h += 2) even.append({h, h + 1});
  return {b.set(even), b.all_heads() - b.set(even)};
}

// Every third of some slots, and the others.
std::vector<Set> thirds(Builder& b, Set slots) {
  IntervalSet third;
  int64_t n = 0;
  for (const Range& range : slots.intervals().ranges()) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      if (n++ % 3 == 0) third.append({t, t + 1});
    }
  }
  return {b.set(third), slots - b.set(third)};
}

// Each rank works for the queries of the next: they come, sums of out and lse go home, and dq too. Heads apart in sets
// with gaps, keys and rows in two parts with gaps, softmax by parts of the rows, each gradient by itself.
Steps write_for_the_next(Shared problem, int rank, Builder& b) {
  const int next = (rank + 1) % problem->ranks(), before = (rank + problem->ranks() - 1) % problem->ranks();
  Value q = b.input(Field::q), k = b.input(Field::k), v = b.input(Field::v);
  Value theirs = b.whole(Field::q, b.queries_of(next), b.all_heads());
  b.exchange(1).send(before, q).receive(next, theirs).issue();
  Value keys = gather(problem, b, k, Field::k), values = gather(problem, b, v, Field::v);
  Value out = b.sums(Field::out, theirs.tokens(), theirs.heads());
  // lse stands in one value with an out that nobody writes.
  Value lse = b.whole(Field::out | Field::lse, theirs.tokens(), theirs.heads());
  std::vector<Value> probs;
  for (const Set heads : head_sets(b)) {
    Value scores = b.sums(Field::scores, theirs.tokens(), heads);
    for (const Set part : thirds(b, keys.tokens())) b.score(theirs.at(theirs.tokens(), heads), keys[part], scores);
    auto [p, l] = b.normalise(scores);
    b.exchange(2).send(rank, l).receive(rank, lse.at(l.tokens(), heads).only(Field::lse)).issue();
    std::vector<Slice> rows;
    for (const Set some : thirds(b, theirs.tokens())) rows.push_back(p[some]);
    if (!p.empty()) b.weigh(rows, values, out);
    probs.push_back(std::move(p));
    co_yield Step{};
  }
  Value sum = b.sums(Field::out, q.tokens(), q.heads()), mine = b.whole(Field::lse, q.tokens(), q.heads());
  Exchange home = b.exchange(1);
  home.send(next, out).send(next, lse.only(Field::lse));
  home.receive(before, sum, Combine::add).receive(before, mine);
  home.issue();
  out.reset(), lse.reset(), theirs.reset(), keys.reset(), values.reset();
  b.result(b.finish(sum));
  b.result(mine);
  sum.reset(), mine.reset(), q.reset(), k.reset(), v.reset();

  b.begin_backward();
  q = b.input(Field::q), k = b.input(Field::k), v = b.input(Field::v);
  Value dout = b.input(Field::dout);
  theirs = b.whole(Field::q | Field::dout, b.queries_of(next), b.all_heads());
  Exchange come = b.exchange(1);
  come.send(before, q).send(before, dout);
  come.receive(next, theirs.only(Field::q)).receive(next, theirs.only(Field::dout));
  come.issue();
  keys = gather(problem, b, k, Field::k), values = gather(problem, b, v, Field::v);
  Value dq = b.sums(Field::dq, theirs.tokens(), theirs.heads());
  Value dk = b.sums(Field::dk, keys.tokens(), keys.heads()), dv = b.sums(Field::dv, keys.tokens(), keys.heads());
  for (size_t n = 0; n < probs.size(); ++n) {
    if (probs[n].empty()) continue;
    const Set heads = probs[n].heads();
    const Slice queries = theirs.at(theirs.tokens(), heads).only(Field::q);
    const Slice gradient = theirs.at(theirs.tokens(), heads).only(Field::dout);
    Value dprobs = b.sums(Field::dprobs, theirs.tokens(), heads);
    b.weigh_backward(gradient, values, probs[n], dprobs, {});
    for (const Set part : thirds(b, values.tokens())) b.weigh_backward(gradient, values[part], probs[n], {}, dv[part]);
    Value dscores = b.normalise_backward(probs[n], dprobs);
    probs[n].reset(), dprobs.reset();
    b.score_backward(queries, keys, dscores, {}, dk);
    for (const Set part : thirds(b, keys.tokens())) b.score_backward(queries, keys[part], dscores, dq, {});
    co_yield Step{};
  }
  Value my_dq = b.sums(Field::dq, q.tokens(), q.heads());
  Value my_dk = b.sums(Field::dk, k.tokens(), k.heads()), my_dv = b.sums(Field::dv, v.tokens(), v.heads());
  b.exchange(1).send(next, dq).receive(before, my_dq, Combine::add).issue();
  Exchange x = b.exchange(3);
  for (int p = 0; p < problem->ranks(); ++p) {
    x.send(p, dk[b.keys_of(p)]).send(p, dv[b.keys_of(p)]);
    x.receive(p, my_dk, Combine::add).receive(p, my_dv, Combine::add);
  }
  x.issue();
  b.result(b.finish(my_dq));
  b.result(b.finish(my_dk));
  b.result(b.finish(my_dv));
}

TEST(ExecuteScores, RowsOfAnotherRank) {
  for (const int ranks : {1, 2, 3, 5}) {
    for (const std::string layout : {"contiguous", "zigzag", "striped"}) {
      for (const std::string mask : {"full", "causal", "causal+window:6"}) {
        for (const std::vector<int64_t>& lengths : std::vector<std::vector<int64_t>>{{29}, {3, 1, 20}, {2}}) {
          ExecuteCase c{.lengths = lengths,
                        .mask = mask,
                        .ranks = ranks,
                        .heads = 6,
                        .kv_heads = 2,
                        .dim_v = 5,
                        .layout = layout};
          SCOPED_TRACE(c.describe());
          auto problem = std::make_shared<const Problem>(c.problem());
          const Schedule schedule("by hand", problem,
                                  [problem](int rank, Builder& b) { return write_for_the_next(problem, rank, b); });
          const Report proved = verify(schedule);
          for (const Finding& finding : proved.problems) ADD_FAILURE() << finding.rank << ": " << finding.text;
          const CheckReport report = check_schedule(schedule, {.execute = {.poison = true, .delay_seed = 1}});
          EXPECT_EQ(report.errors.size(), 5u);
          for (const TensorError& error : report.errors) EXPECT_TRUE(error.ok()) << error.name << " " << error.max_rel;
          for (size_t rank = 0; rank < report.peak_bytes.size(); ++rank) {
            EXPECT_EQ(report.peak_bytes[rank], proved.ranks[rank].live_bytes) << rank;
          }
        }
      }
    }
  }
}

// Queries that see no key at all, and keys that nobody sees, on ranks of their own.
TEST(ExecuteScores, CrossAttention) {
  const Mask mask =
      Mask::from_bands(17, 13, {{.q = {0, 5}, .k = {0, 4}}, {.q = {8, 17}, .k = {4, 11}, .lo = -9, .hi = 0}});
  for (const int ranks : {1, 2, 4, 7}) {
    Problem problem(mask, make_layout("contiguous", {17}, ranks), make_layout("contiguous", {13}, ranks));
    problem.heads = 4, problem.kv_heads = 2, problem.dim = 3, problem.dim_v = 2;
    problem.backward = problem.return_lse = true;
    problem.element = problem.wire = DType::fp64;
    const CheckReport report = check_schedule(make_schedule("rsa", problem), {.execute = {.poison = true}});
    EXPECT_EQ(report.errors.size(), 5u);
    for (const TensorError& error : report.errors) EXPECT_TRUE(error.ok()) << ranks << " ranks: " << error.name;
  }
}

}  // namespace
}  // namespace weft
