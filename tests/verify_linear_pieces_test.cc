// States in pieces: schedules by hand, what the verifier refuses with a right one beside it.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tests/linear_case.h"
#include "tests/verify_script.h"
#include "weft/schedule/json.h"

namespace weft {
namespace {

// One document of 24 tokens on three ranks.
Problem thirds(Layer layer) {
  LinearCase c{.layer = layer, .lengths = {24}, .ranks = 3, .heads = 2};
  Problem problem = c.problem();
  problem.backward = false;
  return problem;
}

// What rank 2 fetches: the states of 0..8 and 8..16, and the transition of the latter.
struct Fetched {
  Builder& b;
  Value states, transitions, spare;
  Set run(int64_t begin, int64_t end) const { return b.set(Range{begin, end}); }
  Slice state(int64_t begin, int64_t end) const { return states[run(begin, end)]; }
};

struct Ways {
  std::function<void(Fetched&, Exchange&)> receive = [](Fetched& f, Exchange& exchange) {
    exchange.receive(0, f.state(0, 8)).receive(1, f.state(8, 16)).receive(1, f.transitions);
  };
  std::function<Value(Fetched&)> join = [](Fetched& f) { return f.b.compose_pieces(f.states, f.transitions); };
};

Schedule gathered(const Ways& ways, Layer layer = Layer::gla) {
  return script(thirds(layer), [ways](int rank, Builder& b) {
    const Value q = b.input(Field::q), kv = b.input(b.problem().key_inputs());
    const Value out = b.sums(Field::out, q.tokens(), q.heads());
    const Set first = b.set(Range{0, 8}), second = b.set(Range{8, 16});
    if (rank == 0) {
      const Value mine = b.state_of(kv);
      b.exchange().send(1, mine).send(2, mine).issue();
      b.scan(q, kv, out);
    } else if (rank == 1) {
      const Value theirs = b.whole(Field::state, first, b.all_heads());
      const Value mine = b.state_of(kv), passed = b.transition_of(kv);
      b.exchange().send(2, mine).send(2, passed).receive(0, theirs).issue();
      b.scan(q, kv, out, theirs);
    } else {
      Fetched fetched{b, b.pieces(Field::state, b.set(Range{0, 16}), b.all_heads()), {}, {}};
      if (has_transition(b.problem().layer)) fetched.transitions = b.pieces(Field::transition, second, b.all_heads());
      Exchange exchange = b.exchange();
      ways.receive(fetched, exchange);
      exchange.issue();
      b.scan(q, kv, out, ways.join(fetched));
    }
    b.result(b.finish(out));
  });
}

// Refused for this among other things.
void refused_too(const Schedule& schedule, int rank, const std::string& text) {
  const Report report = verify(schedule);
  EXPECT_TRUE(std::any_of(report.problems.begin(), report.problems.end(),
                          [&](const Finding& f) { return f.rank == rank && f.text.find(text) != std::string::npos; }))
      << text << "\nfound:\n"
      << findings(report);
}

Schedule joined(std::function<Value(Fetched&)> join, Layer layer = Layer::gla) {
  Ways ways;
  ways.join = std::move(join);
  return gathered(ways, layer);
}

Schedule received(std::function<void(Fetched&, Exchange&)> receive) {
  Ways ways;
  ways.receive = std::move(receive);
  return gathered(ways);
}

TEST(VerifyPieces, AllOfThemGiveTheStateOfTheRun) {
  for (const Layer layer : kLinearLayers) proved(gathered({}, layer));
}

TEST(VerifyPieces, EachCountsAsAState) {
  const auto live = [](Range run) {
    Ways ways;
    ways.receive = [run, receive = ways.receive](Fetched& f, Exchange& exchange) {
      f.spare = f.b.pieces(Field::dstate, f.b.set(run), f.b.all_heads());
      receive(f, exchange);
    };
    return proved(gathered(ways)).ranks[2].live_bytes;
  };
  const int64_t state = 2 * thirds(Layer::gla).bytes_per_row(Field::dstate, Form::whole);
  EXPECT_EQ(live({0, 24}) - live({}), 3 * state);
  EXPECT_EQ(live({7, 9}) - live({}), 2 * state);
  EXPECT_EQ(live({9, 10}) - live({}), state);
}

TEST(VerifyPieces, InTheWrongOrder) {
  refused(received([](Fetched& f, Exchange& exchange) {
            exchange.receive(0, f.state(8, 16)).receive(1, f.state(0, 8)).receive(1, f.transitions);
          }),
          {"message", 2, Op::exchange, 0, "rank 0 sends state 0..8, heads 0..2"});
}

TEST(VerifyPieces, OneIsMissing) {
  refused_too(
      received([](Fetched& f, Exchange& exchange) { exchange.receive(0, f.state(0, 8)).receive(1, f.transitions); }), 2,
      "state 0..16, heads 0..2 is used before all its pieces are there");
  // Or the transition of one.
  refused(received([](Fetched& f, Exchange& exchange) {
            f.spare = f.b.whole(Field::transition, f.run(8, 16), f.b.all_heads());
            exchange.receive(0, f.state(0, 8)).receive(1, f.state(8, 16)).receive(1, f.spare);
          }),
          {"lifetime", 2, Op::compose, 0, "compose: transition: transition 8..16"});
}

TEST(VerifyPieces, OneComesTwice) {
  const Schedule twice = script(thirds(Layer::retnet), [](int rank, Builder& b) {
    const Value q = b.input(Field::q), kv = b.input(b.problem().key_inputs());
    const Value out = b.sums(Field::out, q.tokens(), q.heads());
    const Value mine = b.state_of(kv);
    const Set run = b.set(Range{0, 8});
    if (rank == 0) {
      b.exchange().send(1, mine).send(1, mine).issue();
    } else if (rank == 1) {
      const Value states = b.pieces(Field::state, run, b.all_heads());
      b.exchange().receive(0, states).receive(0, states).issue();
    }
    b.scan(q, kv, out);
    b.result(b.finish(out));
  });
  refused_too(twice, 1, "state 0..8, heads 0..2 is received, but was written before");
}

TEST(VerifyPieces, AreWhatShardsCut) {
  refused(received([](Fetched& f, Exchange& exchange) {
            exchange.receive(0, f.state(0, 7)).receive(1, f.state(8, 16)).receive(1, f.transitions);
          }),
          {"operand", 2, Op::exchange, 0, "state 0..7, heads 0..2 is not one piece of value"});
  refused(received([](Fetched& f, Exchange& exchange) {
            exchange.receive(0, f.states).receive(1, f.state(8, 16)).receive(1, f.transitions);
          }),
          {"operand", 2, Op::exchange, 0, "state 0..16, heads 0..2 is not one piece of value"});
  refused(joined([](Fetched& f) { return f.b.compose_pieces(f.state(1, 16), f.transitions); }),
          {"operand", 2, Op::compose, 0, "state 1..16, heads 0..2 of value"});
}

TEST(VerifyPieces, SomeOfThemAreLess) {
  // The last alone is the state of 8..16, which enters, but leaves out the tokens before.
  refused(joined([](Fetched& f) { return f.b.compose_pieces(f.state(8, 16), {}); }),
          {"coverage", 2, Op::finish, 0, "lacks 64 pairs with keys 0..8"});
  refused(joined([](Fetched& f) { return f.b.compose_pieces(f.state(0, 8), {}); }),
          {"coverage", 2, Op::scan, 0, "the state is that of tokens 0..8, and the run begins at 16"});
}

TEST(VerifyPieces, NeedTheTransitionsOfAllButTheFirst) {
  refused(joined([](Fetched& f) { return f.b.compose_pieces(f.states, {}); }),
          {"operand", 2, Op::compose, 0, "compose of pieces of state needs the transitions of 8..16"});
  refused(joined([](Fetched& f) { return f.b.compose_pieces(f.state(8, 16), f.transitions); }),
          {"operand", 2, Op::compose, 0, "needs the transitions of none"});
  refused(joined([](Fetched& f) { return f.b.compose_pieces(f.states, f.states); }, Layer::retnet),
          {"operand", 2, Op::compose, 0, "takes nothing else, but is given state"});
}

TEST(VerifyPieces, AreNoStateThemselves) {
  refused(joined([](Fetched& f) { return f.states; }),
          {"operand", 2, Op::scan, 0, "scan: state needs whole state, but value"});
  refused(joined([](Fetched& f) {
            f.b.compose(f.state(0, 8), f.state(8, 16), f.transitions);
            return f.b.compose_pieces(f.states, f.transitions);
          }),
          {"operand", 2, Op::compose, 0, "compose: source needs whole state, but value"});
  const Schedule whole = joined([](Fetched& f) {
    const Value one = f.b.state_of(f.b.input(f.b.problem().key_inputs()));
    f.b.compose_pieces(one, {});
    return f.b.compose_pieces(f.states, f.transitions);
  });
  refused(whole, {"operand", 2, Op::compose, 0, "is not made of its pieces"});
}

TEST(VerifyPieces, OnlyStatesComeInThem) {
  const Schedule keys = edited(gathered({}), [](StoredSchedule& stored) {
    for (Instruction& i : stored.programs[0].instructions) {
      if (i.op == Op::create) i.form = Form::pieces;
    }
  });
  refused(keys, {"operand", 0, Op::create, 0, "a value cannot hold out in pieces"});
}

TEST(VerifyPieces, JsonNamesTheForm) {
  const std::string text = to_json(gathered({}));
  EXPECT_NE(text.find("\"form\": \"pieces\""), std::string::npos);
  EXPECT_EQ(to_json(schedule_from_json(text)), text);
}

// Ranks with many messages meet a few at a time: with any number of threads the same is proved, and what is wrong is found.
TEST(VerifyPieces, ManyRanksMeetInAnyOrder) {
  const LinearCase c{.method = "all-gather-state", .layer = Layer::gla, .lengths = {500}, .ranks = 250};
  const Schedule schedule = c.schedule();
  Report first;
  for (const int threads : {1, 2, 3}) {
    VerifyOptions options;
    options.threads = threads;
    const Report report = verify(schedule, options);
    ASSERT_TRUE(report.ok()) << findings(report);
    if (threads == 1) first = report;
    EXPECT_EQ(cost_of(report).forward.bytes.total, cost_of(first).forward.bytes.total);
    EXPECT_EQ(report.instructions, first.instructions);
  }
  // Rank 200 takes the state of rank 3 from rank 4.
  const Schedule wrong = edited(schedule, [](StoredSchedule& stored) {
    for (Part& part : stored.programs[200].parts) {
      if (part.slice.tokens == stored.pool->intern(Range{6, 8}) && part.peer == 3) {
        part.slice.tokens = stored.pool->intern(Range{8, 10});
        break;
      }
    }
  });
  for (const int threads : {1, 3}) {
    VerifyOptions options;
    options.threads = threads;
    const Report report = verify(wrong, options);
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.problems[0].rank, 200);
    EXPECT_NE(report.problems[0].text.find("rank 3 sends state 6..8"), std::string::npos) << findings(report);
  }
}

}  // namespace
}  // namespace weft
