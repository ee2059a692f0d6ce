// Schedules of linear layers by hand: what the verifier refuses, with a right one beside it.
#include <gtest/gtest.h>

#include "tests/linear_case.h"
#include "tests/verify_script.h"

namespace weft {
namespace {

// ---- by hand: tokens 0..8 on rank 0, 8..16 on rank 1, one document unless said otherwise

Problem two(Layer layer = Layer::gla, std::vector<int64_t> lengths = {16}, bool backward = false) {
  LinearCase c{.layer = layer, .lengths = std::move(lengths), .ranks = 2, .heads = 2};
  Problem problem = c.problem();
  problem.backward = backward;
  return problem;
}

// The program of a rank, each part of which a test may do otherwise.
struct Parts {
  explicit Parts(Builder& builder)
      : b(builder), rank(b.rank()), q(b.input(Field::q)), kv(b.input(b.problem().key_inputs())) {
    out = b.sums(Field::out, q.tokens(), q.heads());
  }
  Set run(int64_t begin, int64_t end) { return b.set(Range{begin, end}); }
  void pass() {
    if (rank == 0) {
      b.exchange().send(1, b.state_of(kv)).issue();
    } else {
      state = b.whole(Field::state, run(0, 8), b.all_heads());
      b.exchange().receive(0, state).issue();
    }
  }
  void scan() { b.scan(q, kv, out); }
  void apply() {
    if (rank == 1) b.apply_state(q, kv, state, out);
  }
  void close() { b.result(b.finish(out)); }

  Builder& b;
  int rank;
  Value q, kv, out, state;
};

Schedule forward(Problem problem, std::function<void(Parts&)> body) {
  return script(std::move(problem), [body](int, Builder& b) {
    Parts parts(b);
    body(parts);
  });
}

TEST(VerifyLinear, ChainByHandIsRight) {
  proved(forward(two(), [](Parts& p) { p.pass(), p.scan(), p.apply(), p.close(); }));
}

TEST(VerifyLinear, StateNotApplied) {
  refused(forward(two(), [](Parts& p) { p.pass(), p.scan(), p.close(); }),
          {"coverage", 1, Op::finish, 0, "lacks 64 pairs with keys 0..8"});
}

TEST(VerifyLinear, TellsWhereAStateWasLost) {
  const Report report = verify(forward(two(), [](Parts& p) { p.pass(), p.scan(), p.close(); }));
  ASSERT_FALSE(report.ok());
  EXPECT_NE(report.problems[0].text.find("summarised on rank 0 at instruction"), std::string::npos)
      << report.problems[0].text;
  EXPECT_NE(report.problems[0].text.find("sent to rank 1 on rank 0"), std::string::npos) << report.problems[0].text;
}

TEST(VerifyLinear, RunNotScanned) {
  refused(forward(two(), [](Parts& p) { p.pass(), p.apply(), p.close(); }), {"coverage", 0, Op::finish, 0, "lacks"});
}

TEST(VerifyLinear, ScannedOrAppliedTwice) {
  refused(forward(two(), [](Parts& p) { p.pass(), p.scan(), p.scan(), p.apply(), p.close(); }),
          {"coverage", 0, Op::scan, 1, "are scanned twice"});
  refused(forward(two(), [](Parts& p) { p.pass(), p.scan(), p.apply(), p.apply(), p.close(); }),
          {"coverage", 1, Op::apply_state, 1, "are applied twice"});
}

// A state of tokens 0..8 is not one of the run that begins at 10.
TEST(VerifyLinear, StateAppliedElsewhere) {
  refused(forward(two(),
                  [](Parts& p) {
                    p.pass(), p.scan();
                    const Set late = p.run(10, 16);
                    if (p.rank == 1) p.b.apply_state(p.q[late], p.kv[late], p.state, p.out[late]);
                    p.close();
                  }),
          {"coverage", 1, Op::apply_state, 0, "the state is that of tokens 0..8, and the run begins at 10"});
}

TEST(VerifyLinear, OwnStateAppliedToOwnTokens) {
  refused(forward(two(),
                  [](Parts& p) {
                    p.pass(), p.scan();
                    if (p.rank == 1) p.b.apply_state(p.q, p.kv, p.b.state_of(p.kv), p.out);
                    p.close();
                  }),
          {"coverage", 1, Op::apply_state, 0, "the state is that of tokens 8..16, and the run begins at 8"});
}

// A state of half the tokens, called by its name, leaves the other half missing; called the state of all, it does not match.
TEST(VerifyLinear, StateOfHalfTheTokens) {
  refused(forward(two(),
                  [](Parts& p) {
                    const Set half = p.run(4, 8);
                    if (p.rank == 0) {
                      p.b.exchange().send(1, p.b.state_of(p.kv[half])).issue();
                    } else {
                      p.state = p.b.whole(Field::state, half, p.b.all_heads());
                      p.b.exchange().receive(0, p.state).issue();
                    }
                    p.scan(), p.apply(), p.close();
                  }),
          {"coverage", 1, Op::finish, 0, "lacks 32 pairs with keys 0..4"});
  refused(forward(two(),
                  [](Parts& p) {
                    if (p.rank == 0) {
                      p.b.exchange().send(1, p.b.state_of(p.kv[p.run(4, 8)])).issue();
                    } else {
                      p.pass();
                    }
                    p.scan(), p.apply(), p.close();
                  }),
          {"message", 1, Op::exchange, 0, "sends state 4..8"});
}

TEST(VerifyLinear, PartsOfAStateAreNoStates) {
  refused(edited(forward(two(), [](Parts& p) { p.pass(), p.scan(), p.apply(), p.close(); }),
                 [](StoredSchedule& stored) {
                   StoredProgram& program = stored.programs[1];
                   const Instruction& apply =
                       program.instructions[static_cast<size_t>(place_of(program, Op::apply_state))];
                   Slice& state = program.slices[apply.first + 2];
                   state.tokens = stored.pool->intern(Range{4, 8});
                 }),
          {"operand", 1, Op::apply_state, 0, "is not inside value"});
}

TEST(VerifyLinear, StateOfTokensApart) {
  refused(forward(two(),
                  [](Parts& p) {
                    const Value apart = p.b.whole(Field::state, p.run(0, 2) | p.run(4, 8), p.b.all_heads());
                    p.pass(), p.scan(), p.apply(), p.close();
                  }),
          {"operand", 0, Op::create, 1, "state is of neighbouring tokens"});
}

// Documents: the state that enters is that of the document; a border that none crosses needs none.
TEST(VerifyLinear, DocumentsThatEndAtTheBorderNeedNoState) {
  proved(forward(two(Layer::gla, {8, 8}), [](Parts& p) { p.scan(), p.close(); }));
  refused(forward(two(Layer::gla, {9, 7}), [](Parts& p) { p.scan(), p.close(); }),
          {"coverage", 1, Op::finish, 0, "lacks 8 pairs with keys 0..8"});
}

// ---- three ranks: maps that join

Problem three(Layer layer = Layer::gla) {
  const LinearCase c{.layer = layer, .lengths = {24}, .ranks = 3, .heads = 2};
  Problem problem = c.problem();
  problem.backward = false;
  return problem;
}

// Ranks 0 and 1 send their maps to rank 2, which joins them; rank 1 takes rank 0's state as it is.
Schedule joined(Layer layer, std::function<Value(Builder&, const Value&, const Value&, const Value&)> join) {
  return forward(three(layer), [join](Parts& p) {
    Builder& b = p.b;
    const Set first = p.run(0, 8), second = p.run(8, 16);
    if (p.rank == 0) {
      const Value mine = b.state_of(p.kv);
      b.exchange().send(1, mine).send(2, mine).issue();
      p.scan();
    } else if (p.rank == 1) {
      const Value theirs = b.whole(Field::state, first, b.all_heads());
      const Value mine = b.state_of(p.kv), passed = b.transition_of(p.kv);
      b.exchange().send(2, mine).send(2, passed).receive(0, theirs).issue();
      p.scan();
      b.apply_state(p.q, p.kv, theirs, p.out);
    } else {
      const Value one = b.whole(Field::state, first, b.all_heads()),
                  other = b.whole(Field::state, second, b.all_heads());
      const Value passed =
          has_transition(b.problem().layer) ? b.whole(Field::transition, second, b.all_heads()) : Value();
      b.exchange().receive(0, one).receive(1, other).receive(1, passed).issue();
      p.scan();
      b.apply_state(p.q, p.kv, join(b, one, other, passed), p.out);
    }
    p.close();
  });
}

TEST(VerifyLinear, MapsJoinInOrder) {
  for (const Layer layer : kLinearLayers) {
    proved(joined(layer, [](Builder& b, const Value& one, const Value& other, const Value& passed) {
      return b.compose(one, other, passed);
    }));
  }
  refused(joined(Layer::gla, [](Builder& b, const Value& one, const Value& other,
                                const Value& passed) { return b.compose(other, one, passed); }),
          {"coverage", 2, Op::compose, 0, "compose of 8..16 and 0..8 into 0..16"});
}

TEST(VerifyLinear, JoiningNeedsTheLaterTransition) {
  refused(joined(Layer::gla,
                 [](Builder& b, const Value& one, const Value& other, const Value&) { return b.compose(one, other); }),
          {"operand", 2, Op::compose, 0, "compose of state needs the transition of 8..16"});
  refused(joined(Layer::gla,
                 [](Builder& b, const Value& one, const Value& other, const Value&) {
                   return b.compose(one, other, b.whole(Field::transition, one.tokens(), b.all_heads()));
                 }),
          {"lifetime", 2, Op::compose, 0, "is used before it is defined"});
}

TEST(VerifyLinear, OneOfTwoMapsIsNotEnough) {
  refused(joined(Layer::gla, [](Builder&, const Value&, const Value& other, const Value&) { return other; }),
          {"coverage", 2, Op::finish, 0, "lacks 64 pairs with keys 0..8"});
}

TEST(VerifyLinear, ConstantDecaysHaveNoTransition) {
  refused(joined(Layer::retnet,
                 [](Builder& b, const Value& one, const Value& other, const Value&) {
                   return b.compose(one, other, b.whole(Field::transition, other.tokens(), b.all_heads()));
                 }),
          {"operand", 2, Op::compose, 0, "takes nothing else, but is given transition"});
}

// ---- backward

struct Backward {
  explicit Backward(Builder& builder)
      : b(builder),
        rank(b.rank()),
        q(b.input(Field::q)),
        kv(b.input(b.problem().key_inputs())),
        dout(b.input(Field::dout)) {
    dq = b.sums(Field::dq, q.tokens(), q.heads());
    dkv = b.sums(b.problem().key_gradients(), kv.tokens(), kv.heads());
  }
  void pass() {
    if (rank == 1) {
      b.exchange().send(0, b.dstate_of(q, kv, dout)).issue();
    } else {
      dstate = b.whole(Field::dstate, b.set(Range{8, 16}), b.all_heads());
      b.exchange().receive(1, dstate).issue();
    }
  }
  void scan(const Value& state) { b.scan_backward(q, kv, dout, state, dq, dkv); }
  void apply() { b.apply_dstate(kv, dstate, {}, dkv); }
  void close() {
    b.result(b.finish(dq));
    b.result(b.finish(dkv));
  }

  Builder& b;
  int rank;
  Value q, kv, dout, dq, dkv, dstate;
};

Schedule both(std::function<void(Backward&, const Value& state)> body) {
  return script(two(Layer::gla, {16}, true), [body](int, Builder& b) {
    Value state;
    {
      Parts p(b);
      p.pass(), p.scan(), p.apply(), p.close();
      state = p.state;
    }
    b.begin_backward();
    Backward backward(b);
    body(backward, state);
  });
}

TEST(VerifyLinear, BackwardByHandIsRight) {
  proved(both([](Backward& p, const Value& state) { p.pass(), p.scan(state), p.apply(), p.close(); }));
}

TEST(VerifyLinear, BackwardNeedsTheStateThatEntered) {
  refused(both([](Backward& p, const Value&) { p.pass(), p.scan({}), p.apply(), p.close(); }),
          {"coverage", 1, Op::scan_backward, 0, "the state that enters lacks tokens 0..8"});
}

TEST(VerifyLinear, GradientOfTheStateNotApplied) {
  refused(both([](Backward& p, const Value& state) { p.pass(), p.scan(state), p.close(); }),
          {"coverage", 0, Op::finish, 2, "lacks 64 pairs with queries 8..16"});
}

TEST(VerifyLinear, GradientOfTheStateTwice) {
  refused(both([](Backward& p, const Value& state) { p.pass(), p.scan(state), p.apply(), p.apply(), p.close(); }),
          {"coverage", 0, Op::apply_dstate, 1, "are applied twice"});
}

TEST(VerifyLinear, OwnGradientOfTheState) {
  refused(both([](Backward& p, const Value& state) {
            p.pass(), p.scan(state);
            if (p.rank == 0) {
              const Value own = p.b.dstate_of(p.q, p.kv, p.dout);
              p.b.apply_dstate(p.kv, own, {}, p.dkv);
            }
            p.close();
          }),
          {"coverage", 0, Op::apply_dstate, 0, "the dstate is that of tokens 0..8, and the run ends at 8"});
}

// ---- families do not mix

TEST(VerifyLinear, SoftmaxAttendsAndLinearLayersScan) {
  refused(script(two(),
                 [](int, Builder& b) {
                   Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
                   b.attend(q, kv, acc);
                   b.result(b.finish(acc));
                 }),
          {"operand", 0, Op::attend, 0, "attend belongs to softmax attention, not to layer gla"});
  Problem softmax = two();
  softmax.layer = Layer::softmax;
  refused(script(softmax,
                 [](int, Builder& b) {
                   Value q = b.input(Field::q), kv = b.input(kKv), out = b.sums(Field::out, q.tokens(), q.heads());
                   b.scan(q, kv, out);
                   b.result(b.finish(out));
                 }),
          {"operand", 0, Op::scan, 0, "scan: the layer is softmax"});
}

TEST(VerifyLinear, MethodsSayWhatTheyAreFor) {
  const auto refusal = [](std::string_view method, Problem problem) -> std::string {
    try {
      make_schedule(method, std::move(problem));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::unsupported);
      return error.what();
    }
    return "";
  };
  EXPECT_NE(refusal("ring", two()).find("use chain, "), std::string::npos);
  Problem softmax = two();
  softmax.layer = Layer::softmax;
  EXPECT_NE(refusal("chain", softmax).find("give --layer linear, retnet, mamba2, gla, deltanet"), std::string::npos);
  Problem full = self_attention(Mask::of(16, {}), Layout::contiguous(16, 2), 2, 2, 3);
  full.layer = Layer::gla;
  EXPECT_NE(refusal("chain", full).find("needs a causal mask"), std::string::npos);
  Problem striped = self_attention(Mask::of(16, {.causal = true}), Layout::striped(16, 2), 2, 2, 3);
  striped.layer = Layer::gla;
  EXPECT_NE(refusal("chain", striped).find("use layout contiguous or zigzag"), std::string::npos);
  Problem grouped = self_attention(Mask::of(16, {.causal = true}), Layout::contiguous(16, 2), 4, 2, 3);
  grouped.layer = Layer::gla;
  EXPECT_NE(refusal("chain", grouped).find("kv-heads 2 must equal heads 4"), std::string::npos);
}

}  // namespace
}  // namespace weft
