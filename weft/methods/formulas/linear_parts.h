// What the closed forms of linear methods have in common: contiguous shards of one document.
//
// A rank's walk is that of its writer (methods/linear), with bytes in place of values. P ranks, n bytes of a state and m of a
// transition: rank r has r fragments before it and P-1-r behind it, and is crossed unless it is the first or the last.
#pragma once

#include <utility>

#include "weft/methods/formulas/ledger.h"
#include "weft/methods/formulas/linear.h"

namespace weft::methods {

// Bytes: of all heads of a token, and of one head of a state.
struct LinearSizes {
  explicit LinearSizes(const Configuration& c)
      : heads(c.heads),
        q(c.bytes_per_token(Field::q, Form::whole)),
        keys(c.bytes_per_token(c.key_inputs(), Form::whole)),
        out_sums(c.bytes_per_token(Field::out, Form::accumulating)),
        out(c.bytes_per_token(Field::out, Form::whole)),
        dout(c.bytes_per_token(Field::dout, Form::whole)),
        dq_sums(c.bytes_per_token(Field::dq, Form::accumulating)),
        dq(c.bytes_per_token(Field::dq, Form::whole)),
        dkeys_sums(c.bytes_per_token(c.key_gradients(), Form::accumulating)),
        dkeys(c.bytes_per_token(c.key_gradients(), Form::whole)),
        state(c.bytes_per_row(Field::state, Form::whole)),
        transition(has_transition(c.layer) ? c.bytes_per_row(Field::transition, Form::whole) : 0) {}
  int64_t heads, q, keys, out_sums, out, dout, dq_sums, dq, dkeys_sums, dkeys, state, transition;
  int64_t states() const { return heads * state; }
  int64_t transitions() const { return heads * transition; }
};

// Equal shards, and what all methods do alike; or a reason.
struct LinearShares {
  LinearShares(const Configuration& c, Formula& f) : size(c), backward(c.backward) {
    const Shares shares = share_rows(c, "contiguous", f);
    if (f.known() && !c.layout.empty() && c.layout != "contiguous")
      f = no_formula("no closed form of a linear layer on this layout; known: contiguous");
    if (f.known() && c.canonical_tile != 0) f = no_formula("no closed form of a linear layer with canonical results");
    if (f.known() && !c.mask.causal) f = no_formula("no closed form of a linear layer with a full mask");
    if (f.known() && (c.initial_states || c.gives_states()))
      f = no_formula("no closed form with states that are given or asked for");
    if (!f.known()) return;
    ranks = c.ranks, rows = shares.rows;
    f.forward.work = same_on_all(ranks, rows * c.heads);
    if (backward) f.backward.work = f.forward.work;
  }
  LinearSizes size;
  bool backward;
  int64_t ranks = 1, rows = 0;
};

// A rank's tensors in a phase.
struct LinearTensors {
  LinearTensors(Ledger& ledger_of_rank, const LinearShares& shares, bool backward_phase)
      : ledger(ledger_of_rank), backward(backward_phase), rows(shares.rows), size(shares.size) {
    make(size.q), make(size.keys);
    if (backward) {
      make(size.dout), make(size.dq_sums), make(size.dkeys_sums);
    } else {
      make(size.out_sums);
    }
  }
  void finish() {
    const auto result = [&](int64_t bytes) {
      Ledger::Id done = ledger.make(rows * bytes);
      ledger.drop(done);
    };
    if (backward) {
      result(size.dq), result(size.dkeys);
    } else {
      result(size.out);
    }
    for (Ledger::Id& id : all) ledger.drop(id);
  }

 private:
  void make(int64_t bytes) { all.push_back(ledger.make(rows * bytes)); }
  Ledger& ledger;
  const bool backward;
  const int64_t rows;
  const LinearSizes& size;
  std::vector<Ledger::Id> all;
};

}  // namespace weft::methods
