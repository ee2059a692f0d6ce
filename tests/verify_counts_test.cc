// Counts of small schedules against sums done by hand: work, bytes, messages, saved bytes and live
// bytes.
//
// With 8 tokens, 2 heads, 1 kv head, dim 4 and fp32, a query row has 2 x 16 = 32 bytes, a row of
// keys and values 2 x 16 = 32, a partial row or a row of (out, lse) 2 x (16 + 4) = 40, a row of dk
// and dv 32, of dq 32, of delta 8.
#include "tests/verify_script.h"

namespace weft {
namespace {

// Partials of all queries, born and dropped at once: what is alive besides them shows as the
// largest sum.
constexpr int64_t kProbe = 6 * 8 * 40;
void probe(Builder& b) {
  std::vector<Value> partials;
  for (int i = 0; i < 6; ++i) partials.push_back(b.partial(b.set(Range{0, 8}), b.all_heads()));
}

int64_t live(const Schedule& schedule) { return proved(schedule).ranks[0].live_bytes; }

// ---- work, bytes and messages

TEST(Work, CountsAllowedPairsTimesQueryHeads) {
  const auto body = [](int, Builder& b) {
    Training t(b);
    t.forward(), t.open(), t.compute_own();
    if (!t.alone) t.compute_other(), t.send_home();
    t.close();
  };
  const auto check = [&](int ranks, MaskRule rule, std::vector<int64_t> pairs) {
    const Report report = proved(script(with_backward(tokens8(ranks, rule)), body));
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_EQ(report.ranks[static_cast<size_t>(rank)].work, 2 * pairs[static_cast<size_t>(rank)]);
      EXPECT_EQ(report.ranks[static_cast<size_t>(rank)].work_backward, 2 * pairs[static_cast<size_t>(rank)]);
    }
  };
  check(1, {}, {64});
  check(2, {}, {32, 32});
  check(1, {.causal = true}, {36});                  // 1 + 2 + .. + 8
  check(2, {.causal = true}, {10, 26});              // 1 + .. + 4, 5 + .. + 8
  check(2, {.causal = true, .window = 3}, {9, 12});  // 1 + 2 + 3 + 3, 4 x 3
  check(2, {.window = 2}, {11, 11});                 // 2 + 3 + 3 + 3, 3 + 3 + 3 + 2
}

TEST(Work, CountsWhatIsComputedTwice) {
  // Forward again in backward, as under recomputation, is forward work.
  const Report report = proved(script(with_backward(tokens8(1)), [](int, Builder& b) {
    Training t(b);
    t.forward(), t.open(), t.compute_own();
    Value again = b.partial(t.q);
    b.attend(t.q, t.kv, again);
    t.close();
  }));
  EXPECT_EQ(report.ranks[0].work, 2 * 2 * 64);
  EXPECT_EQ(report.ranks[0].work_backward, 2 * 64);
}

TEST(Messages, OnePerPeerDirectionAndExchange) {
  const auto count = [](std::function<void(int, Builder&, const Value&, const Value&)> swap) {
    const Report report = proved(script(tokens8(2), [swap](int rank, Builder& b) {
      forward_pair(rank, b, [&](const Value& kv, const Value& other) { swap(rank, b, kv, other); });
    }));
    EXPECT_EQ(report.ranks[0].bytes_sent, 4 * 32);
    EXPECT_EQ(report.ranks[1].bytes_sent, 4 * 32);
    EXPECT_EQ(report.ranks[0].messages, report.ranks[1].messages);
    return report.ranks[0].messages;
  };
  EXPECT_EQ(count([](int rank, Builder& b, const Value& kv, const Value& other) { swap_kv(rank, b, kv, other); }), 1);
  EXPECT_EQ(count([](int rank, Builder& b, const Value& kv,
                     const Value& other) {  // two parts, one message
              Exchange x = b.exchange();
              for (Field field : {Field::k, Field::v})
                x.send(1 - rank, kv.only(field)).receive(1 - rank, other.only(field));
              x.issue();
            }),
            1);
  EXPECT_EQ(count([](int rank, Builder& b, const Value& kv, const Value& other) {  // two exchanges
              for (Field field : {Field::k, Field::v}) {
                b.exchange().send(1 - rank, kv.only(field)).receive(1 - rank, other.only(field)).issue();
              }
            }),
            2);
}

TEST(Bytes, AreThoseOfTheWire) {
  // bf16 elements, partial sums travel in `wire`: (out, lse) rows have 2 x (4 x wire + 4), dk + dv
  // rows 2 x 4 x wire.
  for (DType wire : {DType::fp32, DType::bf16}) {
    Problem problem = with_backward(tokens8(2));
    problem.element = DType::bf16, problem.wire = wire;
    const Report report = proved(script(problem, [](int rank, Builder& b) {
      {
        Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
        Value visitor = b.whole(Field::q, b.queries_of(1 - rank), b.all_heads());
        b.exchange().send(1 - rank, q).receive(1 - rank, visitor).issue();  // 4 x 2 x 4 x 2 = 64 bytes
        Value part = b.partial(visitor);
        b.attend(q, kv, acc), b.attend(visitor, kv, part);
        b.exchange().send(1 - rank, part).receive(1 - rank, acc, Combine::merge).issue();
        b.result(b.finish(acc));
      }
      Training t(b);
      t.open(), t.compute_own(), t.compute_other(), t.send_home(),
          t.close();  // kv: 4 x 2 x 4 x 2 = 64 bytes
    }));
    const int64_t partial = 4 * 2 * (4 * size_of(wire) + 4), sums = 4 * 2 * 4 * size_of(wire);
    EXPECT_EQ(report.ranks[0].bytes_sent, 64 + partial + 64 + sums);
    EXPECT_EQ(report.ranks[0].messages, 4);
  }
}

// ---- saved bytes

TEST(SavedBytes, AreValuesThatForwardMadeAndBackwardFinds) {
  for (bool keep : {false, true}) {
    const Report report = proved(script(with_backward(tokens8(2)), [keep](int rank, Builder& b) {
      Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
      Value other = b.whole(kKv, b.keys_of(1 - rank), b.all_kv_heads());
      swap_kv(rank, b, kv, other);
      b.attend(q, {kv, other}, acc);
      Value out = b.finish(acc);  // a result: the caller's
      b.result(out);
      if (!keep) other.reset(), acc.reset();
      Training t(b);
      t.open(), t.compute_own(), t.compute_other(), t.send_home(), t.close();
    }));
    // Kept: the other rank's keys and values, 4 x 32, and the partial, 4 x 40. Inputs q, kv and out
    // are not counted.
    EXPECT_EQ(report.ranks[0].saved_bytes, keep ? 4 * 32 + 4 * 40 : 0);
  }
}

// ---- live bytes

TEST(LiveBytes, AreTheLargestSumOfValues) {
  const auto body = [](bool early) {
    return [early](int, Builder& b) {
      Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
      b.attend(q, kv, acc);
      if (early) q.reset(), kv.reset();
      b.result(b.finish(acc));
    };
  };
  // q 256 + kv 256 + partial 320, and out 320 while the others still live.
  EXPECT_EQ(live(script(tokens8(1), body(false))), 256 + 256 + 320 + 320);
  EXPECT_EQ(live(script(tokens8(1), body(true))), 256 + 256 + 320);
  Problem half = tokens8(1);
  half.element = half.wire = DType::bf16;
  // q, kv in 16 bits; the partial in fp32; out in 16 bits with lse in fp32: 8 x 2 x (8 + 4).
  EXPECT_EQ(live(script(half, body(false))), 128 + 128 + 320 + 192);
}

TEST(LiveBytes, Rule5ADroppedSendBufferLivesUntilItsExchangeIsComplete) {
  const auto body = [](bool wait) {
    return [wait](int rank, Builder& b) {
      Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);  // 128 + 128 + 160
      b.attend(q, kv, acc);
      Value other = b.whole(kKv, b.keys_of(1 - rank), b.all_kv_heads());  // 128
      swap_kv(rank, b, kv, other);
      kv.reset();
      if (wait) b.wait(0);
      probe(b);
      b.attend(q, other, acc);  // the first use of what was received: complete
      probe(b);
      b.result(b.finish(acc));
    };
  };
  EXPECT_EQ(live(script(tokens8(2), body(false))), 128 + 128 + 160 + 128 + kProbe);
  EXPECT_EQ(live(script(tokens8(2), body(true))), 128 + 160 + 128 + kProbe);
}

TEST(LiveBytes, Rule5TheLastOfSeveralReadersCounts) {
  // kv goes out twice, on two lanes; dropped, it lives until both are complete.
  const auto body = [](int waits) {
    return [waits](int, Builder& b) {
      Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);  // 256 + 256 + 320
      Value first = b.whole(kKv, kv.tokens(), kv.heads()), second = b.whole(kKv, kv.tokens(), kv.heads());
      b.exchange(0).send(0, kv).receive(0, first).issue();
      b.exchange(1).send(0, kv).receive(0, second).issue();
      kv.reset();
      for (int lane = 0; lane < waits; ++lane) b.wait(lane);
      probe(b);
      b.attend(q, first, acc);
      b.result(b.finish(acc));
    };
  };
  EXPECT_EQ(live(script(tokens8(1), body(0))), 256 + 256 + 320 + 512 + kProbe);
  EXPECT_EQ(live(script(tokens8(1), body(1))), 256 + 256 + 320 + 512 + kProbe);
  EXPECT_EQ(live(script(tokens8(1), body(2))), 256 + 320 + 512 + kProbe);
}

// q goes to `copy` and kv to `away`, which is dropped: a drop waits for what is being received.
enum class Lanes { same, different, together };
Schedule drop_of_received(Lanes lanes) {
  return script(tokens8(1), [lanes](int, Builder& b) {
    Value q = b.input(Field::q), kv = b.input(kKv);                                                       // 256 + 256
    Value copy = b.whole(Field::q, q.tokens(), q.heads()), away = b.whole(kKv, kv.tokens(), kv.heads());  // 512
    Exchange x = b.exchange(0);
    x.send(0, q).receive(0, copy);
    if (lanes != Lanes::together) {
      x.issue();
      b.exchange(lanes == Lanes::same ? 0 : 1).send(0, kv).receive(0, away).issue();
    } else {
      x.send(0, kv).receive(0, away).issue();
    }
    q.reset();
    away.reset();
    probe(b);
    Value acc = b.partial(copy);
    b.attend(copy, kv, acc);
    b.result(b.finish(acc));
  });
}

TEST(LiveBytes, Rule6AnExchangeIsCompleteWhenALaterOneOfItsLaneIs) {
  EXPECT_EQ(live(drop_of_received(Lanes::same)), 256 + 256 + kProbe);  // kv and copy
  EXPECT_EQ(live(drop_of_received(Lanes::different)),
            256 + 256 + 256 + kProbe);  // and q, still in flight
}

TEST(LiveBytes, Rule7AnExchangeIsCompleteAsAWhole) {
  EXPECT_EQ(live(drop_of_received(Lanes::together)), 256 + 256 + kProbe);
}

// Half of the keys is attended into `part`, which is then merged into acc on receipt.
enum class Then { nothing, wait, use_target, use_other_rows, use_other_heads, use_fresh };
Schedule merge_on_receipt(Then then, DType wire = DType::fp32) {
  Problem problem = tokens8(1);
  problem.wire = wire;
  return script(problem, [then](int, Builder& b) {
    Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q), part = b.partial(q);
    Value fresh = b.partial(q);  // 256 + 256 + 3 x 320
    const Set low = b.set(Range{0, 4}), high = b.set(Range{4, 8}), first = b.set(Range{0, 1}),
              second = b.set(Range{1, 2});
    const Set rows = then == Then::use_other_rows ? low : q.tokens();
    const Set heads = then == Then::use_other_heads ? first : q.heads();
    b.attend(q.at(rows, heads), kv[low], part);
    b.exchange().send(0, part.at(rows, heads)).receive(0, acc.at(rows, heads), Combine::merge).issue();
    if (then == Then::wait) b.wait(0);
    if (then == Then::use_target) b.attend(q, kv[high], acc);
    if (then == Then::use_other_rows) b.attend(q[high], kv, acc[high]);
    if (then == Then::use_other_heads) b.attend(q.at(q.tokens(), second), kv, acc.at(q.tokens(), second));
    if (then == Then::use_fresh) b.attend(q, kv[high], fresh);
    probe(b);
    if (then == Then::nothing || then == Then::wait) b.attend(q, kv[high], acc);
    if (then == Then::use_other_rows) b.attend(q[low], kv[high], acc);
    if (then == Then::use_other_heads) b.attend(q.at(q.tokens(), first), kv[high], acc);
    if (then == Then::use_fresh) b.merge(acc, fresh);
    b.result(b.finish(acc));
  });
}

TEST(LiveBytes, Rule8StagingLivesFromIssueToWait) {
  const int64_t values = 256 + 256 + 3 * 320 + kProbe;
  EXPECT_EQ(live(merge_on_receipt(Then::nothing)), values + 320);
  EXPECT_EQ(live(merge_on_receipt(Then::wait)), values);
  // In 16 bits on the wire, staging has 8 x 2 x (8 + 4) bytes, since lse is never lowered, and the sender packs as many.
  EXPECT_EQ(live(merge_on_receipt(Then::nothing, DType::bf16)), values + 192 + 192);
}

TEST(LiveBytes, Rule9ComputingIntoWhatIsBeingReceivedWaits) {
  const int64_t values = 256 + 256 + 3 * 320 + kProbe;
  EXPECT_EQ(live(merge_on_receipt(Then::use_target)), values);
  EXPECT_EQ(live(merge_on_receipt(Then::use_fresh)),
            values + 320);  // overlaps, at the price of one value more
}

TEST(LiveBytes, Rule3DisjointRowsAndHeadsDoNotConflict) {
  const int64_t values = 256 + 256 + 3 * 320 + kProbe;
  EXPECT_EQ(live(merge_on_receipt(Then::use_other_rows)), values + 160);   // staging of 4 rows
  EXPECT_EQ(live(merge_on_receipt(Then::use_other_heads)), values + 160);  // staging of 1 head
}

TEST(LiveBytes, Rule3OnlyWritingWhatIsBeingSentWaits) {
  const auto body = [](bool write) {
    return [write](int, Builder& b) {
      Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q),
            part = b.partial(q);                                               // 512 + 640
      Value got = b.partial(q), copy = b.whole(kKv, kv.tokens(), kv.heads());  // 320 + 256
      const Set low = b.set(Range{0, 4}), high = b.set(Range{4, 8});
      b.attend(q, kv[low], part);
      b.exchange().send(0, part).send(0, kv).receive(0, got).receive(0, copy).issue();
      b.attend(q, kv[high], write ? part : acc);  // reads kv, which is being sent, like part
      kv.reset();
      probe(b);
      b.merge(acc, write ? part : got);
      b.result(b.finish(acc));
    };
  };
  EXPECT_EQ(live(script(tokens8(1), body(false))), 256 + 256 + 3 * 320 + 256 + kProbe);
  EXPECT_EQ(live(script(tokens8(1), body(true))), 256 + 3 * 320 + 256 + kProbe);
}

TEST(LiveBytes, Rule6EverythingIsCompleteAtTheEndOfAPhase) {
  const auto body = [](bool forward) {  // where the probe is: at the end of forward, or at the start of backward
    return [forward](int rank, Builder& b) {
      Training t(b);
      t.forward();
      Value kv = b.input(kKv), again = b.whole(kKv, b.keys_of(1 - rank), b.all_kv_heads());
      swap_kv(rank, b, kv, again);  // nobody needs it
      kv.reset();
      if (forward) probe(b);
      t.open();  // begins backward
      again.reset();
      if (!forward) probe(b);
      t.compute_own(), t.compute_other(), t.send_home(), t.close();
    };
  };
  EXPECT_EQ(live(script(with_backward(tokens8(2)), body(true))),
            128 + 128 + kProbe);  // kv and what it becomes
  // Backward: q, kv, dout, dq, dkv, the other's kv and its sums have 128 bytes each, (out, lse)
  // 160, delta 32.
  EXPECT_EQ(live(script(with_backward(tokens8(2)), body(false))), 7 * 128 + 160 + 32 + kProbe);
}

}  // namespace
}  // namespace weft
