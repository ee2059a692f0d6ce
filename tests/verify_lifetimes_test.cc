// Lifetimes and operands: nothing is used before it is defined or after it ended, every element is
// written once, and every instruction gets rows of the kind that it works on.
#include "tests/verify_script.h"

namespace weft {
namespace {

// ---- reads

TEST(Reads, OnlyWhatIsDefined) {
  const auto body = [](bool wait, int64_t rows) {
    return [wait, rows](int rank, Builder& b) {
      Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
      Value other = b.whole(kKv, b.keys_of(1 - rank), b.all_kv_heads());
      const Set some = b.set(Range{rank * 4, rank * 4 + rows}),
                others = b.set(Range{4 - rank * 4, 4 - rank * 4 + rows});
      if (!wait && rank == 1) b.attend(q, other, acc);
      b.exchange().send(1 - rank, kv[some]).receive(1 - rank, other[others]).issue();
      b.attend(q, {kv, other}, acc);
      b.result(b.finish(acc));
    };
  };
  proved(script(tokens8(2), body(true, 4)));
  refused(script(tokens8(2), body(false, 4)),
          {"lifetime", 1, Op::attend, 0, "attend: keys: k+v 0..4, heads 0..1 is used before it is defined"});
  refused(script(tokens8(2), body(true, 3)),
          {"lifetime", 0, Op::attend, 0, "k+v 4..8, heads 0..1 is used before it is defined"});
}

TEST(Reads, SeveralReceiptsDefineAValueTogether) {
  const auto body = [](int64_t heads) {  // k by rows, v by halves of the rows
    return [heads](int, Builder& b) {
      Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
      Value copy = b.whole(kKv, kv.tokens(), kv.heads());
      const Set low = b.set(Range{0, 3}), high = b.set(Range{3, 8}), some = b.set(Range{0, heads});
      b.exchange().send(0, kv[low]).receive(0, copy[low]).issue();
      b.exchange().send(0, kv[high].only(Field::k)).receive(0, copy[high].only(Field::k)).issue();
      const Slice v = kv.at(high, some).only(Field::v), to = copy.at(high, some).only(Field::v);
      b.exchange().send(0, v).receive(0, to).issue();
      b.attend(q, copy, acc);
      b.result(b.finish(acc));
    };
  };
  Problem problem = tokens8(1);
  problem.kv_heads = 2;
  proved(script(problem, body(2)));
  refused(script(problem, body(1)),
          {"lifetime", 0, Op::attend, 0, "k+v 0..8, heads 0..2 is used before it is defined"});
}

TEST(Reads, OnlyDefinedRowsAreSent) {
  refused(script(tokens8(2),
                 [](int rank, Builder& b) {
                   forward_pair(rank, b, [&](const Value& kv, const Value& other) {
                     Value copy = b.whole(kKv, kv.tokens(), kv.heads());
                     b.exchange().send(1 - rank, rank == 1 ? copy : kv).receive(1 - rank, other).issue();
                   });
                 }),
          {"lifetime", 1, Op::exchange, 0, "exchange: send: k+v 4..8, heads 0..1 is used before it is defined"});
}

TEST(Reads, NothingAfterItsDrop) {
  const auto body = [](bool early) {
    return [early](Builder& b, Value& q, Value& kv, Value& acc) {
      const Slice keys = kv;
      if (early) kv.reset();
      b.attend(q, keys, acc);
    };
  };
  proved(alone(body(false)));
  refused(alone(body(true)), {"lifetime", 0, Op::attend, 0, "attend: keys: value 1 does not exist here"});
}

TEST(Reads, OnlyRowsInsideTheValue) {
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) {
            Value half = b.whole(kKv, b.set(Range{0, 4}), kv.heads());
            b.exchange().send(0, kv[half.tokens()]).receive(0, half).issue();
            b.attend(q, half[kv.tokens()], acc);
          }),
          {"operand", 0, Op::attend, 0, "slice k+v 0..8, heads 0..1 is not inside value 3 (k+v 0..4, heads 0..1)"});
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) { b.attend(q, kv.only(Field::k), acc); }),
          {"operand", 0, Op::attend, 0, "attend: keys needs whole k+v, but value 1 is whole k"});
}

TEST(Reads, UnfinishedRowsAreNotWhole) {
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) {
            b.attend(q, kv, acc);
            b.result(acc);
          }),
          {"operand", 0, Op::result, 0, "result needs whole out+lse, but value 2 is accumulating out+lse"});
  // "delta of a partial out" and "lse of a block" cannot be written.
  refused(trained([](Training& t) {
            Value block = t.b.partial(t.q);
            t.b.attend(t.q, t.kv, block);
            t.b.prepare_backward(block.only(Field::out), t.dout);
          }),
          {"operand", 0, Op::prepare_backward, 1, "prepare_backward: out needs whole out, but value"});
  refused(trained([](Training& t) {
            Value block = t.b.partial(t.q), again = t.b.sums(Field::dq, t.q.tokens(), t.q.heads());
            t.b.attend(t.q, t.kv, block);
            t.b.attend_backward(t.q, t.kv, {t.dout, block.only(Field::lse), t.delta}, again, Slice{});
          }),
          {"operand", 0, Op::attend_backward, 1, "attend_backward: bundle needs whole lse, but value"});
}

// ---- writes

TEST(Writes, EachElementOnce) {
  const auto body = [](int64_t begin) {
    return [begin](Builder& b, Value& q, Value& kv, Value& acc) {
      Value copy = b.whole(kKv, kv.tokens(), kv.heads());
      const Set low = b.set(Range{0, 4}), high = b.set(Range{begin, 8});
      b.exchange().send(0, kv[low]).receive(0, copy[low]).issue();
      b.exchange().send(0, kv[high]).receive(0, copy[high]).issue();
      b.attend(q, copy, acc);
    };
  };
  proved(alone(body(4)));
  refused(alone(body(3)), {"lifetime", 0, Op::exchange, 1, "k+v 3..8, heads 0..1 is received, but was written before"});
}

TEST(Writes, InputsAreWritten) {
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) {
            Value copy = b.whole(kKv, kv.tokens(), kv.heads());
            b.exchange().send(0, kv).receive(0, copy).issue();
            b.exchange().send(0, copy).receive(0, kv).issue();
            b.attend(q, kv, acc);
          }),
          {"lifetime", 0, Op::exchange, 1, "k+v 0..8, heads 0..1 is received, but was written before"});
}

TEST(Writes, FinishAndDeltaAreWrittenOnce) {
  refused(edited(right(),
                 [](StoredSchedule& stored) {
                   const int64_t at = place_of(stored.programs[0], Op::finish);
                   insert(stored, at, stored.programs[0].instructions[static_cast<size_t>(at)]);
                 }),
          {"lifetime", 0, Op::finish, 1, "out+lse 0..8, heads 0..2 is written twice"});
  refused(edited(trained([](Training&) {}),
                 [](StoredSchedule& stored) {
                   const int64_t at = place_of(stored.programs[0], Op::prepare_backward);
                   insert(stored, at, stored.programs[0].instructions[static_cast<size_t>(at)]);
                 }),
          {"lifetime", 0, Op::prepare_backward, 1, "delta 0..8, heads 0..2 is written twice"});
}

TEST(Writes, AttendIntoPartialsOnly) {
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) {
            Value whole = b.whole(kOutLse, q.tokens(), q.heads());
            b.attend(q, kv, whole);
            b.attend(q, kv, acc);
          }),
          {"operand", 0, Op::attend, 0,
           "attend: partial needs all fields of an accumulating value, but is given out+lse of "
           "value 3"});
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) {
            Value dq = b.sums(Field::dq, q.tokens(), q.heads());
            b.attend(q, kv, dq);
            b.attend(q, kv, acc);
          }),
          {"operand", 0, Op::attend, 0, "attend: the target holds dq, not out+lse"});
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) {
            b.attend(q, kv, acc[b.set(Range{0, 7})]);
            b.attend(q, kv, acc);
          }),
          {"operand", 0, Op::attend, 0, "attend: no partial result for queries 0..8, heads 0..2"});
}

TEST(Writes, MergeIsForPartialsAddIsForSums) {
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) {
            Value part = b.partial(q);
            b.attend(q, kv, part);
            b.add(acc, part);
          }),
          {"operand", 0, Op::add, 0, "add of out+lse; partial results merge, sums add"});
  const auto gradient = [](bool merge) {
    return [merge](int, Builder& b) {
      Training t(b);
      t.forward(), t.open();
      Value dq = b.sums(Field::dq, t.q.tokens(), t.q.heads());
      b.attend_backward(t.q, t.kv, t.bundle(), dq, t.dkv);
      merge ? b.merge(t.dq, dq) : b.add(t.dq, dq);
      t.close();
    };
  };
  proved(script(with_backward(tokens8(1)), gradient(false)));
  refused(script(with_backward(tokens8(1)), gradient(true)),
          {"operand", 0, Op::merge, 0, "merge of dq; partial results merge, sums add"});
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) {
            b.attend(q, kv, acc);
            b.add(kv, kv);
          }),
          {"operand", 0, Op::add, 0, "source needs all fields of an accumulating value, but is given k+v of value 1"});
}

TEST(Writes, RowsOfBothOperandsAreTheSame) {
  refused(
      alone([](Builder& b, Value& q, Value& kv, Value& acc) {
        Value part = b.partial(q);
        b.attend(q, kv, part);
        b.merge(acc, part[b.set(Range{0, 4})]);
      }),
      {"operand", 0, Op::merge, 0, "merge of different rows: out+lse 0..4, heads 0..2 and out+lse 0..8, heads 0..2"});
  refused(trained([](Training& t) {
            t.b.prepare_backward(t.out[t.b.set(Range{0, 4})].only(Field::out), t.dout);
          }),
          {"operand", 0, Op::prepare_backward, 1, "prepare_backward of different rows: out 0..4"});
  refused(edited(right(),
                 [](StoredSchedule& stored) {
                   operand(stored, Op::finish, 0, 0).tokens = stored.pool->intern(Range{0, 4});
                 }),
          {"operand", 0, Op::finish, 0, "finish of different rows: out+lse 0..4"});
}

TEST(Writes, FinishTurnsAccumulatingIntoWhole) {
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) {
            b.attend(q, kv, acc);
            b.finish(kv);
          }),
          {"operand", 0, Op::finish, 0, "finish turns an accumulating value into a whole one"});
}

TEST(Writes, FieldsMayBeFinishedApart) {
  const auto body = [](bool out) {
    return [out](int, Builder& b) {
      Value q = b.input(Field::q), kv = b.input(kKv), acc = b.partial(q);
      b.attend(q, kv, acc);
      b.result(b.finish(acc.only(Field::lse)));
      if (out) b.result(b.finish(acc.only(Field::out)));
    };
  };
  proved(script(tokens8(1), body(true)));
  refused(script(tokens8(1), body(false)),
          {"result", 0, kEnd, 0, "not all rows of out are given as a result; this rank owes 0..8, heads 0..2"});
}

// ---- births and drops

TEST(Values, AreDroppedOnce) {
  refused(edited(right(),
                 [](StoredSchedule& stored) {
                   const int64_t at = place_of(stored.programs[0], Op::drop);
                   insert(stored, at, stored.programs[0].instructions[static_cast<size_t>(at)]);
                 }),
          {"lifetime", 0, Op::drop, 1, "drop of value 3, which does not exist here"});
}

TEST(Values, AreAllDropped) {
  refused(edited(right(), [](StoredSchedule& stored) { stored.programs[0].instructions.pop_back(); }),
          {"lifetime", 0, kEnd, 0, "is never dropped"});
}

TEST(Values, AreBornOnce) {
  refused(edited(right(),
                 [](StoredSchedule& stored) {
                   const int64_t at = place_of(stored.programs[0], Op::create);
                   insert(stored, at, stored.programs[0].instructions[static_cast<size_t>(at)]);
                 }),
          {"lifetime", 0, Op::create, 1, "value 2 is created twice"});
}

TEST(Values, HoldFieldsThatBelongTogether) {
  for (Fields mixed : {Field::q | Field::k, Field::out | Field::dk}) {
    refused(alone([mixed](Builder& b, Value& q, Value& kv, Value& acc) {
              b.whole(mixed, q.tokens(), kv.heads());
              b.attend(q, kv, acc);
            }),
            {"operand", 0, Op::create, 1, "a value cannot hold " + to_string(mixed) + " together"});
  }
  for (Fields sum : {Fields(Field::q), Field::dq | Field::out, Fields(Field::lse), kKv}) {
    refused(alone([sum](Builder& b, Value& q, Value& kv, Value& acc) {
              b.sums(sum, q.tokens(), kv.heads());
              b.attend(q, kv, acc);
            }),
            {"operand", 0, Op::create, 1, "a value cannot hold " + to_string(sum) + " as sums"});
  }
}

TEST(Values, LieInsideTheProblem) {
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) {
            b.whole(kKv, b.set(Range{4, 9}), kv.heads());
            b.attend(q, kv, acc);
          }),
          {"operand", 0, Op::create, 1, "(k+v 4..9, heads 0..1) is empty or lies outside of the problem"});
  refused(alone([](Builder& b, Value& q, Value& kv, Value& acc) {
            b.whole(kKv, kv.tokens(), b.all_heads());  // 2 query heads, 1 kv head
            b.attend(q, kv, acc);
          }),
          {"operand", 0, Op::create, 1, "(k+v 0..8, heads 0..2) is empty or lies outside of the problem"});
}

}  // namespace
}  // namespace weft
