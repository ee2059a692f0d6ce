// Exchanges whose outcome would depend on who arrives first, or that name a lane that does not exist: refused.
#include "tests/verify_script.h"

namespace weft {
namespace {

TEST(Rule12, LanesAreBelowEight) {
  for (int lane : {8, 200}) {
    refused(
        pair([lane](int rank, Builder& b, const Value& kv, const Value& other) { swap_kv(rank, b, kv, other, lane); }),
        {"operand", 0, Op::exchange, 0, "lane"});
  }
}

// Four ranks. Ranks 1 and 2 send partials of rank 0's queries, which takes both into one value in one exchange.
// Rank `late` first bounces with rank 3. `idle` sends a partial that is still the identity.
Schedule both(int late, Combine one, Combine two, int idle = -1) {
  const Problem problem = self_attention(Mask::of(8, {}), Layout::contiguous(8, 4), 1, 1, 4);
  return script(problem, [=](int rank, Builder& b) {
    Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
    Value all = b.whole(kKv, b.set(Range{0, 8}), kv.heads());
    Exchange x = b.exchange();
    for (int p = 0; p < 4; ++p) x.send(p, kv).receive(p, all[b.keys_of(p)]);
    x.issue();
    Value visitor = rank ? b.whole(Field::q, b.queries_of(0), q.heads()) : Value();
    Exchange y = b.exchange();
    if (rank == 0) {
      y.send(1, q).send(2, q).send(3, q);
    } else {
      y.receive(0, visitor);
    }
    y.issue();
    if (rank == 3 || rank == late) {
      const int peer = rank == 3 ? late : 3;
      Value bounce = b.whole(kKv, b.keys_of(peer), kv.heads());
      b.exchange().send(peer, kv).receive(peer, bounce).issue();
    }
    if (rank == 1 || rank == 2) {
      Value part = b.partial(visitor);
      if (rank != idle) b.attend(visitor, kv, part);
      b.exchange().send(0, part).issue();
    }
    if (rank == 0) {
      Value got = b.partial(q);
      b.exchange().receive(1, got, one).receive(2, got, two).issue();
      for (int p : {0, 3}) b.attend(q, all[b.keys_of(p)], acc);
      if (idle >= 0) b.attend(q, all[b.keys_of(idle)], acc);
      b.merge(acc, got);
    } else {
      b.attend(q, all, acc);
    }
    b.result(b.finish(acc));
  });
}

// Two copies into the same rows: whichever arrives last stays, so content may be overwritten by zeros.
TEST(Rule13, NoTwoCopiesHitOneAccumulatingRow) {
  for (int late : {1, 2}) {
    for (int idle : {1, 2}) {
      const Report report = verify(both(late, Combine::copy, Combine::copy, idle));
      EXPECT_FALSE(report.ok()) << "accepted when rank " << late << " is late and rank " << idle << " sends zeros";
    }
  }
}

// The verdict must not depend on who arrives first.
TEST(Rule8, ArrivalOrderDoesNotMatter) {
  EXPECT_EQ(verify(both(1, Combine::copy, Combine::merge)).ok(), verify(both(2, Combine::copy, Combine::merge)).ok());
  EXPECT_EQ(verify(both(1, Combine::merge, Combine::copy)).ok(), verify(both(2, Combine::merge, Combine::copy)).ok());
}

}  // namespace
}  // namespace weft
