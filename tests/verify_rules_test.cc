// The proof's middle: every allowed pair is attended once, every gradient contribution comes home
// once, and the explanation says where a missing one went.
#include "tests/verify_script.h"

namespace weft {
namespace {

// ---- forward

TEST(Coverage, EveryPairIsAttended) {
  const auto body = [](bool whole) {
    return [whole](int rank, Builder& b) {
      forward_pair(rank, b, [&](const Value& kv, Value& other) {
        swap_kv(rank, b, kv, other);
        if (!whole && rank == 1) other.reset();  // rank 1 attends to its own keys only
      });
    };
  };
  proved(script(tokens8(2), body(true)));
  // 4 queries x 4 keys of each of the two heads: pairs are counted once for all heads of the rows.
  refused(script(tokens8(2), body(false)),
          {"coverage", 1, Op::finish, 0, "out+lse of queries 4..8, query heads 0..2 lacks 16 pairs with keys 0..4"});
}

TEST(Coverage, MissingPairsAreCountedUnderTheMask) {
  // Queries 4..8 see 1, 2, 3, 4 of the keys 4..8 under a causal mask.
  const Schedule wrong = script(tokens8(1, {.causal = true}), [](int, Builder& b) {
    forward_alone(b, [&](auto& q, auto& kv, auto& acc) { b.attend(q, kv[b.set(Range{0, 4})], acc); });
  });
  refused(wrong, {"coverage", 0, Op::finish, 0, "of queries 4..8, query heads 0..2 lacks 10 pairs with keys 4..8"});
  // Without the queries that see them, nothing is missing.
  proved(script(tokens8(1, {.causal = true}), [](int, Builder& b) {
    forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
      const Set low = b.set(Range{0, 4});
      b.attend(q[low], kv[low], acc);
      b.attend(q[b.set(Range{4, 8})], kv, acc);
    });
  }));
}

TEST(Coverage, NoPairIsAttendedTwice) {
  refused(script(tokens8(1),
                 [](int, Builder& b) {
                   forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
                     b.attend(q, kv, acc);
                     b.attend(q[b.set(Range{2, 4})], kv[b.set(Range{5, 8})], acc);
                   });
                 }),
          {"coverage", 0, Op::attend, 1, "out of queries 2..4, heads 0..2: 6 pairs with keys 5..8 are attended twice"});
  // An overlap without allowed pairs is harmless: query 3 does not see keys 4..8.
  proved(script(tokens8(1, {.causal = true}), [](int, Builder& b) {
    forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
      b.attend(q[b.set(Range{0, 4})], kv, acc);
      b.attend(q[b.set(Range{3, 8})], kv[b.set(Range{4, 8})], acc);
      b.attend(q[b.set(Range{4, 8})], kv[b.set(Range{0, 4})], acc);
    });
  }));
}

TEST(Coverage, EveryHeadIsAttended) {
  const auto body = [](bool both) {
    return [both](int, Builder& b) {
      forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
        b.attend(q.at(q.tokens(), b.set(Range{0, 1})), kv, acc);
        if (both) b.attend(q.at(q.tokens(), b.set(Range{1, 2})), kv, acc);
      });
    };
  };
  proved(script(tokens8(1), body(true)));
  refused(script(tokens8(1), body(false)),
          {"coverage", 0, Op::finish, 0, "of queries 0..8, query heads 1..2 lacks 64 pairs with keys 0..8"});
}

TEST(Coverage, QueryHeadsReadTheirOwnKvHead) {
  Problem problem = tokens8(1);
  problem.heads = 4, problem.kv_heads = 2;  // heads 0, 1 read kv head 0; heads 2, 3 read kv head 1
  const auto body = [](int64_t kv_head) {
    return [kv_head](int, Builder& b) {
      forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
        b.attend(q.at(q.tokens(), b.set(Range{0, 2})), kv.at(kv.tokens(), b.set(Range{0, 1})), acc);
        b.attend(q.at(q.tokens(), b.set(Range{2, 4})), kv.at(kv.tokens(), b.set(Range{kv_head, kv_head + 1})), acc);
      });
    };
  };
  proved(script(problem, body(1)));
  refused(script(problem, body(0)), {"operand", 0, Op::attend, 1, "the keys lack kv heads that query heads 2..4 read"});
}

TEST(Coverage, MergeUnitesDisjointPartials) {
  const auto body = [](int times, bool overlap) {
    return [times, overlap](int, Builder& b) {
      forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
        b.attend(q, kv[b.set(Range{0, overlap ? 5 : 4})], acc);
        Value part = b.partial(q);
        b.attend(q, kv[b.set(Range{4, 8})], part);
        for (int i = 0; i < times; ++i) b.merge(acc, part);
      });
    };
  };
  proved(script(tokens8(1), body(1, false)));
  refused(script(tokens8(1), body(2, false)), {"coverage", 0, Op::merge, 1, "32 pairs with keys 4..8 arrive twice"});
  refused(script(tokens8(1), body(1, true)), {"coverage", 0, Op::merge, 0, "8 pairs with keys 4..5 arrive twice"});
  refused(script(tokens8(1), body(0, false)), {"coverage", 0, Op::finish, 0, "lacks 32 pairs with keys 4..8"});
}

TEST(Coverage, MergingAValueWithItselfIsRefused) {
  refused(script(tokens8(1),
                 [](int, Builder& b) {
                   forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
                     b.attend(q, kv, acc);
                     b.merge(acc, acc);
                   });
                 }),
          {"coverage", 0, Op::merge, 0, "with itself"});
}

// An exchange sends what its outgoing slices hold when it is issued. Rank 1 attends its keys for
// rank 0's queries.
TEST(Rule1, AnExchangeSendsWhatSlicesHoldAtItsIssue) {
  const auto body = [](bool before) {
    return [before](int rank, Builder& b) {
      Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
      Value visitor = b.whole(Field::q, b.queries_of(1 - rank), b.all_heads());
      b.exchange().send(1 - rank, q).receive(1 - rank, visitor).issue();
      Value part = b.partial(visitor), back = b.partial(q);
      b.attend(q, kv, acc);
      if (before) b.attend(visitor, kv, part);
      b.exchange().send(1 - rank, part).receive(1 - rank, back).issue();
      if (!before) b.attend(visitor, kv, part);
      b.merge(acc, back);
      b.result(b.finish(acc));
    };
  };
  proved(script(tokens8(2), body(true)));
  refused(script(tokens8(2), body(false)), {"coverage", 0, Op::finish, 0, "lacks 16 pairs with keys 4..8"});
}

TEST(Coverage, TheSentAndTheKeptCopyMayNotBothReachAResult) {
  // A rank sends its partial to itself and keeps it: merging both counts every pair twice.
  const auto body = [](bool both) {
    return [both](int, Builder& b) {
      forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
        Value part = b.partial(q), copy = b.partial(q);
        b.attend(q, kv, part);
        b.exchange().send(0, part).receive(0, copy).issue();
        b.merge(acc, copy);
        if (both) b.merge(acc, part);
      });
    };
  };
  proved(script(tokens8(1), body(false)));
  refused(script(tokens8(1), body(true)), {"coverage", 0, Op::merge, 1, "64 pairs with keys 0..8 arrive twice"});
}

TEST(Coverage, FinishOfSomeRowsNeedsOnlyThose) {
  const auto body = [](int64_t rows) {
    return [rows](int, Builder& b) {
      Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
      const Set low = b.set(Range{0, 4}), high = b.set(Range{4, 8});
      b.attend(q[low], kv, acc);
      b.result(b.finish(acc[b.set(Range{0, rows})]));
      b.attend(q[high], kv, acc);
      b.result(b.finish(acc[b.set(Range{rows, 8})]));
    };
  };
  proved(script(tokens8(1), body(4)));
  refused(script(tokens8(1), body(5)),
          {"coverage", 0, Op::finish, 0, "of queries 4..5, query heads 0..2 lacks 8 pairs"});
}

// ---- gradients

TEST(Gradients, BothPhasesAreProved) {
  for (int ranks : {1, 2}) {
    proved(script(with_backward(tokens8(ranks)), [](int, Builder& b) {
      Training t(b);
      t.forward(), t.open(), t.compute_own();
      if (!t.alone) t.compute_other(), t.send_home();
      t.close();
    }));
  }
}

TEST(Gradients, EveryContributionToDqIsThere) {
  refused(script(with_backward(tokens8(2)),
                 [](int rank, Builder& b) {
                   Training t(b);
                   t.forward(), t.open(), t.compute_own();
                   b.attend_backward(t.q, t.other, t.bundle(), rank == 1 ? Slices(Slice{}) : Slices(t.dq), t.part);
                   t.send_home(), t.close();
                 }),
          {"coverage", 1, Op::finish, 1, "dq of queries 4..8, query heads 0..2 lacks 16 pairs with keys 0..4"});
}

TEST(Gradients, EveryContributionToDkAndDvComesHome) {
  refused(script(with_backward(tokens8(2)),
                 [](int, Builder& b) {
                   Training t(b);
                   t.forward(), t.open(), t.compute_own(), t.compute_other(), t.close();
                 }),
          {"coverage", 0, Op::finish, 2, "dk+dv of keys 0..4, query heads 0..2 lacks 16 pairs with queries 4..8"});
}

TEST(Gradients, NoContributionIsAddedTwice) {
  refused(script(with_backward(tokens8(1)),
                 [](int, Builder& b) {
                   Training t(b);
                   t.forward(), t.open(), t.compute_own();
                   Value again = b.sums(kDkv, t.kv.tokens(), t.kv.heads());
                   b.attend_backward(t.q, t.kv, t.bundle(), t.dq, again);
                   t.close();
                 }),
          {"coverage", 0, Op::attend_backward, 1,
           "dq of queries 0..8, query heads 0..2: 64 pairs with keys 0..8 are added twice"});
  refused(script(with_backward(tokens8(2)),
                 [](int, Builder& b) {
                   Training t(b);
                   t.forward(), t.open(), t.compute_own(), t.compute_other(), t.send_home(), t.send_home(), t.close();
                 }),
          {"coverage", 0, Op::exchange, 3,
           "dk+dv of keys 0..4, query heads 0..2: 16 pairs with queries 4..8 arrive twice"});
}

TEST(Gradients, EachGradientAloneIsLegal) {
  const auto body = [](bool dv) {
    return [dv](int, Builder& b) {
      Training t(b);
      t.forward(), t.open();
      b.attend_backward(t.q, t.kv, t.bundle(), t.dq, Slice{});
      Value dk_sum = b.sums(Field::dk, t.kv.tokens(), t.kv.heads());
      Value dv_sum = b.sums(Field::dv, t.kv.tokens(), t.kv.heads());
      b.attend_backward(t.q, t.kv, t.bundle(), Slice{}, dk_sum);
      if (dv) b.attend_backward(t.q, t.kv, t.bundle(), Slice{}, dv_sum);
      b.result(b.finish(t.dq));
      b.result(b.finish(dk_sum));
      b.result(b.finish(dv_sum));
    };
  };
  proved(script(with_backward(tokens8(1)), body(true)));
  refused(script(with_backward(tokens8(1)), body(false)),
          {"coverage", 0, Op::finish, 3, "dv of keys 0..8, query heads 0..2 lacks 64 pairs with queries 0..8"});
}

// dk, dv of a kv head that several sums hold are complete when the parts of all its query heads are
// added.
TEST(Gradients, KvHeadsNeedAllTheirQueryHeads) {
  const auto body = [](bool both) {
    return [both](int, Builder& b) {
      Training t(b);
      t.forward(), t.open();
      for (int64_t head : {0, 1}) {
        Value part = b.sums(kDkv, t.kv.tokens(), t.kv.heads());
        b.attend_backward(t.q.at(t.q.tokens(), b.set(Range{head, head + 1})), t.kv, t.bundle(), t.dq, part);
        if (head == 0 || both) b.add(t.dkv, part);
      }
      t.close();
    };
  };
  proved(script(with_backward(tokens8(1)), body(true)));
  refused(script(with_backward(tokens8(1)), body(false)),
          {"coverage", 0, Op::finish, 2, "dk+dv of keys 0..8, query heads 1..2 lacks 64 pairs with queries 0..8"});
}

TEST(Gradients, TheBundleIsComplete) {
  for (int missing : {0, 1, 2}) {
    const char* names[] = {"no dout for", "no lse for", "no delta for"};
    refused(script(with_backward(tokens8(1)),
                   [missing](int, Builder& b) {
                     Training t(b);
                     t.forward(), t.open();
                     std::vector<Slice> bundle = t.bundle();
                     bundle.erase(bundle.begin() + missing);
                     b.attend_backward(t.q, t.kv, bundle, t.dq, t.dkv);
                     t.close();
                   }),
            {"operand", 0, Op::attend_backward, 0, names[missing]});
  }
}

TEST(Gradients, TheBundleCoversTheQueries) {
  refused(script(with_backward(tokens8(1)),
                 [](int, Builder& b) {
                   Training t(b);
                   t.forward(), t.open();
                   const Set low = b.set(Range{0, 4});
                   b.attend_backward(t.q, t.kv, {t.dout, t.out[low].only(Field::lse), t.delta}, t.dq, t.dkv);
                   t.close();
                 }),
          {"operand", 0, Op::attend_backward, 0, "no lse for queries 0..8"});
}

TEST(Gradients, TargetsHoldTheRows) {
  refused(script(with_backward(tokens8(1)),
                 [](int, Builder& b) {
                   Training t(b);
                   t.forward(), t.open();
                   b.attend_backward(t.q, t.kv, t.bundle(), t.dq, t.dkv[b.set(Range{0, 4})]);
                   t.close();
                 }),
          {"operand", 0, Op::attend_backward, 0, "no dk rows for keys 0..8, heads 0..1"});
}

TEST(Gradients, KeysHoldTheKvHeadsOfTheQueries) {
  Problem problem = with_backward(tokens8(1));
  problem.heads = 4, problem.kv_heads = 2;
  refused(script(problem,
                 [](int, Builder& b) {
                   Training t(b);
                   t.forward(), t.open();
                   b.attend_backward(t.q, t.kv.at(t.kv.tokens(), b.set(Range{0, 1})), t.bundle(), t.dq, t.dkv);
                   t.close();
                 }),
          {"operand", 0, Op::attend_backward, 0, "the keys lack kv heads that query heads 0..4 read"});
}

// ---- explanations

// The text of the first finding of a schedule, and what it says after "; the first of them: ".
std::string story(const Schedule& schedule, bool explain = true) {
  VerifyOptions options;
  options.explain = explain;
  const Report report = verify(schedule, options);
  if (report.ok()) return "accepted";
  const std::string& text = report.problems[0].text;
  const size_t at = text.find("; the first of them: ");
  return at == std::string::npos ? "" : text.substr(at + 21);
}
std::string at(const Schedule& schedule, int rank, Op op, int n = 0) {
  return " on rank " + std::to_string(rank) + " at instruction " + std::to_string(place_of(schedule, rank, op, n));
}

TEST(Explanation, SaysThatNothingComputesIt) {
  const Schedule wrong = script(tokens8(1), [](int, Builder& b) {
    forward_alone(b, [&](auto& q, auto& kv, auto& acc) { b.attend(q, kv[b.set(Range{0, 4})], acc); });
  });
  EXPECT_EQ(story(wrong), "it is computed nowhere");
}

TEST(Explanation, FollowsAPartialToItsDrop) {
  // The partial of keys 4..8 is never merged. Its drop is the first of the program: it goes before
  // acc does.
  const Schedule wrong = script(tokens8(1), [](int, Builder& b) {
    forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
      b.attend(q, kv[b.set(Range{0, 4})], acc);
      Value part = b.partial(q);
      b.attend(q, kv[b.set(Range{4, 8})], part);
    });
  });
  EXPECT_EQ(story(wrong), "attended" + at(wrong, 0, Op::attend, 1) + ", then dropped" + at(wrong, 0, Op::drop, 0));
}

TEST(Explanation, FollowsAGradientToAnotherRank) {
  // What rank 1 computes for the keys of rank 0 arrives there and is dropped instead of added.
  const Schedule wrong = script(with_backward(tokens8(2)), [](int rank, Builder& b) {
    Training t(b);
    t.forward(), t.open(), t.compute_own(), t.compute_other();
    Value got = b.sums(kDkv, t.kv.tokens(), t.kv.heads());
    b.exchange().send(1 - rank, t.part).receive(1 - rank, got).issue();
    if (rank == 1) b.add(t.dkv, got);
    got.reset();
    t.close();
  });
  refused(wrong, {"coverage", 0, Op::finish, 2, "dk+dv of keys 0..4"});
  const std::string text = story(wrong);
  EXPECT_EQ(text.find("computed" + at(wrong, 1, Op::attend_backward, 1) + ", then sent to rank 0" +
                      at(wrong, 1, Op::exchange, 2) + ", then dropped" + " on rank 0 at instruction "),
            0u)
      << text;
}

TEST(Explanation, CanBeLeftOut) {
  const Schedule wrong = script(tokens8(1), [](int, Builder& b) {
    forward_alone(b, [&](auto& q, auto& kv, auto& acc) { b.attend(q, kv[b.set(Range{0, 4})], acc); });
  });
  EXPECT_EQ(story(wrong, false), "");
}

TEST(Explanation, StopsAfterSoManyProblems) {
  const Schedule wrong = script(tokens8(2), [](int, Builder& b) { b.input(Field::q), b.input(kKv); });
  EXPECT_EQ(verify(wrong).problems.size(), 2u);  // each rank owes out
  VerifyOptions options;
  options.max_problems = 1;
  EXPECT_EQ(verify(wrong, options).problems.size(), 1u);
}

}  // namespace
}  // namespace weft
