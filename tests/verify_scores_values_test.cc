// Values that hold whole rows of scores: their form, their columns and their bytes.
#include "tests/verify_scores.h"

namespace weft {
namespace {

TEST(Scores, TargetsAreTheSumsOfTheInstruction) {
  refused(two(Instead::score,
              [](Rows& r) {
                r.b.score(r.q, {r.k, r.k2}, r.out);
              }),
          {"operand", 0, Op::score, 0, "score: a target holds out, not scores"});
  refused(two(Instead::weigh,
              [](Rows& r) {
                Value partial = r.b.partial(r.q);
                r.b.weigh(r.probs, {r.v, r.v2}, partial);
              }),
          {"operand", 0, Op::weigh, 0, "weigh: a target holds out+lse, not out"});
  refused(two(Instead::score_backward,
              [](Rows& r) {
                Value both = r.b.sums(kDkv, r.k.tokens(), r.k.heads());
                r.b.score_backward(r.q, r.k, r.dscores, r.dq, both);
              }),
          {"operand", 0, Op::score_backward, 0, "score_backward: a target holds dk+dv, not dq+dk"});
  refused(two(Instead::score,
              [](Rows& r) {
                r.b.score(r.q, {r.k, r.k2}, {});
              }),
          {"operand", 0, Op::score, 0, "score without a target"});
  // The other way round: partial results are not sums of out.
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) {
            Value out = b.sums(Field::out, q.tokens(), q.heads());
            b.attend(q, kv, out);
            b.attend(q, kv, acc);
          }),
          {"operand", 0, Op::attend, 0, "attend: the target holds out, not out+lse"});
}

TEST(Scores, RowsHaveTheSameColumns) {
  // A value of probabilities for queries 0..4 alone has no columns for keys that only queries 4..8 see.
  refused(rows(tokens8(1, {.causal = true}), Instead::normalise,
               [](Rows& r) {
                 r.b.normalise(r.scores[r.b.set(Range{0, 4})]);
               }),
          {"operand", 0, Op::normalise, 0, "normalise of values that hold different queries: scores 0..8"});
  // By heads they may be apart.
  proved(script(tokens8(1), [](int, Builder& b) {
    Rows r(b);
    r.open(), r.score();
    for (int64_t head : {0, 1}) {
      auto [probs, lse] = b.normalise(r.scores.at(r.q.tokens(), b.set(Range{head, head + 1})));
      b.weigh(probs, r.v, r.out);
      b.result(lse);
    }
    r.close();
  }));
}

TEST(Scores, StayWhereTheyAre) {
  refused(two(Instead::score,
              [](Rows& r) {
                r.score();
                Value theirs = r.b.sums(Field::scores, r.b.queries_of(1 - r.rank), r.q.heads());
                r.b.exchange().send(1 - r.rank, r.scores).receive(1 - r.rank, theirs).issue();
              }),
          {"operand", 0, Op::exchange, 2, "exchange: scores stay where they are computed"});
  refused(two(Instead::weigh,
              [](Rows& r) {
                Value copy = whole(r.b, Field::probs, r.probs);
                r.b.exchange().send(r.rank, r.probs).receive(r.rank, copy).issue();
                r.weigh();
              }),
          {"operand", 0, Op::exchange, 2, "exchange: probs stay where they are computed"});
  refused(two(Instead::score,
              [](Rows& r) {
                Value part = r.b.sums(Field::scores, r.q.tokens(), r.q.heads());
                r.b.score(r.q, r.k, r.scores);
                r.b.score(r.q, r.k2, part);
                r.b.add(r.scores, part);
              }),
          {"operand", 0, Op::add, 0, "add of scores; partial results merge, sums add"});
}

TEST(Scores, ValuesOfThemHoldOneFieldInOneForm) {
  for (Fields whole : {Fields(Field::scores), Fields(Field::dprobs), Field::probs | Field::lse}) {
    refused(two(Instead::score,
                [whole](Rows& r) {
                  r.score();
                  r.b.whole(whole, r.q.tokens(), r.q.heads());
                }),
            {"operand", 0, Op::create, 4, "a value cannot hold " + to_string(whole)});
  }
  for (Fields sum : {Fields(Field::probs), Fields(Field::dscores), Field::scores | Field::out}) {
    refused(two(Instead::score,
                [sum](Rows& r) {
                  r.score();
                  r.b.sums(sum, r.q.tokens(), r.q.heads());
                }),
            {"operand", 0, Op::create, 4, "a value cannot hold " + to_string(sum) + " as sums"});
  }
  refused(two(Instead::close,
              [](Rows& r) {
                r.b.result(r.probs);
                r.close();
              }),
          {"result", 0, Op::result, 1, "probs is no result of forward"});
  refused(two(Instead::score,
              [](Rows& r) {
                r.b.input(Field::probs);
                r.score();
              }),
          {"operand", 0, Op::input, 3, "the caller does not give probs in forward"});
}

TEST(Scores, AreWrittenOnce) {
  const auto again = [](Op op) {
    return edited(rows(tokens8(1)), [op](StoredSchedule& stored) {
      const int64_t at = place_of(stored.programs[0], op);
      insert(stored, at, stored.programs[0].instructions[static_cast<size_t>(at)]);
    });
  };
  refused(again(Op::normalise), {"lifetime", 0, Op::normalise, 1, "probs 0..8, heads 0..2 is written twice"});
  refused(again(Op::normalise_backward),
          {"lifetime", 0, Op::normalise_backward, 1, "dscores 0..8, heads 0..2 is written"});
}

// ---- bytes

TEST(Scores, CountWithAllTheirColumns) {
  // Causal, contiguous: queries 0..4 have 4 columns, queries 4..8 have 8; 2 heads, fp32.
  const Report report = proved(rows(tokens8(2, {.causal = true})));
  for (int rank : {0, 1}) {
    const int64_t scores = 4 * 2 * (rank == 0 ? 4 : 8) * 4;
    EXPECT_EQ(report.ranks[static_cast<size_t>(rank)].saved_bytes, scores) << rank;  // the probabilities
    EXPECT_GT(report.ranks[static_cast<size_t>(rank)].live_bytes, 3 * scores) << rank;
  }
  // A window of 2 over queries 4..8: keys 3..8.
  EXPECT_EQ(proved(rows(tokens8(2, {.causal = true, .window = 2}))).ranks[1].saved_bytes, 4 * 2 * 5 * 4);
}

TEST(Scores, TooManyAreRefused) {
  // 2^40 queries x keys in each of 2^11 heads.
  Problem problem = self_attention(Mask::of(1 << 20, {}), Layout::contiguous(1 << 20, 1), 1 << 11, 1, 1);
  refused(script(problem,
                 [](int, Builder& b) {
                   Rows r(b);
                   r.open();
                 }),
          {"operand", 0, Op::create, 0, "more than 2^50 scores in one value"});
}

}  // namespace
}  // namespace weft
