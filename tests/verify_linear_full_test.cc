// Linear layers with a full mask: schedules by hand, what the verifier refuses with a right one beside it, and what methods send.
#include <gtest/gtest.h>

#include "tests/linear_case.h"
#include "tests/verify_script.h"
#include "weft/base/error.h"
#include "weft/schedule/json.h"

namespace weft {
namespace {

// Tokens 0..8 on rank 0, 8..16 on rank 1.
Problem of_all(std::vector<int64_t> lengths = {16}) {
  LinearCase c{.layer = Layer::linear, .lengths = std::move(lengths), .ranks = 2, .heads = 2};
  c.both_ways = true;
  return c.problem();
}

// The program of a rank, each part of which a test may do otherwise: each fetches the other's state.
struct FullParts {
  explicit FullParts(Builder& builder)
      : b(builder), rank(b.rank()), q(b.input(Field::q)), kv(b.input(Field::k | Field::v)) {
    out = b.sums(Field::out, q.tokens(), q.heads());
  }
  Set run(int64_t begin, int64_t end) { return b.set(Range{begin, end}); }
  Set mine() { return rank == 0 ? run(0, 8) : run(8, 16); }
  Set theirs() { return rank == 0 ? run(8, 16) : run(0, 8); }
  // The sum of both.
  Value trade(Field field, const Value& own) {
    const Value other = b.whole(field, theirs(), b.all_heads());
    b.exchange().send(1 - rank, own).receive(1 - rank, other).issue();
    return rank == 0 ? b.compose(own, other) : b.compose(other, own);
  }
  void forward() {
    state = trade(Field::state, b.state_of(kv));
    b.apply_state(q, kv, state, out);
    b.result(b.finish(out));
  }
  void begin_backward() {
    b.begin_backward();
    dout = b.input(Field::dout);
    dq = b.sums(Field::dq, q.tokens(), q.heads());
    dkv = b.sums(Field::dk | Field::dv, kv.tokens(), kv.heads());
  }
  void backward() {
    const Value dstate = trade(Field::dstate, b.dstate_of(q, kv, dout));
    b.apply_state(q, kv, state, dq, dout);
    b.apply_dstate(kv, dstate, {}, dkv);
  }
  void close() {
    b.result(b.finish(dq));
    b.result(b.finish(dkv));
  }

  Builder& b;
  int rank;
  Value q, kv, out, state, dout, dq, dkv;
};

Schedule full(Problem problem, std::function<void(FullParts&)> body) {
  return script(std::move(problem), [body](int, Builder& b) {
    FullParts parts(b);
    body(parts);
  });
}
Problem forward_only(Problem problem) {
  problem.backward = false;
  return problem;
}

TEST(VerifyLinearFull, ByHandIsRight) {
  proved(full(of_all(), [](FullParts& p) { p.forward(), p.begin_backward(), p.backward(), p.close(); }));
  // Documents of one rank each need no state.
  proved(full(forward_only(of_all({3, 5, 8})), [](FullParts& p) {
    p.b.scan(p.q, p.kv, p.out);
    p.b.result(p.b.finish(p.out));
  }));
}

TEST(VerifyLinearFull, StateOfAPartOfTheDocument) {
  refused(full(forward_only(of_all()),
               [](FullParts& p) {
                 p.b.apply_state(p.q, p.kv, p.b.state_of(p.kv), p.out);
                 p.b.result(p.b.finish(p.out));
               }),
          {"coverage", 0, Op::finish, 0, "out of queries 0..8"});
}

TEST(VerifyLinearFull, StateAppliedTwice) {
  refused(full(forward_only(of_all()),
               [](FullParts& p) {
                 const Value own = p.b.state_of(p.kv), both = p.trade(Field::state, own);
                 p.b.apply_state(p.q, p.kv, both, p.out);
                 p.b.apply_state(p.q, p.kv, own, p.out);
                 p.b.result(p.b.finish(p.out));
               }),
          {"coverage", 0, Op::apply_state, 1, "are applied twice"});
}

TEST(VerifyLinearFull, ScanOfAPartOfADocument) {
  refused(full(forward_only(of_all({10, 6})),
               [](FullParts& p) {
                 p.b.scan(p.q, p.kv, p.out);
                 p.b.result(p.b.finish(p.out));
               }),
          {"coverage", 0, Op::scan, 0, "with a full mask it is of whole documents"});
}

TEST(VerifyLinearFull, StateOfTwoDocuments) {
  refused(full(forward_only(of_all({4, 12})),
               [](FullParts& p) {
                 p.b.state_of(p.kv);
                 p.b.result(p.b.finish(p.out));
               }),
          {"coverage", 0, Op::summarise, 0, "with a full mask a state is of tokens of one document"});
  // Of one each, joined.
  refused(full(forward_only(of_all({8, 8})), [](FullParts& p) { p.forward(); }),
          {"coverage", 0, Op::compose, 0, "with a full mask a state is of tokens of one document"});
}

TEST(VerifyLinearFull, StateOfAnotherDocument) {
  refused(full(forward_only(of_all({8, 8})),
               [](FullParts& p) {
                 const Value own = p.b.state_of(p.kv), other = p.b.whole(Field::state, p.theirs(), p.b.all_heads());
                 p.b.exchange().send(1 - p.rank, own).receive(1 - p.rank, other).issue();
                 p.b.apply_state(p.q, p.kv, other, p.out);
                 p.b.result(p.b.finish(p.out));
               }),
          {"coverage", 0, Op::apply_state, 0, "with a full mask a state is of tokens of one document"});
}

TEST(VerifyLinearFull, GradientsLeftOut) {
  refused(full(of_all(),
               [](FullParts& p) {
                 p.forward(), p.begin_backward();
                 const Value dstate = p.trade(Field::dstate, p.b.dstate_of(p.q, p.kv, p.dout));
                 p.b.apply_dstate(p.kv, dstate, {}, p.dkv);
                 p.close();
               }),
          {"coverage", 0, Op::finish, 1, "dq of queries 0..8"});
  refused(full(of_all(),
               [](FullParts& p) {
                 p.forward(), p.begin_backward();
                 p.b.apply_state(p.q, p.kv, p.state, p.dq, p.dout);
                 p.b.apply_dstate(p.kv, p.b.dstate_of(p.q, p.kv, p.dout), {}, p.dkv);
                 p.close();
               }),
          {"coverage", 0, Op::finish, 2, "of keys 0..8"});
}

// ---- methods

struct SentBytes {
  int64_t all = 0, busiest = 0, messages = 0;
};
SentBytes sent_forward(LinearCase c) {
  c.both_ways = true;
  Problem problem = c.problem();
  problem.backward = false;
  SentBytes sent;
  for (const RankReport& rank : proved(make_schedule(c.method, std::move(problem), c.options)).ranks) {
    sent.all += rank.bytes_sent, sent.busiest = std::max(sent.busiest, rank.bytes_sent);
    sent.messages += rank.messages;
  }
  return sent;
}

TEST(VerifyLinearFull, VolumesAreThoseOfTheDocs) {
  for (const int64_t P : {2, 3, 4, 8}) {
    LinearCase c{.layer = Layer::linear, .lengths = {24 * P}, .ranks = static_cast<int>(P), .heads = 24};
    const int64_t state = 8 * c.heads * c.dim * c.dim_v, row = 8 * c.heads * (2 * c.dim + 2 * c.dim_v);
    c.method = "all-gather-state";
    EXPECT_EQ(sent_forward(c).all, P * (P - 1) * state);
    EXPECT_EQ(sent_forward(c).messages, P * (P - 1));
    c.method = "all-scan";
    EXPECT_EQ(sent_forward(c).all, 2 * (P - 1) * state);
    EXPECT_EQ(sent_forward(c).busiest, 2 * (P - 1) * state / P);
    EXPECT_EQ(sent_forward(c).messages, 2 * P * (P - 1));
    c.method = "head-exchange";
    EXPECT_EQ(sent_forward(c).all, (P - 1) * 24 * row);
  }
}

TEST(VerifyLinearFull, NothingIsSentWhereNoDocumentCrosses) {
  for (const std::string method : {"all-gather-state", "all-scan"}) {
    LinearCase c{.method = method, .layer = Layer::linear, .lengths = {20, 3, 17, 20}, .ranks = 3};
    c.shards = {20, 20, 20};
    EXPECT_EQ(sent_forward(c).messages, 0) << method;
  }
}

TEST(VerifyLinearFull, EveryMethodSaysWhetherItCan) {
  for (const Method* method : linear_methods()) {
    for (const Layer layer : kLinearLayers) {
      LinearCase c{.method = std::string(method->name), .layer = layer, .lengths = {30, 5}, .ranks = 4};
      c.both_ways = true;
      const bool can = layer == Layer::linear && method->both_ways;
      try {
        const Schedule schedule = c.schedule();
        EXPECT_TRUE(can) << c.describe();
        EXPECT_EQ(to_json(schedule_from_json(to_json(schedule))), to_json(schedule));
        proved(schedule);
      } catch (const Error& error) {
        EXPECT_FALSE(can) << c.describe();
        EXPECT_EQ(error.code(), ErrorCode::unsupported);
        EXPECT_NE(std::string(error.what())
                      .find(layer == Layer::linear ? "for a full mask use all-scan, all-gather-state"
                                                   : "goes with layer linear"),
                  std::string::npos)
            << error.what();
      }
    }
  }
  LinearCase c{.layer = Layer::linear, .lengths = {30}, .ranks = 2};
  c.both_ways = c.final_states = true, c.method = "all-scan";
  EXPECT_THROW(c.schedule(), Error);
  c.final_states = false, c.options = {{"blocks", "2"}};
  EXPECT_THROW(c.schedule(), Error);
}

}  // namespace
}  // namespace weft
