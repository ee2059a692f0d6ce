// Messages: both ends agree, everything is received, and the schedule finishes even when every
// exchange blocks.
#include "tests/verify_script.h"

namespace weft {
namespace {

// ---- rule 10: matching

TEST(Rule10, PartsOfOneMessageMatchInListedOrder) {
  const auto swap = [](bool same) {
    return [same](int rank, Builder& b, const Value& kv, const Value& other) {
      const bool turned = !same && rank == 1;  // rank 1 sends v before k
      Exchange x = b.exchange();
      x.send(1 - rank, kv.only(turned ? Field::v : Field::k)).send(1 - rank, kv.only(turned ? Field::k : Field::v));
      x.receive(1 - rank, other.only(Field::k)).receive(1 - rank, other.only(Field::v));
      x.issue();
    };
  };
  proved(pair(swap(true)));
  refused(pair(swap(false)),
          {"message", 0, Op::exchange, 0, "rank 1 sends v 4..8, heads 0..1 (its instruction 4), but k 4..8"});
}

TEST(Rule10, BothEndsHaveAsManyParts) {
  refused(pair([](int rank, Builder& b, const Value& kv, const Value& other) {
            Exchange x = b.exchange();
            if (rank == 0) {
              x.send(1, kv.only(Field::k)).send(1, kv.only(Field::v));
            } else {
              x.send(0, kv);
            }
            x.receive(1 - rank, other).issue();
          }),
          {"message", 1, Op::exchange, 0, "rank 0 sends 2 parts (its instruction 4), but 1 is expected"});
}

TEST(Rule10, FieldsAreEqual) {
  refused(pair([](int rank, Builder& b, const Value& kv, const Value& other) {
            const Fields sent = rank == 0 ? Fields(Field::k) : kKv;
            b.exchange().send(1 - rank, kv.only(sent)).receive(1 - rank, other).issue();
          }),
          {"message", 1, Op::exchange, 0, "rank 0 sends k 0..4, heads 0..1 (its instruction 4), but k+v 0..4"});
}

TEST(Rule10, TokensAreEqual) {
  refused(pair([](int rank, Builder& b, const Value& kv, const Value& other) {
            const Set sent = rank == 0 ? b.set(Range{0, 3}) : kv.tokens();
            b.exchange().send(1 - rank, kv[sent]).receive(1 - rank, other).issue();
          }),
          {"message", 1, Op::exchange, 0, "rank 0 sends k+v 0..3, heads 0..1 (its instruction 4), but k+v 0..4"});
}

TEST(Rule10, HeadsAreEqual) {
  Problem problem = tokens8(2);
  problem.kv_heads = 2;
  refused(pair(
              [](int rank, Builder& b, const Value& kv, const Value& other) {
                const Set sent = rank == 0 ? b.set(Range{1, 2}) : kv.heads();
                b.exchange().send(1 - rank, kv.at(kv.tokens(), sent)).receive(1 - rank, other).issue();
              },
              problem),
          {"message", 1, Op::exchange, 0,
           "rank 0 sends k+v 0..4, heads 1..2 (its instruction 4), but k+v 0..4, heads 0..2"});
}

// Rank 1 attends for rank 0 and sends the partial back; rank 0 receives it as finished rows, or as
// what it is.
TEST(Rule10, FormsAreEqual) {
  const auto body = [](bool whole) {
    return [whole](int, Builder& b) {
      forward_alone(b, [&](auto& q, auto& kv, auto& acc) {
        Value part = b.partial(q);
        b.attend(q, kv, part);
        if (!whole) return b.exchange().send(0, part).receive(0, acc).issue();
        b.attend(q, kv, acc);
        Value copy = b.whole(kOutLse, q.tokens(), q.heads());
        b.exchange().send(0, part).receive(0, copy).issue();
      });
    };
  };
  proved(script(tokens8(1), body(false)));
  refused(script(tokens8(1), body(true)),
          {"message", 0, Op::exchange, 0,
           "rank 0 sends accumulating out+lse 0..8, heads 0..2, but it is received as the other form"});
}

TEST(Rule10, MessagesMatchInOrder) {
  const auto swap = [](bool same) {
    return [same](int rank, Builder& b, const Value& kv, const Value& other) {
      const Set low = b.set(Range{rank * 4, rank * 4 + 1}), high = kv.tokens() - low;
      const Set their_low = b.set(Range{4 - rank * 4, 5 - rank * 4}), their_high = other.tokens() - their_low;
      const bool turned = !same && rank == 1;  // rank 1 sends its high rows first
      // On two lanes: matching does not depend on them.
      b.exchange(0).send(1 - rank, kv[turned ? high : low]).receive(1 - rank, other[their_low]).issue();
      b.exchange(1).send(1 - rank, kv[turned ? low : high]).receive(1 - rank, other[their_high]).issue();
    };
  };
  proved(pair(swap(true)));
  refused(pair(swap(false)),
          {"message", 0, Op::exchange, 0, "rank 1 sends k+v 5..8, heads 0..1 (its instruction 4), but k+v 4..5"});
}

TEST(Rule10, LanesAreEqual) {
  const auto swap = [](bool same) {
    return [same](int rank, Builder& b, const Value& kv, const Value& other) {
      swap_kv(rank, b, kv, other, same ? 3 : rank);
    };
  };
  proved(pair(swap(true)));
  refused(pair(swap(false)),
          {"message", 0, Op::exchange, 0, "rank 1 sends on lane 1 (its instruction 4), but lane 0 is expected"});
}

TEST(Rule10, PeersExist) {
  for (int peer : {-1, 2, 100000}) {
    refused(pair([peer](int rank, Builder& b, const Value& kv, const Value& other) {
              swap_kv(rank, b, kv, other);
              if (rank == 1) b.exchange().send(peer, kv).issue();
            }),
            {"message", 1, Op::exchange, 1, "to rank " + std::to_string(peer) + ", but ranks are 0..1"});
    refused(pair([peer](int rank, Builder& b, const Value& kv, const Value& other) {
              b.exchange().send(1 - rank, kv).receive(rank == 1 ? peer : 1, other).issue();
            }),
            {"message", 1, Op::exchange, 0, "from rank " + std::to_string(peer) + ", but ranks are 0..1"});
  }
}

// ---- rule 12: lanes do not change the meaning

TEST(Rule12, ThereAreEightLanes) {
  for (int lane = 0; lane < kLanes; ++lane) {
    proved(pair([lane](int rank, Builder& b, const Value& kv, const Value& other) {
      swap_kv(rank, b, kv, other, lane);
      b.wait(lane);
    }));
  }
}

// ---- rule 11: deadlock

TEST(Rule11, WhatCrossesIsOneExchange) {
  proved(pair([](int rank, Builder& b, const Value& kv, const Value& other) { swap_kv(rank, b, kv, other); }));
  for (int lane : {0, 1}) {  // another lane does not help: lanes only promise concurrency
    refused(pair([lane](int rank, Builder& b, const Value& kv, const Value& other) {
              b.exchange(0).send(1 - rank, kv).issue();
              b.exchange(lane).receive(1 - rank, other).issue();
            }),
            {"deadlock", 0, Op::exchange, 0,
             "rank 0 at instruction 4 waits to send to rank 1, rank 1 at instruction 4 waits to "
             "send to rank 0"});
  }
  // In two instructions, one rank has to receive first.
  proved(pair([](int rank, Builder& b, const Value& kv, const Value& other) {
    if (rank == 0) b.exchange().send(1, kv).issue();
    b.exchange().receive(1 - rank, other).issue();
    if (rank == 1) b.exchange().send(0, kv).issue();
  }));
}

// Keys and values go round three ranks; `crossing` sends before it receives in the second hop.
Schedule ring_of_three(bool crossing) {
  Problem problem = self_attention(Mask::of(6, {}), Layout::contiguous(6, 3), 1, 1, 4);
  return script(problem, [crossing](int rank, Builder& b) {
    Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
    b.attend(q, kv, acc);
    Value current = kv;
    for (int hop = 1; hop < 3; ++hop) {
      Value next = b.whole(kKv, b.keys_of((rank + 3 - hop) % 3), b.all_kv_heads());
      if (crossing && hop == 2) {
        b.exchange().send((rank + 1) % 3, current).issue();
        b.exchange().receive((rank + 2) % 3, next).issue();
      } else {
        b.exchange().send((rank + 1) % 3, current).receive((rank + 2) % 3, next).issue();
      }
      b.attend(q, next, acc);
      current = next;
    }
    b.result(b.finish(acc));
  });
}

TEST(Rule11, ACycleOfThreeIsNamed) {
  proved(ring_of_three(false));
  const Schedule wrong = ring_of_three(true);
  const std::string at =
      " at instruction " + std::to_string(place_of(wrong, 0, Op::exchange, 1)) + " waits to send to rank ";
  refused(wrong, {"deadlock", 0, Op::exchange, 1, "rank 0" + at + "1, rank 1" + at + "2, rank 2" + at + "0"});
}

TEST(Rule11, AMessageNeedsItsOtherEnd) {
  refused(pair([](int rank, Builder& b, const Value& kv, const Value& other) {
            swap_kv(rank, b, kv, other);
            if (rank == 1) b.exchange().send(0, kv).issue();
          }),
          {"deadlock", 1, Op::exchange, 1, "waits to send to rank 0, rank 0 has finished"});
  refused(pair([](int rank, Builder& b, const Value& kv, const Value& other) {
            swap_kv(rank, b, kv, other);
            if (rank == 0) b.exchange().receive(1, b.whole(kKv, other.tokens(), other.heads())).issue();
          }),
          {"deadlock", 0, Op::exchange, 1, "waits for a message from rank 1, rank 1 has finished"});
}

// ---- rule 15: the end of a phase

TEST(Rule15, NoMessageCrossesThePhases) {
  const auto body = [](bool crossing) {
    return [crossing](int rank, Builder& b) {
      Training t(b);
      t.forward();
      Value kv = b.input(kKv);
      if (rank == 0) b.exchange().send(1, kv).issue();
      Value got = rank == 1 ? b.whole(kKv, b.keys_of(0), b.all_kv_heads()) : Value();
      if (rank == 1 && !crossing) b.exchange().receive(0, got).issue();
      t.open();
      if (rank == 1 && crossing) b.exchange().receive(0, got).issue();
      t.compute_own(), t.compute_other(), t.send_home(), t.close();
    };
  };
  proved(script(with_backward(tokens8(2)), body(false)));
  // Rank 1 begins backward while rank 0 still waits in forward.
  refused(script(with_backward(tokens8(2)), body(true)),
          {"message", 1, Op::exchange, 1, "rank 0 sends in its forward phase"});
}

}  // namespace
}  // namespace weft
