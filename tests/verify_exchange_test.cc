// What one exchange may do on its own rank: copies to itself, empty parts, rows that overlap, and
// combining on receipt.
#include "tests/verify_script.h"

namespace weft {
namespace {

// ---- rule 13: self, empty, aliasing

TEST(Rule13, APeerMayBeTheRankItself) {
  const auto body = [](bool both) {
    return [both](int, Builder& b) {
      Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
      Value copy = b.whole(kKv, kv.tokens(), kv.heads());
      Exchange x = b.exchange();
      x.send(0, kv);
      if (both) x.receive(0, copy);
      x.issue();
      b.attend(q, both ? copy : kv, acc);
      b.result(b.finish(acc));
    };
  };
  const Report report = proved(script(tokens8(1), body(true)));
  EXPECT_EQ(report.ranks[0].bytes_sent, 0);
  EXPECT_EQ(report.ranks[0].messages, 0);
  refused(script(tokens8(1), body(false)), {"message", 0, Op::exchange, 0, "rank 0 sends 1 part ("});
}

TEST(Rule13, AReceiptFromItselfNeedsASend) {
  refused(script(tokens8(1),
                 [](int, Builder& b) {
                   Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
                   b.exchange().receive(0, b.whole(kKv, kv.tokens(), kv.heads())).issue();
                   b.attend(q, kv, acc);
                   b.result(b.finish(acc));
                 }),
          {"message", 0, Op::exchange, 0, "rank 0 sends 0 parts"});
}

TEST(Rule13, WhatIsEmptyVanishes) {
  const Schedule right = pair([](int rank, Builder& b, const Value& kv, const Value& other) {
    b.exchange().send(1 - rank, kv).send(1 - rank, kv[Set()]).send(1 - rank, Value()).receive(1 - rank, other).issue();
    b.exchange().send(1 - rank, kv[Set()]).receive(1 - rank, other[Set()]).issue();
  });
  EXPECT_EQ(proved(right).ranks[0].messages, 1);
  // Written by another program, an empty part is refused, since the other end would have to keep it
  // too.
  const Schedule wrong = edited(right, [](StoredSchedule& stored) {
    for (StoredProgram& program : stored.programs) {
      for (Part& part : program.parts) part.slice.tokens = SetId::empty;
    }
  });
  refused(wrong, {"operand", 0, Op::exchange, 0, "an empty part to rank 1"});
}

TEST(Rule13, AccumulatingRowsAreNotSentAndReceivedAtOnce) {
  const auto body = [](int64_t from, int64_t to) {
    return [from, to](int, Builder& b) {
      forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
        const Set low = b.set(Range{0, 4}), high = b.set(Range{4, 8});
        Value part = b.partial(q);
        b.attend(q[low], kv, acc);
        b.attend(q[high], kv, part);
        b.exchange()
            .send(0, part[high])
            .send(0, acc[b.set(Range{from, to})])
            .receive(0, acc[high])
            .receive(0, part[b.set(Range{from, to})], Combine::merge)
            .issue();
      });
    };
  };
  proved(script(tokens8(1), body(0, 4)));
  refused(script(tokens8(1), body(2, 6)),
          {"operand", 0, Op::exchange, 0, "rows 4..8 of value 2 are sent and received at once"});
}

TEST(Rule13, DisjointHeadsOfTheSameRowsMayCross) {
  const auto body = [](int64_t first, int64_t second) {
    return [first, second](int, Builder& b) {
      forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
        const Set one = b.set(Range{first, first + 1}), two = b.set(Range{second, second + 1});
        Value part = b.partial(q), away = b.partial(q);
        b.attend(q.at(q.tokens(), one), kv, acc);
        b.attend(q.at(q.tokens(), b.set(Range{1, 2})), kv, part);
        b.exchange()
            .send(0, part.at(q.tokens(), b.set(Range{1, 2})))
            .send(0, acc.at(q.tokens(), one))
            .receive(0, acc.at(q.tokens(), two))
            .receive(0, away.at(q.tokens(), one))
            .issue();
      });
    };
  };
  proved(script(tokens8(1), body(0, 1)));
  refused(script(tokens8(1), body(1, 1)), {"operand", 0, Op::exchange, 0, "are sent and received at once"});
}

TEST(Rule13, NoTwoCopiesHitOneElement) {
  refused(
      script(tokens8(1),
             [](int, Builder& b) {
               forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
                 Value copy = b.whole(kKv, kv.tokens(), kv.heads());
                 const Set low = b.set(Range{0, 5}), high = b.set(Range{4, 8});
                 b.exchange().send(0, kv[low]).send(0, kv[high]).receive(0, copy[low]).receive(0, copy[high]).issue();
                 b.attend(q, copy, acc);
               });
             }),
      {"lifetime", 0, Op::exchange, 0, "k+v 4..8, heads 0..1 is received, but was written before"});
}

TEST(Rule13, PartsAreOrderedByPeer) {
  const Schedule right =
      script(self_attention(Mask::of(6, {}), Layout::contiguous(6, 3), 1, 1, 4), [](int rank, Builder& b) {
        Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
        Value all = b.whole(kKv, b.set(Range{0, 6}), kv.heads());
        Exchange x = b.exchange();
        for (int peer : {2, 0, 1}) x.send(peer, kv).receive(peer, all[b.keys_of(peer)]);  // the builder sorts
        x.issue();
        (void)rank;
        b.attend(q, all, acc);
        b.result(b.finish(acc));
      });
  proved(right);
  const Schedule wrong = edited(
      right, [](StoredSchedule& stored) { std::swap(stored.programs[1].parts[0], stored.programs[1].parts[1]); });
  refused(wrong, {"operand", 1, Op::exchange, 0, "parts are not ordered by peer"});
}

// ---- rules 8 and 9: what arrives in an accumulating value

TEST(Rule8, PartialsMergeSumsAddWholeValuesAreCopied) {
  const auto body = [](Combine combine) {
    return [combine](int, Builder& b) {
      forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
        Value part = b.partial(q);
        b.attend(q, kv[b.set(Range{0, 4})], acc);
        b.attend(q, kv[b.set(Range{4, 8})], part);
        b.exchange().send(0, part).receive(0, acc, combine).issue();
      });
    };
  };
  proved(script(tokens8(1), body(Combine::merge)));
  refused(script(tokens8(1), body(Combine::add)),
          {"operand", 0, Op::exchange, 0, "add of out+lse; partial results merge"});
  refused(script(tokens8(1), body(Combine::copy)),
          {"lifetime", 0, Op::exchange, 0, "rows 0..8 of out+lse are received by copy, but hold something already"});

  const auto gradient = [](Combine combine) {
    return [combine](int rank, Builder& b) {
      Training t(b);
      t.forward(), t.open(), t.compute_own(), t.compute_other();
      b.exchange().send(1 - rank, t.part).receive(1 - rank, t.dkv, rank == 0 ? combine : Combine::add).issue();
      t.close();
    };
  };
  proved(script(with_backward(tokens8(2)), gradient(Combine::add)));
  refused(script(with_backward(tokens8(2)), gradient(Combine::merge)),
          {"operand", 0, Op::exchange, 2, "merge of dk+dv; partial results merge, sums add"});
  refused(script(with_backward(tokens8(2)), gradient(Combine::copy)),
          {"lifetime", 0, Op::exchange, 2, "rows 0..4 of dk+dv are received by copy, but hold something already"});

  refused(pair([](int rank, Builder& b, const Value& kv, const Value& other) {
            b.exchange().send(1 - rank, kv).receive(1 - rank, other, rank == 1 ? Combine::add : Combine::copy).issue();
          }),
          {"operand", 1, Op::exchange, 0, "add of whole k+v"});
}

TEST(Rule8, ACopyGoesIntoRowsThatAreStillTheIdentity) {
  const auto body = [](int64_t rows) {  // acc holds something for the first `rows` queries; rows 4..8 arrive
    return [rows](int, Builder& b) {
      forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
        Value part = b.partial(q);
        b.attend(q[b.set(Range{0, rows})], kv, acc);
        b.attend(q[b.set(Range{4, 8})], kv, part);
        b.exchange().send(0, part[b.set(Range{4, 8})]).receive(0, acc[b.set(Range{4, 8})]).issue();
      });
    };
  };
  proved(script(tokens8(1), body(4)));
  refused(script(tokens8(1), body(5)), {"lifetime", 0, Op::exchange, 0, "rows 4..5 of out+lse are received by copy"});
}

TEST(Rule8, TheFieldsOfAnAccumulatorTravelTogether) {
  refused(
      script(tokens8(1),
             [](int, Builder& b) {
               forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
                 Value part = b.partial(q);
                 b.attend(q, kv, part);
                 b.exchange().send(0, part.only(Field::out)).receive(0, acc.only(Field::out)).issue();
               });
             }),
      {"operand", 0, Op::exchange, 0, "exchange: send needs all fields of an accumulating value, but is given out"});
}

}  // namespace
}  // namespace weft
