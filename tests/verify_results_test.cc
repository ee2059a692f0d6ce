// Inputs, results and phases: the caller gives what it has, and gets exactly what it asked for.
#include "tests/verify_script.h"

namespace weft {
namespace {

// ---- inputs

TEST(Inputs, AreWhatTheCallerGives) {
  for (Field field : {Field::out, Field::lse, Field::dout, Field::delta, Field::dq}) {
    refused(alone([field](Builder& b, Value& q, Value& kv, Value& acc) {
              b.input(field);
              b.attend(q, kv, acc);
            }),
            {"operand", 0, Op::input, 2, std::string("the caller does not give ") + name_of(field) + " in forward"});
  }
  for (Field field : {Field::delta, Field::dq, Field::dk}) {
    refused(trained([field](Training& t) { t.b.input(field); }),
            {"operand", 0, Op::input, 6, std::string("the caller does not give ") + name_of(field) + " in backward"});
  }
}

TEST(Inputs, AreTheRanksOwnTokens) {
  refused(edited(script(tokens8(2),
                        [](int rank, Builder& b) {
                          forward_pair(rank, b,
                                       [&](const Value& kv, const Value& other) { swap_kv(rank, b, kv, other); });
                        }),
                 [](StoredSchedule& stored) {
                   operand(stored, Op::input, 1, 0).tokens = stored.pool->intern(Range{0, 8});
                 }),
          {"operand", 0, Op::input, 1, "the caller gives only this rank's own tokens, not 0..8"});
}

TEST(Inputs, BackwardGetsBackWhatForwardGave) {
  const auto body = [](bool lse) {
    return [lse](int, Builder& b) {
      {
        Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
        b.attend(q, kv, acc);
        b.result(b.finish(lse ? Slice(acc) : acc.only(Field::out)));
      }
      Training t(b);
      t.open(), t.compute_own(), t.close();
    };
  };
  proved(script(with_backward(tokens8(1)), body(true)));
  refused(script(with_backward(tokens8(1)), body(false)),
          {"operand", 0, Op::input, 4, "backward asks for out+lse, which forward did not give as a result"});
}

// ---- results

TEST(Results, AreAllGiven) {
  const auto body = [](int64_t rows) {
    return [rows](int rank, Builder& b) {
      Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
      Value other = b.whole(kKv, b.keys_of(1 - rank), b.all_kv_heads());
      swap_kv(rank, b, kv, other);
      b.attend(q, {kv, other}, acc);
      b.result(b.finish(acc)[rank == 0 ? q.tokens() : b.set(Range{4, 4 + rows})]);
    };
  };
  proved(script(tokens8(2), body(4)));
  refused(script(tokens8(2), body(3)),
          {"result", 1, kEnd, 0, "not all rows of out are given as a result; this rank owes 4..8, heads 0..2"});
}

TEST(Results, GradientsAreAllGiven) {
  const char* names[] = {"dq", "dk", "dv"};
  for (int missing : {0, 1, 2}) {
    refused(script(with_backward(tokens8(1)),
                   [missing](int, Builder& b) {
                     Training t(b);
                     t.forward(), t.open(), t.compute_own();
                     if (missing != 0) b.result(b.finish(t.dq));
                     Value dkv = b.finish(t.dkv);
                     b.result(missing == 0 ? Slice(dkv) : dkv.only(missing == 1 ? Field::dv : Field::dk));
                   }),
            {"result", 0, kEnd, 0, std::string("not all rows of ") + names[missing] + " are given as a result"});
  }
}

TEST(Results, AreGivenOnce) {
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) {
            b.attend(q, kv, acc);
            b.result(b.finish(acc[b.set(Range{0, 2})]));
          }),
          {"result", 0, Op::result, 1, "result out+lse 0..8, heads 0..2 is given twice"});
}

TEST(Results, BelongToTheRank) {
  // Rank 0 attends for all queries and gives all of them; rank 1 needs its own from there.
  const auto body = [](bool home) {
    return [home](int rank, Builder& b) {
      Value q = b.input(Field::q), kv = b.input(kKv);
      const Set all = b.set(Range{0, 8});
      Value qq = rank == 0 ? b.whole(Field::q, all, b.all_heads()) : Value();
      Value kk = rank == 0 ? b.whole(kKv, all, b.all_kv_heads()) : Value();
      Exchange x = b.exchange();
      x.send(0, q).send(0, kv);
      if (rank == 0) {
        for (int peer : {0, 1}) x.receive(peer, qq[b.queries_of(peer)]).receive(peer, kk[b.keys_of(peer)]);
      }
      x.issue();
      Value acc = rank == 0 ? b.partial(qq) : Value();
      b.attend(qq, kk, acc);
      Value done = b.finish(acc), mine = b.whole(kOutLse, b.queries_of(rank), b.all_heads());
      Exchange back = b.exchange();
      if (rank == 0) back.send(0, done[b.queries_of(0)]).send(1, done[b.queries_of(1)]);
      back.receive(0, mine).issue();
      b.result(home || rank == 1 ? mine : done);
    };
  };
  proved(script(tokens8(2), body(true)));
  refused(script(tokens8(2), body(false)),
          {"result", 0, Op::result, 0, "result out+lse 0..8, heads 0..2 does not belong to this rank"});
}

TEST(Results, AreThoseOfThePhase) {
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) {
            b.attend(q, kv, acc);
            b.result(q);
          }),
          {"result", 0, Op::result, 0, "q is no result of forward"});
  refused(trained([](Training& t) { t.b.result(t.out); }),
          {"result", 0, Op::result, 1, "out+lse is no result of backward"});
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) {
            b.attend(q, kv, acc);
            b.result(b.whole(kOutLse, q.tokens(), q.heads()));
          }),
          {"lifetime", 0, Op::result, 0, "result: out+lse 0..8, heads 0..2 is used before it is defined"});
}

TEST(Results, LseIsGivenWhenAsked) {
  for (bool asked : {false, true}) {
    Problem problem = tokens8(1);
    problem.return_lse = asked;
    const auto body = [](bool lse) {
      return [lse](int, Builder& b) {
        Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
        b.attend(q, kv, acc);
        b.result(b.finish(lse ? Slice(acc) : acc.only(Field::out)));
      };
    };
    proved(script(problem, body(true)));
    if (asked) {
      refused(script(problem, body(false)), {"result", 0, kEnd, 0, "not all rows of lse are given as a result"});
    } else {
      proved(script(problem, body(false)));
    }
  }
}

// ---- phases

TEST(Phases, BackwardIsWrittenWhenAsked) {
  refused(script(with_backward(tokens8(1)), [](int, Builder& b) { Training(b).forward(); }),
          {"result", 0, kEnd, 0, "the problem asks for backward, but the program has only forward"});
}

TEST(Phases, BackwardBeginsOnce) {
  refused(script(tokens8(1),
                 [](int, Builder& b) {
                   Training t(b);
                   t.forward(), t.open(), t.compute_own(), t.close();
                 }),
          {"result", 0, Op::begin_backward, 0, "the problem asks for forward only, but the program has a backward"});
  refused(trained([](Training& t) { t.b.begin_backward(); }),
          {"lifetime", 0, Op::begin_backward, 1, "backward begins twice"});
}

TEST(Phases, ForwardIsCompleteBeforeBackward) {
  refused(script(with_backward(tokens8(1)),
                 [](int, Builder& b) {
                   Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
                   b.attend(q, kv, acc);
                   Value out = b.finish(acc);
                   b.begin_backward();
                   b.result(out);
                 }),
          {"result", 0, Op::begin_backward, 0, "not all rows of out are given as a result"});
}

TEST(Phases, ValuesMayBeKeptForBackward) {
  const Report report = proved(script(with_backward(tokens8(1)), [](int, Builder& b) {
    Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
    b.attend(q, kv, acc);
    Value lse = b.finish(acc.only(Field::lse));
    acc.reset();
    {
      Value again = b.partial(q);
      b.attend(q, kv, again);
      b.result(b.finish(again.only(Field::out)));
    }
    b.begin_backward();
    Value out = b.input(Field::out), dout = b.input(Field::dout);
    Value delta = b.prepare_backward(out, dout);
    Value dq = b.sums(Field::dq, q.tokens(), q.heads()), dkv = b.sums(kDkv, kv.tokens(), kv.heads());
    b.attend_backward(q, kv, {dout, lse, delta}, dq, dkv);
    b.result(b.finish(dq));
    b.result(b.finish(dkv));
  }));
  EXPECT_EQ(report.ranks[0].saved_bytes,
            8 * 2 * 4);  // lse: 8 tokens x 2 heads x 4 bytes; inputs do not count
}

}  // namespace
}  // namespace weft
