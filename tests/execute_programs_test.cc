// Programs written by hand: what no method does but a schedule may, and what it must not.
#include <gtest/gtest.h>

#include <chrono>

#include "tests/execute_case.h"
#include "weft/schedule/builder.h"
#include "weft/transport/run_threads.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

using Shared = std::shared_ptr<const Problem>;

Schedule schedule_of(const ExecuteCase& c, Steps (*write)(Shared, int, Builder&)) {
  auto problem = std::make_shared<const Problem>(c.problem());
  return Schedule("by hand", problem, [problem, write](int rank, Builder& b) { return write(problem, rank, b); });
}

// Heads 1, 3, 5, ... or 0, 2, 4, ...
Set every_second(Builder& b, int64_t first, int64_t heads) {
  IntervalSet set;
  for (int64_t h = first; h < heads; h += 2) set.append({h, h + 1});
  return b.set(set);
}

// The keys and values of all ranks, head by head over several lanes, the own ones through an exchange with itself.
Value gather(Shared problem, Builder& b, const Value& kv, Set all) {
  Value everything = b.whole(Field::k | Field::v, all, b.all_kv_heads());
  for (int64_t h = 0; h < problem->kv_heads; ++h) {
    Exchange x = b.exchange(static_cast<int>(h % 3));
    const Set head = b.set(Range{h, h + 1});
    for (int p = 0; p < problem->ranks(); ++p) {
      x.send(p, kv.at(kv.tokens(), head));
      x.receive(p, everything.at(b.keys_of(p), head));
    }
    x.issue();
  }
  return everything;
}

// Attention on gathered keys in the oddest way: heads apart in sets with gaps, results in slices, saved inputs, delta on
// other tokens than dout, dk and dv in values of their own, gradients sent home to be added.
Steps write_odd(Shared problem, int rank, Builder& b) {
  (void)rank;
  const Set all = b.set(Range{0, problem->key_layout.tokens()});
  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value everything = gather(problem, b, kv, all);
  kv.reset();
  for (int64_t first : {1, 0}) {
    const Set heads = every_second(b, first, problem->heads);
    Value acc = b.partial(q.tokens(), heads);
    b.attend(q.at(q.tokens(), heads), everything, acc);
    b.result(b.finish(acc));
    co_yield Step{};
  }
  // q stays as it is: the caller's memory, which the run has to copy.
  b.begin_backward();
  Value out = b.input(Field::out | Field::lse), dout = b.input(Field::dout);
  Value dq = b.sums(Field::dq, q.tokens(), q.heads());
  Value dk = b.sums(Field::dk, all, b.all_kv_heads());
  Value dv = b.sums(Field::dv, all, b.all_kv_heads());
  // Rows in two groups, every third and the others; each has a delta of its own.
  IntervalSet third;
  int64_t n = 0;
  for (const Range& range : q.tokens().intervals().ranges()) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      if (n++ % 3 == 0) third.append({t, t + 1});
    }
  }
  for (const Set rows : {b.set(third), q.tokens() - b.set(third)}) {
    const auto in = [&](const Value& value) { return value[rows]; };
    Value delta = b.prepare_backward(in(out).only(Field::out), in(dout));
    b.attend_backward(in(q), everything, {in(dout), in(out).only(Field::lse), delta}, dq, {dk, dv});
    co_yield Step{};
  }
  Value my_dk = b.sums(Field::dk, b.keys_of(b.rank()), b.all_kv_heads());
  Value my_dv = b.sums(Field::dv, b.keys_of(b.rank()), b.all_kv_heads());
  Exchange x = b.exchange(1);
  for (int p = 0; p < problem->ranks(); ++p) {
    x.send(p, dk[b.keys_of(p)]).send(p, dv[b.keys_of(p)]);
    x.receive(p, my_dk, Combine::add).receive(p, my_dv, Combine::add);
  }
  x.issue();
  dk.reset(), dv.reset();
  b.result(b.finish(dq));
  b.result(b.finish(my_dk));
  b.result(b.finish(my_dv));
}

// Rank 0 computes everything; partial results go home and are merged there. Forward only.
Steps write_master(Shared problem, int rank, Builder& b) {
  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value home = b.partial(q);
  b.attend(q, kv, home);
  const int ranks = problem->ranks();
  if (rank > 0) {
    b.exchange(0).send(0, q).send(0, kv).issue();
    Exchange x = b.exchange(0);
    x.receive(0, home, Combine::merge);
    x.issue();
    b.result(b.finish(home));
    co_return;
  }
  std::vector<Value> queries(1, q), keys(1, kv);
  for (int p = 1; p < ranks; ++p) {
    queries.push_back(b.whole(Field::q, b.queries_of(p), b.all_heads()));
    keys.push_back(b.whole(Field::k | Field::v, b.keys_of(p), b.all_kv_heads()));
    b.exchange(0).receive(p, queries.back()).receive(p, keys.back()).issue();
  }
  for (int p = 0; p < ranks; ++p) {
    std::vector<Slice> others;
    for (int other = 0; other < ranks; ++other) {
      if (other != p && !keys[static_cast<size_t>(other)].empty()) others.push_back(keys[static_cast<size_t>(other)]);
    }
    const Value& theirs = queries[static_cast<size_t>(p)];
    Value part = p == 0 ? home : b.partial(theirs);
    b.attend(theirs, others, part);
    if (p > 0) b.exchange(0).send(p, part).issue();
  }
  b.result(b.finish(home));
  co_yield Step{};
}

TEST(ExecutePrograms, OddOnes) {
  for (const int ranks : {1, 2, 3, 5}) {
    for (const std::string layout : {"contiguous", "zigzag", "striped"}) {
      for (const std::vector<int64_t>& lengths : std::vector<std::vector<int64_t>>{{29}, {3, 1, 20}}) {
        for (const DType wire : {DType::fp32, DType::bf16}) {
          ExecuteCase c{.lengths = lengths,
                        .ranks = ranks,
                        .heads = 4,
                        .kv_heads = 2,
                        .dim = 4,
                        .dim_v = 4,
                        .layout = layout,
                        .element = DType::fp32,
                        .wire = wire};
          SCOPED_TRACE(c.describe());
          const Schedule schedule = schedule_of(c, write_odd);
          for (const Finding& problem : verify(schedule).problems) ADD_FAILURE() << problem.text;
          const CheckReport report = check_schedule(schedule, {.execute = {.poison = true, .delay_seed = 1}});
          for (const TensorError& error : report.errors) {
            EXPECT_LE(error.max_rel, wire == DType::fp32 ? 1e-5 : 0.02) << error.name;
          }
          const CheckReport waiting = check_schedule(schedule, {.compare = false, .execute = {.overlap = false}});
          EXPECT_EQ(different(report.tensors, waiting.tensors), "");
        }
      }
    }
  }
}

TEST(ExecutePrograms, PartialResultsMergeAtHome) {
  for (const int ranks : {1, 2, 4}) {
    for (const DType wire : {DType::fp32, DType::bf16}) {
      ExecuteCase c{.mask = "full", .ranks = ranks, .heads = 4, .kv_heads = 2, .element = DType::fp32, .wire = wire};
      SCOPED_TRACE(c.describe());
      auto problem = std::make_shared<Problem>(c.problem());
      problem->backward = false;
      const Shared shared = problem;
      const Schedule schedule("master", shared,
                              [shared](int rank, Builder& b) { return write_master(shared, rank, b); });
      for (const Finding& finding : verify(schedule).problems) ADD_FAILURE() << finding.text;
      for (const TensorError& error : check_schedule(schedule).errors) {
        EXPECT_LE(error.max_rel, wire == DType::fp32 ? 1e-5 : 0.02) << error.name;
      }
    }
  }
}

// ---- wrong ones

// What execution says about a program of a forward phase; it must say it within a second.
std::string error_of(const ExecuteCase& c, Steps (*write)(Shared, int, Builder&)) {
  auto problem = std::make_shared<Problem>(c.problem());
  problem->backward = false;  // or a rank that is through would miss its second phase before another finds the fault
  const Shared shared = problem;
  const Schedule schedule("wrong", shared, [&](int rank, Builder& b) { return write(shared, rank, b); });
  const auto begin = std::chrono::steady_clock::now();
  std::string text;
  try {
    check_schedule(schedule, {.compare = false});
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::wrong) << error.what();
    text = error.what();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  return text;
}

testing::AssertionResult says(const std::string& text, const std::string& what) {
  if (text.find(what) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "'" << text << "' does not say '" << what << "'";
}

Steps write_nothing(Shared, int, Builder&) { co_return; }

Steps write_wait_in_circle(Shared problem, int rank, Builder& b) {
  const int ranks = problem->ranks(), next = (rank + 1) % ranks, last = (rank + ranks - 1) % ranks;
  Value kv = b.input(Field::k | Field::v);
  Value theirs = b.whole(Field::k | Field::v, b.keys_of(last), b.all_kv_heads());
  b.exchange().receive(last, theirs).issue();
  b.wait(0);
  b.exchange().send(next, kv).issue();
  co_yield Step{};
}

Steps write_wrong_rows(Shared problem, int rank, Builder& b) {
  const int other = 1 - rank;
  Value kv = b.input(Field::k | Field::v);
  Value theirs = b.whole(Field::k | Field::v, b.keys_of(rank), b.all_kv_heads());
  b.exchange().send(other, kv).receive(other, theirs).issue();
  (void)problem;
  co_yield Step{};
}

Steps write_never_received(Shared, int rank, Builder& b) {
  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  if (rank == 0) b.exchange().send(1, kv).issue();
  Value acc = b.partial(q);
  b.attend(q, kv, acc);
  b.result(b.finish(acc));
  co_yield Step{};
}

Steps write_reads_too_early(Shared, int, Builder& b) {
  Value q = b.input(Field::q), kv = b.whole(Field::k | Field::v, b.keys_of(b.rank()), b.all_kv_heads());
  b.attend(q, kv, b.partial(q));
  co_yield Step{};
}

Steps write_asks_too_much(Shared problem, int, Builder& b) {
  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  b.attend(q, kv[b.set(Range{0, problem->key_layout.tokens()})], b.partial(q));
  co_yield Step{};
}

Steps write_no_partner(Shared, int, Builder& b) {
  Value kv = b.input(Field::k | Field::v);
  b.exchange().send(7, kv).issue();
  co_yield Step{};
}

TEST(ExecutePrograms, WrongOnesGiveOneError) {
  const ExecuteCase two{.mask = "full", .ranks = 2}, three{.mask = "full", .ranks = 3};
  EXPECT_TRUE(says(error_of(two, write_nothing), "not all rows of out are given as a result"));
  const std::string circle = error_of(three, write_wait_in_circle);
  EXPECT_TRUE(says(circle, "deadlock: nobody can go on: rank 0 at instruction 2 waits for message 0 of rank 2"));
  EXPECT_TRUE(says(circle, "instruction 3 (wait"));
  EXPECT_TRUE(says(error_of(two, write_wrong_rows), "bytes instead of"));
  EXPECT_TRUE(says(error_of({.lengths = {36}, .mask = "full"}, write_wrong_rows), "another lane"));
  EXPECT_TRUE(says(error_of(two, write_never_received), "never received"));
  EXPECT_TRUE(says(error_of(two, write_reads_too_early), "is used before it is defined"));
  EXPECT_TRUE(says(error_of(two, write_asks_too_much), "is not inside value"));
  EXPECT_TRUE(says(error_of(two, write_no_partner), "peer 7 does not exist; ranks are 0 to 1"));
}

}  // namespace
}  // namespace weft
