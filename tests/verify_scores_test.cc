// Attention by whole rows of scores: what normalise, the sums and the gradients prove, and wrong programs near right ones.
#include "tests/verify_scores.h"

namespace weft {
namespace {

TEST(Scores, RightProgramsAreProved) {
  for (int ranks : {1, 2}) {
    for (MaskRule rule : {MaskRule{}, MaskRule{.causal = true}, MaskRule{.causal = true, .window = 3}}) {
      const Report report = proved(rows(tokens8(ranks, rule)));
      int64_t work = 0, work_backward = 0;
      for (const RankReport& rank : report.ranks) work += rank.work, work_backward += rank.work_backward;
      EXPECT_EQ(work, tokens8(ranks, rule).mask.area() * 2);
      EXPECT_EQ(work_backward, work);
    }
  }
}

// ---- forward

TEST(Scores, NormaliseNeedsEveryKey) {
  const Schedule wrong = two(Instead::score, [](Rows& r) {
    r.b.score(r.q, r.k, r.scores);
    if (r.rank == 0) r.b.score(r.q, r.k2, r.scores);
  });
  refused(wrong,
          {"coverage", 1, Op::normalise, 0, "scores of queries 4..8, query heads 0..2 lacks 16 pairs with keys 0..4"});
  // Keys that no query of the rank sees need no column.
  const auto own_only = [](Rows& r) { r.b.score(r.q, r.k, r.scores); };
  proved(
      rows(self_attention(Mask::documents({4, 4}, {}), Layout::contiguous(8, 2), 2, 1, 4), Instead::score, own_only));
}

TEST(Scores, NormaliseComesAfterTheLastKey) {
  const auto schedule = [](bool early) {
    return script(tokens8(2), [early](int, Builder& b) {
      Rows r(b);
      r.open();
      b.score(r.q, r.k, r.scores);
      if (!early) b.score(r.q, r.k2, r.scores);
      r.normalise();
      if (early) b.score(r.q, r.k2, r.scores);
      r.weigh(), r.close();
    });
  };
  proved(schedule(false));
  refused(schedule(true), {"coverage", 0, Op::normalise, 0,
                           "lacks 16 pairs with keys 4..8; the first of them: scored on "
                           "rank 0 at instruction 15, then dropped"});
}

TEST(Scores, NoKeyIsScoredTwice) {
  refused(two(Instead::score,
              [](Rows& r) {
                r.score();
                r.b.score(r.q, r.k2, r.scores);
              }),
          {"coverage", 0, Op::score, 1,
           "scores of queries 0..4, query heads 0..2: 16 pairs with keys 4..8 are scored twice"});
  // An overlap that nobody sees is none.
  proved(rows(tokens8(1, {.causal = true}), Instead::score, [](Rows& r) {
    const Set low = r.b.set(Range{0, 4}), high = r.b.set(Range{4, 8});
    r.b.score(r.q[low], r.k, r.scores);
    r.b.score(r.q, r.k[high], r.scores);
    r.b.score(r.q[high], r.k[low], r.scores);
  }));
}

TEST(Scores, EachValueIsWeighedOnce) {
  refused(two(Instead::weigh,
              [](Rows& r) {
                r.weigh();
                r.b.weigh(r.probs, r.v, r.out);
              }),
          {"coverage", 0, Op::weigh, 1,
           "out of queries 0..4, query heads 0..2: 16 pairs with keys 0..4 are weighed twice"});
  refused(two(Instead::weigh, [](Rows& r) { r.b.weigh(r.probs, r.v, r.out); }),
          {"coverage", 0, Op::finish, 0, "out of queries 0..4, query heads 0..2 lacks 16 pairs with keys 4..8"});
  // The own values in place of the other rank's: columns are those of the keys that are named.
  refused(two(Instead::weigh,
              [](Rows& r) {
                r.b.weigh(r.probs, {r.v, r.v}, r.out);
              }),
          {"coverage", 0, Op::weigh, 0, "16 pairs with keys 0..4 are weighed twice"});
}

TEST(Scores, ValuesAreThoseThatWereSent) {
  // Rank 0 sends its keys once more in place of its values.
  const Schedule wrong = script(tokens8(2), [](int rank, Builder& b) {
    Rows r(b);
    r.q = b.input(Field::q), r.k = b.input(Field::k), r.v = b.input(Field::v);
    r.scores = b.sums(Field::scores, r.q.tokens(), r.q.heads()), r.out = b.sums(Field::out, r.q.tokens(), r.q.heads());
    r.k2 = r.other(r.k, Field::k), r.v2 = r.other(rank == 0 ? r.k : r.v, Field::v);
    r.score(), r.normalise(), r.weigh(), r.close();
  });
  refused(wrong, {"message", 1, Op::exchange, 1, "rank 0 sends k 0..4, heads 0..1 (its instruction"});
}

TEST(Scores, ProbabilitiesAreWeighedAfterTheyAreMade) {
  refused(two(Instead::normalise,
              [](Rows& r) {
                r.probs = whole(r.b, Field::probs, r.q);
                r.b.weigh(r.probs, {r.v, r.v2}, r.out);
                r.probs.reset();
                r.normalise();
              }),
          {"lifetime", 0, Op::weigh, 0, "weigh: probs: probs 0..4, heads 0..2 is used before it is defined"});
  refused(two(Instead::weigh,
              [](Rows& r) {
                r.b.weigh(r.scores, {r.v, r.v2}, r.out);
              }),
          {"operand", 0, Op::weigh, 0, "weigh: probs needs whole probs, but value 3 is accumulating scores"});
}

TEST(Scores, QueryHeadsReadTheirOwnKvHead) {
  Problem problem = tokens8(1);
  problem.heads = 4, problem.kv_heads = 2;
  const auto score = [](int64_t kv_head) {
    return [kv_head](Rows& r) {
      const auto heads = [&](int64_t begin, int64_t end) { return r.b.set(Range{begin, end}); };
      r.b.score(r.q.at(r.q.tokens(), heads(0, 2)), r.k.at(r.k.tokens(), heads(0, 1)), r.scores);
      r.b.score(r.q.at(r.q.tokens(), heads(2, 4)), r.k.at(r.k.tokens(), heads(kv_head, kv_head + 1)), r.scores);
    };
  };
  proved(rows(problem, Instead::score, score(1)));
  refused(rows(problem, Instead::score, score(0)),
          {"operand", 0, Op::score, 1, "score: the keys lack kv heads that query heads 2..4 read"});
}

// ---- backward

TEST(Scores, NormaliseBackwardNeedsEveryKey) {
  refused(
      two(Instead::weigh_backward,
          [](Rows& r) {
            r.b.weigh_backward(r.dout, r.v, r.probs, r.dprobs, r.dv);
            r.b.weigh_backward(r.dout, r.v2, r.probs, {}, r.dv2);
          }),
      {"coverage", 0, Op::normalise_backward, 0, "dprobs of queries 0..4, query heads 0..2 lacks 16 pairs with keys"});
  refused(two(Instead::normalise_backward,
              [](Rows& r) {
                r.normalise_backward();
                r.b.weigh_backward(r.dout, r.v2, r.probs, r.dprobs, {});
              }),
          {"coverage", 0, Op::weigh_backward, 1, "16 pairs with keys 4..8 are computed twice"});
}

TEST(Scores, GradientsAreAddedOnce) {
  const auto twice = [](Instead where, Field field) {
    return two(where, [where, field](Rows& r) {
      if (where == Instead::weigh_backward) {
        r.weigh_backward();
        r.b.weigh_backward(r.dout, r.v, r.probs, {}, r.dv);
      } else {
        r.score_backward();
        r.b.score_backward(r.q, r.k, r.dscores, field == Field::dq ? Slice(r.dq) : Slice(),
                           field == Field::dk ? Slice(r.dk) : Slice());
      }
    });
  };
  refused(twice(Instead::weigh_backward, Field::dv),
          {"coverage", 0, Op::weigh_backward, 1,
           "dv of keys 0..4, query heads 0..2: 16 pairs with queries 0..4 are added"});
  refused(twice(Instead::score_backward, Field::dq),
          {"coverage", 0, Op::score_backward, 1,
           "dq of queries 0..4, query heads 0..2: 16 pairs with keys 0..4 are added"});
  refused(twice(Instead::score_backward, Field::dk),
          {"coverage", 0, Op::score_backward, 1,
           "dk of keys 0..4, query heads 0..2: 16 pairs with queries 0..4 are added"});
}

TEST(Scores, NoGradientIsLost) {
  refused(two(Instead::weigh_backward,
              [](Rows& r) {
                r.b.weigh_backward(r.dout, {r.v, r.v2}, r.probs, r.dprobs, {});
                r.b.weigh_backward(r.dout, r.v, r.probs, {}, r.dv);
              }),
          {"coverage", 0, Op::finish, 3, "dv of keys 0..4, query heads 0..2 lacks 16 pairs with queries 4..8"});
  refused(two(Instead::score_backward,
              [](Rows& r) {
                r.b.score_backward(r.q, {r.k, r.k2}, r.dscores, r.dq, {});
              }),
          {"coverage", 0, Op::finish, 2, "dk of keys 0..4, query heads 0..2 lacks 32 pairs with queries 0..8"});
  // A sum that is computed on the other rank and never sent home.
  refused(script(with_backward(tokens8(2)),
                 [](int, Builder& b) {
                   Rows r(b);
                   r.forward(), r.open_backward(), r.weigh_backward(), r.normalise_backward(), r.score_backward();
                   for (const Value* sums : {&r.dq, &r.dk, &r.dv}) b.result(b.finish(*sums));
                 }),
          {"coverage", 0, Op::finish, 2, "lacks 16 pairs with queries 4..8; the first of them: added on rank 1"});
}

TEST(Scores, GradientsNeedWhatTheyAreMadeOf) {
  refused(two(Instead::score_backward,
              [](Rows& r) {
                Value fresh = whole(r.b, Field::dscores, r.q);
                r.b.score_backward(r.q, {r.k, r.k2}, fresh, r.dq, {r.dk, r.dk2});
              }),
          {"lifetime", 0, Op::score_backward, 0, "score_backward: bundle: dscores 0..4, heads 0..2 is used before"});
  refused(two(Instead::weigh_backward,
              [](Rows& r) {
                const Set one = r.b.set(Range{0, 1});
                r.b.weigh_backward(r.dout, {r.v, r.v2}, r.probs.at(r.probs.tokens(), one), r.dprobs, {r.dv, r.dv2});
              }),
          {"operand", 0, Op::weigh_backward, 0, "weigh_backward: no probs for queries 0..4, heads 0..2"});
  refused(two(Instead::weigh_backward,
              [](Rows& r) {
                r.b.weigh_backward(r.dout, {r.v, r.v2}, r.probs, r.dprobs, r.dv);
              }),
          {"operand", 0, Op::weigh_backward, 0, "weigh_backward: dv: no rows for keys 4..8, heads 0..1"});
}

}  // namespace
}  // namespace weft
