// Linear layers with fewer heads of q and k than heads: what the verifier asks of rows that several heads have in common, each
// wrong schedule with a right one beside it; and what it counts.
#include <gtest/gtest.h>

#include "tests/linear_case.h"
#include "tests/verify_script.h"
#include "weft/schedule/dependencies.h"
#include "weft/schedule/json.h"
#include "weft/schedule/shared_heads.h"

namespace weft {
namespace {

// ---- by hand: 8 tokens on one rank, four heads, of which two and two read one of q and k

Problem two_of_two(bool backward = true) {
  LinearCase c{.layer = Layer::gla, .lengths = {8}, .ranks = 1, .heads = 4};
  c.key_heads = 2;
  Problem problem = c.problem();
  problem.backward = backward;
  return problem;
}

struct Phase {
  explicit Phase(Builder& builder) : b(builder), q(b.input(Field::q)), kv(b.input(b.problem().key_inputs())) {}
  Set head(int64_t h) { return b.set(Range{h, h + 1}); }
  Set heads(int64_t begin, int64_t end) { return b.set(Range{begin, end}); }
  Value sums(Set some) { return b.sums(Field::dq, q.tokens(), some); }
  // Adds what these heads give to dq.
  void scan(Set some, const Value& to) {
    b.scan_backward(q.at(q.tokens(), some), kv.at(kv.tokens(), some), dout.at(dout.tokens(), some), {},
                    to.at(to.tokens(), some), dkv.at(dkv.tokens(), some));
  }
  Builder& b;
  Value q, kv, dout, dq, dkv;
};

// dq and its result are the body's.
Schedule backward(std::function<void(Phase&)> body) {
  return script(two_of_two(), [body](int, Builder& b) {
    Phase phase(b);
    const Value out = b.sums(Field::out, phase.q.tokens(), phase.q.heads());
    b.scan(phase.q, phase.kv, out);
    b.result(b.finish(out));
    b.begin_backward();
    phase.dout = b.input(Field::dout);
    phase.dq = phase.sums(b.all_heads());
    phase.dkv = b.sums(b.problem().key_gradients(), phase.q.tokens(), b.all_heads());
    body(phase);
    b.result(b.finish(phase.dkv));
  });
}

void expect_refused(const Schedule& schedule, const std::string& kind, const std::string& text) {
  const Report report = verify(schedule);
  ASSERT_FALSE(report.ok()) << "was accepted, but is wrong: " << text;
  EXPECT_EQ(report.problems[0].kind, kind) << findings(report);
  EXPECT_NE(report.problems[0].text.find(text), std::string::npos) << findings(report);
}

TEST(VerifySharedHeads, HeadsMayAddOneByOne) {
  proved(backward([](Phase& p) {
    for (int64_t h = 0; h < 4; ++h) p.scan(p.head(h), p.dq);
    p.b.result(p.b.finish(p.dq));
  }));
}

TEST(VerifySharedHeads, EveryHeadMustAddOnce) {
  expect_refused(backward([](Phase& p) {
                   p.scan(p.head(0), p.dq), p.scan(p.heads(2, 4), p.dq);
                   p.b.result(p.b.finish(p.dq));
                 }),
                 "coverage", "dq of queries 0..8, query heads 1..2 lacks 36 pairs");
  expect_refused(backward([](Phase& p) {
                   p.scan(p.heads(0, 4), p.dq), p.scan(p.head(1), p.dq);
                   p.b.result(p.b.finish(p.dq));
                 }),
                 "coverage", "are scanned twice");
}

// A sum in some of the heads is nobody's row: it belongs to all heads of its value that share it.
TEST(VerifySharedHeads, SumsAreAddedForAllTheirHeads) {
  const auto with = [](int64_t begin, int64_t end, std::vector<Range> parts) {
    return backward([=](Phase& p) {
      const Value other = p.sums(p.heads(begin, end));
      p.scan(p.heads(begin, end), other);
      for (int64_t h = 0; h < 4; ++h)
        if (h < begin || h >= end) p.scan(p.head(h), p.dq);
      for (const Range& part : parts)
        p.b.add(p.dq.at(p.dq.tokens(), p.b.set(part)), other.at(other.tokens(), p.b.set(part)));
      p.b.result(p.b.finish(p.dq));
    });
  };
  proved(with(0, 2, {{0, 2}}));
  proved(with(1, 2, {{1, 2}}));          // into the row of heads 0 and 1
  proved(with(1, 4, {{1, 2}, {2, 4}}));  // in `other` head 1 shares with nobody
  expect_refused(with(0, 2, {{0, 1}, {1, 2}}), "operand", "source: dq 0..8, heads 0..1 lacks some of the heads 0..2");
  expect_refused(with(1, 4, {{1, 3}, {3, 4}}), "operand", "source: dq 0..8, heads 1..3 lacks some of the heads 1..4");
}

// The same in messages, here to oneself; and what is copied is a row as a whole.
TEST(VerifySharedHeads, SumsTravelWithAllTheirHeads) {
  const auto with = [](int64_t begin, int64_t end, std::vector<Range> parts, Combine combine) {
    return backward([=](Phase& p) {
      const Value other = p.sums(p.heads(begin, end));
      p.scan(p.heads(begin, end), other);
      Exchange exchange = p.b.exchange();
      for (const Range& part : parts) {
        exchange.send(0, other.at(other.tokens(), p.b.set(part)));
        exchange.receive(0, p.dq.at(p.dq.tokens(), p.b.set(part)), combine);
      }
      exchange.issue();
      for (int64_t h = 0; h < 4; ++h)
        if (h < begin || h >= end) p.scan(p.head(h), p.dq);
      p.b.result(p.b.finish(p.dq));
    });
  };
  proved(with(0, 2, {{0, 2}}, Combine::copy));
  proved(with(0, 4, {{0, 2}, {2, 4}}, Combine::add));
  proved(with(1, 3, {{1, 2}, {2, 3}}, Combine::add));
  expect_refused(with(0, 2, {{0, 1}, {1, 2}}, Combine::add), "operand", "exchange: send: dq 0..8, heads 0..1 lacks");
  expect_refused(with(1, 2, {{1, 2}}, Combine::copy), "operand",
                 "exchange: receive by copy: dq 0..8, heads 1..2 lacks some of the heads 0..4");
}

TEST(VerifySharedHeads, WholeGradientsAreOfAllHeadsThatShareThem) {
  const auto finished = [](std::vector<Range> parts) {
    return backward([=](Phase& p) {
      p.scan(p.b.all_heads(), p.dq);
      for (const Range& part : parts) p.b.result(p.b.finish(p.dq.at(p.dq.tokens(), p.b.set(part))));
    });
  };
  proved(finished({{0, 2}, {2, 4}}));
  expect_refused(finished({{0, 1}, {1, 4}}), "operand",
                 "a whole gradient: dq 0..8, heads 0..1 lacks some of the heads");
  const auto given = [](std::vector<Range> parts) {
    return backward([=](Phase& p) {
      p.scan(p.b.all_heads(), p.dq);
      const Value whole = p.b.finish(p.dq);
      for (const Range& part : parts) p.b.result(whole.at(whole.tokens(), p.b.set(part)));
    });
  };
  proved(given({{2, 4}, {0, 2}}));
  expect_refused(given({{0, 3}, {3, 4}}), "operand", "result: dq 0..8, heads 0..3 lacks some of the heads 0..4");
}

// Inputs may be read, and sent, for some of the heads; what is received is written once.
TEST(VerifySharedHeads, InputsAreReadForAnyHeadsAndReceivedForAll) {
  const auto with = [](Range kept, std::vector<Range> parts) {
    return script(two_of_two(false), [=](int, Builder& b) {
      Phase p(b);
      const Value out = b.sums(Field::out, p.q.tokens(), b.all_heads()),
                  q = b.whole(Field::q, p.q.tokens(), b.set(kept));
      Exchange exchange = b.exchange();
      for (const Range& part : parts) {
        exchange.send(0, p.q.at(p.q.tokens(), b.set(part)));
        exchange.receive(0, q.at(q.tokens(), b.set(part)));
      }
      exchange.issue();
      for (int64_t h = 0; h < 4; ++h) {
        const Value& from = kept.contains(h) ? q : p.q;
        b.scan(from.at(from.tokens(), p.head(h)), p.kv.at(p.kv.tokens(), p.head(h)), out.at(out.tokens(), p.head(h)));
      }
      b.result(b.finish(out));
    });
  };
  proved(with({0, 4}, {{0, 2}, {2, 4}}));
  proved(with({1, 2}, {{1, 2}}));
  proved(with({1, 4}, {{1, 2}, {2, 4}}));
  expect_refused(with({0, 2}, {{0, 1}, {1, 2}}), "operand", "exchange: receive by copy: q 0..8, heads 0..1 lacks");
}

// Adds to one row are in the order of the program, whichever heads they name.
TEST(VerifySharedHeads, HeadsThatShareRowsConflict) {
  const Problem problem = two_of_two();
  SetPool pool;
  const SetId tokens = pool.intern(Range{0, 8}), first = pool.intern(Range{0, 1}), second = pool.intern(Range{1, 2}),
              third = pool.intern(Range{2, 3});
  const auto waits = [&](const AttentionShape& shape, SetId sent, SetId added, Fields fields) {
    const Part part{{ValueId{0}, tokens, sent, fields}, 1, Combine::add};
    const Slice slices[] = {{ValueId{1}, tokens, added, fields}, {ValueId{0}, tokens, added, fields}};
    const Instruction exchange{.op = Op::exchange, .targets = 1}, add{.op = Op::add, .sources = 1, .targets = 1};
    const Block block{{}, slices, std::span(&part, 1)};
    Dependencies dependencies(pool, shape);
    dependencies.issue(block, exchange);
    bool due = false;
    dependencies.before(block, add, [&](uint64_t) { due = true; });
    return due;
  };
  EXPECT_TRUE(waits(problem, first, second, Field::dq));
  EXPECT_TRUE(waits(problem, first, second, Field::dk | Field::dv));
  EXPECT_FALSE(waits(problem, first, third, Field::dq));
  EXPECT_FALSE(waits(problem, first, second, Field::dv));
  EXPECT_FALSE(waits({}, first, second, Field::dq));
}

// ---- what is counted

TEST(VerifySharedHeads, RowsAreCountedOnce) {
  AttentionShape shape;
  shape.layer = Layer::mamba2, shape.heads = shape.kv_heads = 6, shape.key_heads = 2, shape.dim = 16, shape.dim_v = 8;
  SetPool pool;
  const auto bytes = [&](Fields fields, Range heads) {
    return bytes_in_heads(pool, shape, pool.intern(heads), fields, Form::whole);
  };
  EXPECT_EQ(bytes(Field::q, {0, 6}), 2 * 64);
  EXPECT_EQ(bytes(Field::k | Field::v | Field::g, {2, 4}), 2 * 64 + 2 * (32 + 4));
  EXPECT_EQ(bytes(Field::k | Field::v | Field::g, {3, 5}), 64 + 2 * (32 + 4));
  EXPECT_EQ(shape.bytes_per_token(Field::k | Field::v, Form::whole), 2 * 64 + 6 * 32);
  EXPECT_EQ(shape.heads_of(Field::dq), 2);
  EXPECT_EQ(shape.heads_of(Field::dv), 6);
}

// head-exchange: a rank fetches the rows that its heads read, and gets home what it is due; in a document of 48 tokens.
TEST(VerifySharedHeads, HeadExchangeSendsSharedRowsOnceForEachRank) {
  const auto sent = [](int64_t key_heads, int ranks) {
    LinearCase c{.method = "head-exchange", .layer = Layer::mamba2, .lengths = {48}, .ranks = ranks, .heads = 8};
    c.key_heads = key_heads, c.dim = 16, c.dim_v = 4, c.element = DType::bf16;
    const Report report = verify(c.schedule());
    EXPECT_TRUE(report.ok()) << findings(report);
    const Cost cost = cost_of(report);
    return std::pair{cost.forward.bytes.total, cost.backward.bytes.total};
  };
  const auto rows = [](int64_t key_rows, int64_t grad_bytes) {  // per token: q and k, v and out; g in fp32
    return std::pair{48 * (key_rows * 2 * 2 * 16 + 6 * (2 * 2 * 4 + 4)),
                     48 * (key_rows * 2 * grad_bytes * 16 + 6 * (2 * 2 * 4 + 4))};
  };
  // Four ranks of two heads each; three quarters of all rows go out.
  EXPECT_EQ(sent(8, 4), rows(6, 2));
  EXPECT_EQ(sent(4, 4), rows(3, 2));
  EXPECT_EQ(sent(2, 4), rows(3, 4));  // two ranks for each row of q, which goes to both; dq comes home as sums in fp32
  EXPECT_EQ(sent(1, 4), rows(3, 4));
}

TEST(VerifySharedHeads, SchedulesInJsonKeepThem) {
  LinearCase c{.method = "head-exchange", .layer = Layer::gdn, .heads = 4};
  c.key_heads = 1;
  const Schedule schedule = c.schedule();
  const std::string text = to_json(schedule);
  EXPECT_NE(text.find("\"key_heads\": 1"), std::string::npos);
  const Schedule again = schedule_from_json(text);
  EXPECT_EQ(to_json(again), text);
  EXPECT_EQ(again.problem().key_heads, 1);
  proved(again);
  EXPECT_EQ(cost_of(verify(again)).forward.bytes.total, cost_of(verify(schedule)).forward.bytes.total);
}

TEST(VerifySharedHeads, WhatDoesNotFitIsRefused) {
  const auto complaint = [](Layer layer, int64_t heads, int64_t key_heads) -> std::string {
    Problem problem = self_attention(Mask::of(8, {.causal = true}), Layout::contiguous(8, 1), heads, heads, 4);
    problem.layer = layer, problem.key_heads = key_heads;
    try {
      problem.validate();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(complaint(Layer::mamba2, 6, 2), "");
  EXPECT_NE(complaint(Layer::mamba2, 6, 4).find("key-heads 4 does not divide heads 6; use a divisor"),
            std::string::npos);
  EXPECT_NE(complaint(Layer::mamba2, 2, 4).find("key-heads 4 does not divide heads 2"), std::string::npos);
  EXPECT_NE(complaint(Layer::mamba2, 2, -1).find("key-heads -1 does not divide"), std::string::npos);
  EXPECT_NE(complaint(Layer::softmax, 6, 2).find("softmax attention has kv-heads"), std::string::npos);
}

}  // namespace
}  // namespace weft
