// States that documents begin with and end in: schedules by hand, what the verifier refuses with a right one beside it.
#include <gtest/gtest.h>

#include "tests/linear_case.h"
#include "tests/verify_script.h"

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

TEST(VerifyLinear, StatesOfDocumentsHaveRowsOfTheirOwn) {
  refused(documents(of_states(),
                    [](DocumentParts& p) {
                      p.pass(), p.scan(), p.apply(), p.close();
                      p.b.sums(Field::final_state, p.run(3, 5), p.b.all_heads());
                    }),
          {"operand", 0, Op::create, 3, "final_state has rows for last tokens of documents only"});
}

}  // namespace
}  // namespace weft
