// Scans that take the state that enters and give the one that leaves: schedules by hand, what the verifier refuses beside them.
#include <gtest/gtest.h>

#include "tests/linear_case.h"
#include "tests/verify_script.h"

namespace weft {
namespace {

Set tokens_of(Builder& b, int64_t begin, int64_t end) { return b.set(Range{begin, end}); }

// Three ranks of 8 tokens each.
Problem passed_on(std::vector<int64_t> lengths, bool backward = false) {
  const LinearCase c{
      .layer = Layer::gla, .lengths = std::move(lengths), .ranks = 3, .heads = 2, .layout = "contiguous"};
  Problem problem = c.problem();
  problem.backward = backward;
  return problem;
}

// A rank's forward, of which a test may change which runs the states that come and leave are taken for.
struct PassedOn {
  explicit PassedOn(Builder& builder)
      : b(builder),
        first(8 * b.rank()),
        q(b.input(Field::q)),
        kv(b.input(b.problem().key_inputs())),
        out(b.sums(Field::out, q.tokens(), q.heads())) {}

  // From the rank before, of tokens from `begin` on.
  void receive(int64_t begin) {
    if (b.rank() == 0) return;
    entering = b.whole(Field::state, tokens_of(b, begin, first), b.all_heads());
    b.exchange().receive(b.rank() - 1, entering).issue();
  }
  void scan(int64_t begin) {
    if (b.rank() < 2) leaving = b.whole(Field::state, tokens_of(b, begin, first + 8), b.all_heads());
    b.scan(q, kv, out, entering, leaving);
  }
  void send() {
    if (b.rank() < 2) b.exchange().send(b.rank() + 1, leaving).issue();
  }
  void close() { b.result(b.finish(out)); }

  Builder& b;
  int64_t first;
  Value q, kv, out, entering, leaving;
};

Schedule chain_by_hand(Problem problem, std::function<void(PassedOn&)> body) {
  return script(std::move(problem), [body](int, Builder& b) {
    PassedOn p(b);
    body(p);
  });
}

TEST(VerifyLinearPassing, StatesThatLeaveTheScanAreRight) {
  proved(chain_by_hand(passed_on({24}), [](PassedOn& p) { p.receive(0), p.scan(0), p.send(), p.close(); }));
}

// Where a document begins in the run, the state of its tokens alone is that of all.
TEST(VerifyLinearPassing, AStateMayBeNamedByTheDocumentThatLeaves) {
  for (const int64_t begin : {0, 5, 9, 11}) {
    const Schedule schedule = chain_by_hand(passed_on({11, 13}), [begin](PassedOn& p) {
      p.receive(p.b.rank() == 2 ? begin : 0), p.scan(p.b.rank() == 1 ? begin : 0), p.send(), p.close();
    });
    proved(schedule);
  }
  refused(chain_by_hand(passed_on({11, 13}),
                        [](PassedOn& p) {
                          p.receive(p.b.rank() == 2 ? 12 : 0), p.scan(p.b.rank() == 1 ? 12 : 0), p.send(), p.close();
                        }),
          {"coverage", 1, Op::scan, 0, "gives the state of 0..16, not state"});
}

TEST(VerifyLinearPassing, AScanWithoutWhatEnteredGivesItsOwnStateOnly) {
  refused(chain_by_hand(passed_on({24}),
                        [](PassedOn& p) {
                          p.receive(0);
                          if (p.b.rank() == 1) p.entering.reset();
                          p.scan(0), p.send(), p.close();
                        }),
          {"coverage", 1, Op::scan, 0, "gives the state of 8..16, not state"});
  // The state of both, taken for that of the own tokens.
  refused(
      chain_by_hand(passed_on({24}), [](PassedOn& p) { p.receive(p.first - 8), p.scan(p.first), p.send(), p.close(); }),
      {"coverage", 1, Op::scan, 0, "gives the state of 0..16, not state"});
  // Called by its name the state of rank 1 alone is right, and leaves rank 2 without rank 0's tokens.
  refused(chain_by_hand(passed_on({24}),
                        [](PassedOn& p) {
                          p.receive(p.first - 8);
                          if (p.b.rank() == 1) p.b.apply_state(p.q, p.kv, p.entering, p.out), p.entering.reset();
                          p.scan(p.first), p.send(), p.close();
                        }),
          {"coverage", 2, Op::finish, 0, "lacks 64 pairs with keys 0..8"});
}

TEST(VerifyLinearPassing, AStateOfAnotherPlaceDoesNotEnter) {
  refused(chain_by_hand(passed_on({24}),
                        [](PassedOn& p) {
                          p.receive(0);
                          const Set late = tokens_of(p.b, p.first + 2, p.first + 8);
                          if (p.b.rank() == 1) p.b.scan(p.q[late], p.kv[late], p.out[late], p.entering);
                          if (p.b.rank() != 1) p.scan(0), p.send();
                          p.close();
                        }),
          {"coverage", 1, Op::scan, 0, "the state is that of tokens 0..8, and the run begins at 10"});
}

TEST(VerifyLinearPassing, WhatEntersIsAppliedOnce) {
  refused(chain_by_hand(passed_on({24}),
                        [](PassedOn& p) {
                          p.receive(0), p.scan(0), p.send();
                          if (p.b.rank() == 2) p.b.apply_state(p.q, p.kv, p.entering, p.out);
                          p.close();
                        }),
          {"coverage", 2, Op::apply_state, 0, "are applied twice"});
}

TEST(VerifyLinearPassing, AScanGivesNoOtherFields) {
  refused(chain_by_hand(passed_on({24}),
                        [](PassedOn& p) {
                          const Value wrong = p.b.whole(Field::dstate, p.q.tokens(), p.b.all_heads());
                          p.b.scan(p.q, p.kv, p.out, {}, wrong);
                          p.close();
                        }),
          {"operand", 0, Op::scan, 0, "adds to sums of out+final_state and gives state"});
  refused(chain_by_hand(passed_on({24}),
                        [](PassedOn& p) {
                          const Value own = p.b.state_of(p.kv);
                          p.b.scan(p.q, p.kv, p.out, {}, own);
                          p.close();
                        }),
          {"lifetime", 0, Op::scan, 0, "is written twice"});
}

// ---- backward: the same against the sequence

struct PassedBack {
  PassedBack(Builder& builder, Value state)
      : b(builder),
        first(8 * b.rank()),
        entered(std::move(state)),
        q(b.input(Field::q)),
        kv(b.input(b.problem().key_inputs())),
        dout(b.input(Field::dout)),
        dq(b.sums(Field::dq, q.tokens(), q.heads())),
        dkv(b.sums(b.problem().key_gradients(), kv.tokens(), kv.heads())) {}

  void receive() {
    if (b.rank() == 2) return;
    following = b.whole(Field::dstate, tokens_of(b, first + 8, 24), b.all_heads());
    b.exchange().receive(b.rank() + 1, following).issue();
  }
  void scan(int64_t end) {
    if (b.rank() > 0) leaving = b.whole(Field::dstate, tokens_of(b, first, end), b.all_heads());
    b.scan_backward(q, kv, dout, entered, dq, dkv, following, leaving);
  }
  void send() {
    if (b.rank() > 0) b.exchange().send(b.rank() - 1, leaving).issue();
  }
  void close() { b.result(b.finish(dq)), b.result(b.finish(dkv)); }

  Builder& b;
  int64_t first;
  Value entered, q, kv, dout, dq, dkv, following, leaving;
};

Schedule there_and_back(std::function<void(PassedBack&)> body) {
  return script(passed_on({24}, true), [body](int, Builder& b) {
    Value entered;
    {
      PassedOn p(b);
      p.receive(0), p.scan(0), p.send(), p.close();
      entered = p.entering;
    }
    b.begin_backward();
    PassedBack p(b, entered);
    body(p);
  });
}

TEST(VerifyLinearPassing, BackwardIsRight) {
  proved(there_and_back([](PassedBack& p) { p.receive(), p.scan(24), p.send(), p.close(); }));
}

TEST(VerifyLinearPassing, AGradientThatLeavesHasAllThatFollows) {
  refused(there_and_back([](PassedBack& p) {
            p.receive();
            p.following.reset();
            p.scan(24), p.send(), p.close();
          }),
          {"coverage", 1, Op::scan_backward, 0, "gives the dstate of 8..16, not dstate"});
  refused(there_and_back([](PassedBack& p) {
            p.receive();
            if (p.b.rank() == 0) p.following.reset();
            p.scan(24), p.send(), p.close();
          }),
          {"coverage", 0, Op::finish, 2, "lacks 128 pairs with queries 8..24"});
}

TEST(VerifyLinearPassing, AGradientOfAnotherPlaceDoesNotFollow) {
  refused(there_and_back([](PassedBack& p) {
            p.receive();
            const Set part = tokens_of(p.b, p.first, p.first + 6);
            if (p.b.rank() == 1) {
              p.b.scan_backward(p.q[part], p.kv[part], p.dout[part], p.entered, p.dq[part], p.dkv[part], p.following);
            } else {
              p.scan(24), p.send();
            }
            p.close();
          }),
          {"coverage", 1, Op::scan_backward, 0, "the dstate is that of tokens 16..24, and the run ends at 14"});
}

}  // namespace
}  // namespace weft
