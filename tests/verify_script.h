// Small schedules written by hand, for tests of the verifier: one that must be refused, and a right
// one near it.
//
//   Schedule wrong = script(two_ranks(), [](int rank, Builder& b) { ... });
//   refused(wrong, {"coverage", 1, Op::finish, 0, "lacks 32 pairs"});
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "weft/schedule/builder.h"
#include "weft/verify/verify.h"

namespace weft {

inline constexpr Fields kKv = Field::k | Field::v;
inline constexpr Fields kDkv = Field::dk | Field::dv;
inline constexpr Fields kOutLse = Field::out | Field::lse;

// A program in one step. Values that the body holds are dropped at its end.
using Body = std::function<void(int rank, Builder& b)>;
inline Steps write_body(Body body, int rank, Builder& b) {
  body(rank, b);
  co_yield Step{};
}

inline Schedule script(Problem problem, Body body) {
  problem.validate();
  return Schedule("script", std::make_shared<const Problem>(std::move(problem)),
                  [body = std::move(body)](int rank, Builder& b) { return write_body(body, rank, b); });
}

// The same schedule after a change that the builder does not let through.
inline Schedule edited(const Schedule& schedule, const std::function<void(StoredSchedule&)>& edit) {
  auto stored = std::make_shared<StoredSchedule>(schedule.store());
  edit(*stored);
  return Schedule("edited", schedule.shared_problem(), std::move(stored));
}

// Index in a rank's program of the n-th instruction of an operation; without one, the end of the
// program.
inline int64_t place_of(const StoredProgram& program, std::optional<Op> op, int n = 0) {
  for (size_t i = 0; i < program.instructions.size(); ++i) {
    if (program.instructions[i].op == op && n-- == 0) return static_cast<int64_t>(i);
  }
  EXPECT_FALSE(op) << "the program has no such instruction";
  return static_cast<int64_t>(program.instructions.size());
}
inline int64_t place_of(const Schedule& schedule, int rank, std::optional<Op> op, int n = 0) {
  return place_of(schedule.store().programs[static_cast<size_t>(rank)], op, n);
}

inline std::string findings(const Report& report) {
  std::string text;
  for (const Finding& f : report.problems) {
    text += "rank " + std::to_string(f.rank) + ", instruction " + std::to_string(f.instruction) + ", " + f.kind + ": " +
            f.text + "\n";
  }
  return text;
}

inline Report proved(const Schedule& schedule) {
  Report report = verify(schedule);
  EXPECT_TRUE(report.ok()) << findings(report);
  return report;
}

struct Expected {
  std::string kind;
  int rank;
  std::optional<Op> op;  // std::nullopt: the end of the program
  int n;                 // which of the rank's instructions of that kind
  std::string text;      // part of the finding's text
};
inline constexpr std::nullopt_t kEnd = std::nullopt;

// The first finding names the cause; what follows from it may be found too.
inline void refused(const Schedule& schedule, const Expected& expected) {
  const Report report = verify(schedule);
  ASSERT_FALSE(report.ok()) << "was accepted, but is wrong: " << expected.text;
  const Finding& first = report.problems[0];
  EXPECT_EQ(first.kind, expected.kind) << findings(report);
  EXPECT_EQ(first.rank, expected.rank) << findings(report);
  EXPECT_EQ(first.instruction, place_of(schedule, expected.rank, expected.op, expected.n)) << findings(report);
  EXPECT_NE(first.text.find(expected.text), std::string::npos) << "expected: " << expected.text << "\nfound:\n"
                                                               << findings(report);
}

// 8 tokens in contiguous shards, 2 query heads, 1 kv head, dim 4, all fp32. Bytes: a query row has
// 2 x 16, a row of keys and values 2 x 16, a partial row 2 x (16 + 4).
inline Problem tokens8(int ranks, MaskRule rule = {}) {
  return self_attention(Mask::of(8, rule), Layout::contiguous(8, ranks), 2, 1, 4);
}
inline Problem with_backward(Problem problem) {
  problem.backward = true;
  return problem;
}

// Forward on one rank.
template <typename Work>
void forward_alone(Builder& b, Work&& work) {
  Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
  work(q, kv, acc);
  b.result(b.finish(acc));
}

// Forward on two ranks: each gets the other's keys and values; `swap(kv, other)` writes how.
template <typename Swap>
void forward_pair(int rank, Builder& b, Swap&& swap) {
  Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
  Value other = b.whole(kKv, b.keys_of(1 - rank), b.all_kv_heads());
  swap(kv, other);
  b.attend(q, {kv, other}, acc);
  b.result(b.finish(acc));
}
inline void swap_kv(int rank, Builder& b, const Value& kv, const Value& other, int lane = 0) {
  b.exchange(lane).send(1 - rank, kv).receive(1 - rank, other).issue();
}

// Both phases on any number of ranks up to two. A test replaces the part that it is about.
struct Training {
  explicit Training(Builder& builder) : b(builder), rank(builder.rank()), alone(b.problem().ranks() == 1) {}

  void forward() {
    if (alone) return forward_alone(b, [&](auto& rows, auto& keys, auto& acc) { b.attend(rows, keys, acc); });
    forward_pair(rank, b, [&](const Value& mine, const Value& theirs) { swap_kv(rank, b, mine, theirs); });
  }
  // Inputs of backward, the other rank's keys and values, and sums that are still zero.
  void open() {
    b.begin_backward();
    q = b.input(Field::q), kv = b.input(kKv), out = b.input(kOutLse), dout = b.input(Field::dout);
    delta = b.prepare_backward(out.only(Field::out), dout);
    dq = b.sums(Field::dq, q.tokens(), q.heads());
    dkv = b.sums(kDkv, kv.tokens(), kv.heads());
    if (alone) return;
    other = b.whole(kKv, b.keys_of(1 - rank), b.all_kv_heads());
    swap_kv(rank, b, kv, other);
    part = b.sums(kDkv, other.tokens(), other.heads());
  }
  std::vector<Slice> bundle() const { return {dout, out.only(Field::lse), delta}; }
  void compute_own() { b.attend_backward(q, kv, bundle(), dq, dkv); }
  void compute_other() { b.attend_backward(q, other, bundle(), dq, part); }
  void send_home() { b.exchange().send(1 - rank, part).receive(1 - rank, dkv, Combine::add).issue(); }
  void close() {
    b.result(b.finish(dq));
    b.result(b.finish(dkv));
  }

  Builder& b;
  int rank;
  bool alone;
  Value q, kv, out, dout, delta, dq, dkv, other, part;
};

// Forward on two ranks; `swap(rank, b, kv, other)` writes the exchanges.
using Swap = std::function<void(int rank, Builder& b, const Value& kv, const Value& other)>;
inline Schedule pair(Swap swap, Problem problem = tokens8(2)) {
  return script(std::move(problem), [swap](int rank, Builder& b) {
    forward_pair(rank, b, [&](const Value& kv, const Value& other) { swap(rank, b, kv, other); });
  });
}

// Forward on one rank as a schedule; `work` attends.
using Work = std::function<void(Builder& b, Value& q, Value& kv, Value& acc)>;
inline Schedule alone(Work work, Problem problem = tokens8(1)) {
  return script(std::move(problem), [work](int, Builder& b) {
    forward_alone(b, [&](Value& q, Value& kv, Value& acc) { work(b, q, kv, acc); });
  });
}
// One that is right.
inline Schedule right() {
  return alone([](Builder& b, Value& q, Value& kv, Value& acc) { b.attend(q, kv, acc); });
}

// Both phases on one rank, with a change before the results.
using Change = std::function<void(Training& t)>;
inline Schedule trained(Change change) {
  return script(with_backward(tokens8(1)), [change](int, Builder& b) {
    Training t(b);
    t.forward(), t.open(), t.compute_own();
    change(t);
    t.close();
  });
}

// The stored program of rank 0.
inline void insert(StoredSchedule& stored, int64_t at, const Instruction& instruction) {
  auto& list = stored.programs[0].instructions;
  list.insert(list.begin() + at, instruction);
}
inline Slice& operand(StoredSchedule& stored, Op op, int n, int slice) {
  StoredProgram& program = stored.programs[0];
  return program
      .slices[program.instructions[static_cast<size_t>(place_of(program, op, n))].first + static_cast<size_t>(slice)];
}

}  // namespace weft
