// What rsa.cc costs: rings of keys and of values in turn, each with its gradient in backward, and whole rows of scores.
#include "weft/methods/formulas/double_ring.h"
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/formulas/ledger.h"

namespace weft::methods {
namespace {

// Bytes of a row of k or of v and of their gradients.
struct TravellingBytes {
  TravellingBytes(const AttentionShape& c, Field field, Field gradient) {
    moving.block = c.bytes_per_token(field, Form::whole);
    moving.sums = c.bytes_per_token(gradient, Form::accumulating);
    moving.sent = c.wire_bytes_per_token(gradient, Form::accumulating);
    moving.packed = c.wire != c.accumulator() ? moving.sent : 0;
    done = c.bytes_per_token(gradient, Form::whole);
  }
  Moving moving;
  int64_t done;
};

class RsaRank {
 public:
  RsaRank(const Configuration& c, int64_t rows, const DoubleRingMember& place, int64_t scores, Ledger& ledger)
      : c_(c),
        rows_(rows),
        place_(place),
        scores_(scores),
        keys_(c, Field::k, Field::dk),
        values_(c, Field::v, Field::dv),
        ledger_(ledger) {}

  void forward() {
    Id q = whole(Field::q), k = whole(Field::k), scores = ledger_.make(scores_);
    go_round(keys_.moving, k, none, [](int64_t) {});
    ledger_.drop(q), ledger_.drop(k);
    Id v = whole(Field::v), out = sums(Field::out);
    go_round(values_.moving, v, none, [&](int64_t t) {
      if (t > 0) return;
      probs_ = ledger_.make(scores_);
      Id lse = whole(Field::lse);
      ledger_.drop(scores), ledger_.drop(lse);
    });
    Id done = whole(Field::out);
    ledger_.drop(done), ledger_.drop(out), ledger_.drop(v);
  }

  void backward() {
    ledger_.begin_phase();
    Id dout = whole(Field::dout), v = whole(Field::v), dscores = none;
    Id dprobs = ledger_.make(scores_), dv = sums(Field::dv);
    go_round(values_.moving, v, dv, [&](int64_t t) {
      if (t < c_.ranks) return;
      dscores = ledger_.make(scores_);
      ledger_.drop(probs_), ledger_.drop(dprobs), ledger_.drop(dout);
    });
    finish(dv, rows_ * values_.done);
    ledger_.drop(dv), ledger_.drop(v);
    whole(Field::q);
    Id k = whole(Field::k), dq = sums(Field::dq), dk = sums(Field::dk);
    go_round(keys_.moving, k, dk, [](int64_t) {});
    finish(dq, rows_ * c_.bytes_per_token(Field::dq, Form::whole));
    finish(dk, rows_ * keys_.done);
  }

 private:
  using Id = Ledger::Id;
  static constexpr Id none = 0;

  Id whole(Field field) { return ledger_.make(rows_ * c_.bytes_per_token(field, Form::whole)); }
  Id sums(Field field) { return ledger_.make(rows_ * c_.bytes_per_token(field, Form::accumulating)); }
  void finish(Id sums, int64_t bytes) {
    Id done = ledger_.make(bytes);
    ledger_.use({sums}, {done});
    ledger_.drop(done);
  }

  // A DoubleRingPass of one node. A block goes on with what the next member holds of it. Calls meanwhile(step) when blocks
  // are on their way.
  template <typename F>
  void go_round(const Moving& row, Id own, Id home, F&& meanwhile) {
    const int64_t ranks = c_.ranks;
    Id block = none, next = none, sums = none;
    for (int64_t t = 0; t < ranks + (home != none); ++t) {
      if (t < ranks) ledger_.move(next, block);
      if (t + 1 < ranks) {
        const int64_t coming = place_.block(t + 1) * row.block;
        next = ledger_.make(coming);
        ledger_.exchange(0, {{t == 0 ? own : block, place_.going_on(t) * row.block}}, {{next, coming}});
      }
      Id got = home != none && t > 1 ? pass_sums(row, t, sums) : none;
      meanwhile(t);
      add_here(row, t, t == 0 ? own : block, home, sums);
      ledger_.use({got}, {got != none ? home : none});
      ledger_.drop(got);
    }
    ledger_.drop(block), ledger_.drop(sums);
  }

  // Returns the own sums that come home.
  Id pass_sums(const Moving& row, int64_t t, Id& sums) {
    const int64_t onward = place_.going_on(t - 1), homeward = place_.sums(t - 1) - onward;
    const int64_t coming = place_.coming_home(t), more = t < c_.ranks ? place_.sums(t) : 0;
    Id got = ledger_.make(coming * row.sums), arriving = ledger_.make(more * row.sums);
    ledger_.exchange(
        2, {{sums, onward * row.sent, onward * row.packed}, {sums, homeward * row.sent, homeward * row.packed}},
        {{arriving, more * row.sent}, {got, coming * row.sent}});
    ledger_.move(arriving, sums);
    return got;
  }

  void add_here(const Moving& row, int64_t t, Id block, Id home, Id& sums) {
    if (t == c_.ranks || block == none) return;
    if (home == none || t == 0) return ledger_.attend({block}, {home});
    if (t == 1) sums = ledger_.make(place_.sums(1) * row.sums);
    if (t == 1) return ledger_.attend({block}, {sums});
    Id target = ledger_.make(place_.target(0, t) * row.sums);
    ledger_.attend({block}, {target});
    ledger_.use({target}, {sums});
    ledger_.drop(target);
  }

  const Configuration& c_;
  int64_t rows_;
  const DoubleRingMember& place_;
  int64_t scores_;
  TravellingBytes keys_, values_;
  Ledger& ledger_;
  Id probs_ = none;
};

// Keys that some query of a rank sees.
int64_t columns(const Configuration& c, int64_t rows, int64_t rank) {
  const int64_t ranks = c.ranks;
  if (!c.mask.causal || ranks == 1) return ranks * rows;
  if (c.layout.empty() || c.layout == "contiguous") return (rank + 1) * rows;
  return c.layout == "striped" ? (rows - 1) * ranks + rank + 1 : (2 * ranks - rank) * (rows / 2);
}

}  // namespace

Formula rsa_formula(const Configuration& c) {
  Formula f;
  const Shares shares = share_rows(c, "contiguous", f);
  if (!f.known()) return f;
  if (c.canonical_tile != 0) return no_formula("rsa has no canonical results");
  const int64_t ranks = c.ranks, rows = shares.rows;
  if (rows > (int64_t{1} << 50) / c.heads / (ranks * rows)) return no_formula("rsa keeps more than 2^50 scores");
  const int64_t score = rows * c.heads * c.bytes_per_row(Field::lse, Form::whole);
  f.forward.steps = 2 * ranks;
  f.forward.work = shares.work;
  if (c.backward) {
    f.backward.steps = 2 * (ranks + (ranks > 1));
    f.backward.work = shares.work;
  }
  const auto walk = [&](Ledger& ledger, int64_t rank) {
    const int64_t scores = columns(c, rows, rank) * score;
    const DoubleRingMember place({1, ranks, shares.keys, 1}, rank);
    RsaRank mine(c, rows, place, scores, ledger);
    mine.forward();
    if (!c.backward) return;
    f.saved_bytes = std::max(f.saved_bytes, scores);
    mine.backward();
  };
  count_ranks(f, ranks, shares.full, 4 * ranks, walk);
  return f;
}

}  // namespace weft::methods
