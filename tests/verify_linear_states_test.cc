// States that documents begin with and end in: schedules by hand, what the verifier refuses with a right one beside it.
#include <gtest/gtest.h>

#include "tests/linear_case.h"
#include "tests/verify_script.h"
#include "weft/base/error.h"
#include "weft/schedule/json.h"

namespace weft {
namespace {

// Tokens 0..8 on rank 0, 8..16 on rank 1.
Problem of_states(std::vector<int64_t> lengths = {16}) {
  LinearCase c{.layer = Layer::gla, .lengths = std::move(lengths), .ranks = 2, .heads = 2};
  c.initial_states = c.final_states = true;
  Problem problem = c.problem();
  problem.backward = false;
  return problem;
}

// The program of a rank, each part of which a test may do otherwise.
struct DocumentParts {
  explicit DocumentParts(Builder& builder)
      : b(builder),
        rank(b.rank()),
        q(b.input(Field::q)),
        kv(b.input(b.problem().key_inputs())),
        initial(b.input(Field::initial_state)) {
    out = b.sums(Field::out, q.tokens(), q.heads());
    final = b.sums(Field::final_state, b.rows(Field::final_state, q.tokens()), q.heads());
  }
  Set run(int64_t begin, int64_t end) { return b.set(Range{begin, end}); }
  void pass() {
    if (rank == 0) {
      b.exchange().send(1, b.state_of({kv, initial})).issue();
    } else {
      state = b.whole(Field::state, run(0, 8), b.all_heads());
      b.exchange().receive(0, state).issue();
    }
  }
  void scan() { b.scan(q, {kv, initial}, {out, final}); }
  void apply() {
    if (rank == 1) b.apply_state(q, kv, state, {out, final});
  }
  void close() {
    b.result(b.finish(out));
    b.result(b.finish(final));
  }

  Builder& b;
  int rank;
  Value q, kv, initial, out, final, state;
};

Schedule documents(Problem problem, std::function<void(DocumentParts&)> body) {
  return script(std::move(problem), [body](int, Builder& b) {
    DocumentParts parts(b);
    body(parts);
  });
}

TEST(VerifyLinear, StatesOfDocumentsByHandAreRight) {
  proved(documents(of_states(), [](DocumentParts& p) { p.pass(), p.scan(), p.apply(), p.close(); }));
}

TEST(VerifyLinear, GivenStateLeftOut) {
  refused(documents(of_states(),
                    [](DocumentParts& p) {
                      p.pass();
                      p.b.scan(p.q, p.kv, {p.out, p.final});
                      p.apply(), p.close();
                    }),
          {"operand", 0, Op::scan, 0, "needs the initial_state of documents that begin at 0..1"});
  refused(documents(of_states(),
                    [](DocumentParts& p) {
                      if (p.rank == 0) p.b.exchange().send(1, p.b.state_of(p.kv)).issue();
                      if (p.rank == 1) p.pass();
                      p.scan(), p.apply(), p.close();
                    }),
          {"operand", 0, Op::summarise, 0, "needs the initial_state of documents that begin at 0..1"});
}

// Of another document than the one that begins in the run.
TEST(VerifyLinear, GivenStateOfAnotherDocument) {
  refused(documents(of_states({4, 12}),
                    [](DocumentParts& p) {
                      p.pass();
                      if (p.rank == 0) {
                        const Set second = p.run(4, 8), first = p.run(0, 1);
                        const Set rest = p.b.rows(Field::final_state, second);
                        p.b.scan(p.q[second], {p.kv[second], p.initial[first]}, {p.out[second], p.final[rest]});
                        p.b.scan(p.q[p.run(0, 4)], {p.kv[p.run(0, 4)], p.initial[first]},
                                 {p.out[p.run(0, 4)], p.final[p.run(3, 4)]});
                      } else {
                        p.scan();
                      }
                      p.apply(), p.close();
                    }),
          {"operand", 0, Op::scan, 0, "needs the initial_state of documents that begin at 4..5"});
}

TEST(VerifyLinear, FinalStateLacksWhatEntered) {
  refused(documents(of_states(),
                    [](DocumentParts& p) {
                      p.pass(), p.scan();
                      if (p.rank == 1) p.b.apply_state(p.q, p.kv, p.state, p.out);
                      p.close();
                    }),
          {"coverage", 1, Op::finish, 1, "final_state of queries 15..16"});
}

// ---- states at chosen positions

Problem of_positions() {
  Problem problem = of_states();
  problem.final_states = false;
  problem.state_positions = {Range{3, 4}, Range{10, 11}};
  return problem;
}

TEST(VerifyLinear, StatesAtPositionsByHandAreRight) {
  proved(documents(of_positions(), [](DocumentParts& p) { p.pass(), p.scan(), p.apply(), p.close(); }));
}

TEST(VerifyLinear, StateAtAPositionLacksWhatEntered) {
  refused(documents(of_positions(),
                    [](DocumentParts& p) {
                      p.pass(), p.scan();
                      if (p.rank == 1) p.b.apply_state(p.q, p.kv, p.state, p.out);
                      p.close();
                    }),
          {"coverage", 1, Op::finish, 1, "final_state of queries 10..11"});
}

TEST(VerifyLinear, StateAtAPositionIsNoResult) {
  const Report report = verify(documents(of_positions(), [](DocumentParts& p) {
    p.pass(), p.scan(), p.apply();
    p.b.result(p.b.finish(p.out));
    if (p.rank == 0) p.b.result(p.b.finish(p.final));
  }));
  EXPECT_FALSE(report.ok());
}

// Gradients of a state asked for that are left out, whatever method forgets them.
TEST(VerifyLinear, GradientOfAStateAtAPositionLeftOut) {
  Problem problem = of_positions();
  problem.backward = true;
  for (const bool forgets : {false, true}) {
    const Schedule schedule = documents(problem, [forgets](DocumentParts& p) {
      p.pass(), p.scan(), p.apply(), p.close();
      p.b.begin_backward();
      const Value dout = p.b.input(Field::dout), dfinal = p.b.input(Field::dfinal_state);
      const Value dq = p.b.sums(Field::dq, p.q.tokens(), p.q.heads());
      const Value dkv = p.b.sums(p.b.problem().key_gradients(), p.kv.tokens(), p.kv.heads());
      const Value dinitial = p.b.sums(Field::dinitial_state, p.initial.tokens(), p.initial.heads());
      Value following;
      if (p.rank == 1) {
        p.b.exchange().send(0, p.b.dstate_of(p.q, p.kv, {dout, dfinal})).issue();
      } else {
        following = p.b.whole(Field::dstate, p.run(8, 16), p.b.all_heads());
        p.b.exchange().receive(1, following).issue();
      }
      const bool without = forgets && p.rank == 0;
      p.b.scan_backward(p.q, {p.kv, p.initial}, {dout, without ? Slice{} : Slice(dfinal)}, p.state, dq, {dkv, dinitial},
                        following);
      for (const Value* sums : {&dq, &dkv, &dinitial}) p.b.result(p.b.finish(*sums));
    });
    if (forgets) {
      refused(schedule, {"operand", 0, Op::scan_backward, 0, "no dfinal_state of the run"});
    } else {
      proved(schedule);
    }
  }
}

TEST(VerifyLinear, StatesAskedForAreWrittenAndRead) {
  for (const Method* method : linear_methods()) {
    LinearCase c{.method = std::string(method->name), .layer = Layer::gdn, .lengths = {5, 20, 3}, .ranks = 3};
    c.initial_states = c.final_states = true, c.state_positions = {0, 6, 7, 27};
    const std::string text = to_json(c.schedule());
    EXPECT_NE(text.find("\"state_positions\": [0, 6, 7, 27]"), std::string::npos);
    const Schedule read = schedule_from_json(text);
    EXPECT_EQ(to_json(read), text);
    proved(read);
  }
}

TEST(VerifyLinear, StatePositionsAreTokensOfALinearLayer) {
  const auto refuses = [](const Problem& problem, const std::string& text) {
    try {
      problem.validate();
      ADD_FAILURE() << "not refused: " << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  };
  Problem problem = of_positions();
  problem.state_positions = {Range{16, 17}};
  refuses(problem, "state position 16 is none of the 16 tokens; use 0 to 15");
  Problem attention = self_attention(Mask::of(16, {.causal = true}), Layout::contiguous(16, 2), 2, 2, 4);
  attention.state_positions = {Range{3, 4}};
  refuses(attention, "go with a linear layer");
}

TEST(VerifyLinear, StatesOfDocumentsHaveRowsOfTheirOwn) {
  refused(documents(of_states(),
                    [](DocumentParts& p) {
                      p.pass(), p.scan(), p.apply(), p.close();
                      p.b.sums(Field::final_state, p.run(3, 5), p.b.all_heads());
                    }),
          {"operand", 0, Op::create, 3, "final_state has rows for tokens after which states are asked for only"});
}

}  // namespace
}  // namespace weft
