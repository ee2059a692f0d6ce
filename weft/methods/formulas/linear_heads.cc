// What head_exchange.cc costs: rows of all heads for all rows of some.
#include "weft/methods/formulas/linear_parts.h"

namespace weft::methods {

Formula trade_heads_formula(const Configuration& c) {
  Formula f;
  const LinearShares shares(c, f);
  if (!f.known()) return f;
  const LinearSizes& size = shares.size;
  const int64_t ranks = shares.ranks, tokens = shares.rows * ranks;
  const auto heads_of = [&](int64_t rank) { return c.heads * (rank + 1) / ranks - c.heads * rank / ranks; };
  const int64_t with_heads = std::min(ranks, c.heads);
  f.forward.work = over_all(ranks, [&](int64_t rank) { return tokens * heads_of(rank); });
  if (c.backward) f.backward.work = f.forward.work;
  f.forward.steps = ranks > 1 ? 2 : 1;
  if (c.backward) f.backward.steps = f.forward.steps;
  const auto walk = [&](Ledger& ledger, int64_t rank) {
    const int64_t mine = heads_of(rank);
    const auto peers = [&](bool to_heads) {
      return static_cast<int>(to_heads ? with_heads - (mine > 0) : mine > 0 ? ranks - 1 : 0);
    };
    // Bytes of a token's row of one head, for all that others have of this rank's heads, and that this has of theirs.
    const auto of_others = [&](int64_t row) { return (ranks - 1) * shares.rows * mine * (row / c.heads); };
    const auto of_mine = [&](int64_t row) { return shares.rows * (c.heads - mine) * (row / c.heads); };
    const auto here = [&](int64_t row) { return tokens * mine * (row / c.heads); };
    // Trades own rows of these sizes for all tokens of own heads; or back.
    const auto trade = [&](std::initializer_list<std::pair<Ledger::Id, int64_t>> from,
                           std::initializer_list<std::pair<Ledger::Id, int64_t>> to, bool to_heads) {
      std::vector<Ledger::Out> out;
      std::vector<Ledger::In> in;
      int messages = peers(to_heads);
      for (const auto& [id, row] : from) {
        out.push_back({id, to_heads ? of_mine(row) : of_others(row), 0, std::exchange(messages, 0)});
      }
      for (const auto& [id, row] : to) in.push_back({id, to_heads ? of_others(row) : of_mine(row)});
      ledger.exchange(0, out, in);
    };
    Ledger::Id own_q = ledger.make(shares.rows * size.q), own_keys = ledger.make(shares.rows * size.keys);
    Ledger::Id q = ledger.make(here(size.q)), keys = ledger.make(here(size.keys));
    trade({{own_q, size.q}, {own_keys, size.keys}}, {{q, size.q}, {keys, size.keys}}, true);
    if (mine < c.heads) ledger.drop(own_q), ledger.drop(own_keys);
    Ledger::Id sums = ledger.make(here(size.out_sums));
    ledger.drop(own_q),
        ledger.drop(own_keys);  // with all heads, what is on its way to itself is there until it is read
    if (mine > 0) ledger.attend({q, keys}, {sums});
    Ledger::Id done = ledger.make(here(size.out));
    ledger.drop(sums);
    Ledger::Id home = ledger.make(shares.rows * size.out);
    trade({{done, size.out}}, {{home, size.out}}, false);
    ledger.use({home}, {});
    ledger.drop(home), ledger.drop(done);
    if (!c.backward) return;
    f.saved_bytes = std::max(f.saved_bytes, here(size.q + size.keys));
    ledger.begin_phase();
    Ledger::Id own = ledger.make(shares.rows * size.dout), dout = ledger.make(here(size.dout));
    trade({{own, size.dout}}, {{dout, size.dout}}, true);
    Ledger::Id dq_sums = ledger.make(here(size.dq_sums)), dkeys_sums = ledger.make(here(size.dkeys_sums));
    if (mine > 0) ledger.attend({q, keys, dout}, {dq_sums, dkeys_sums});
    Ledger::Id dq = ledger.make(here(size.dq)), dkeys = ledger.make(here(size.dkeys));
    for (Ledger::Id* id : {&dkeys_sums, &dq_sums, &dout, &own, &q, &keys}) ledger.drop(*id);
    Ledger::Id home_dq = ledger.make(shares.rows * size.dq), home_dkeys = ledger.make(shares.rows * size.dkeys);
    trade({{dq, size.dq}, {dkeys, size.dkeys}}, {{home_dq, size.dq}, {home_dkeys, size.dkeys}}, false);
    ledger.use({home_dq, home_dkeys}, {});
  };
  count_ranks(f, ranks, false, 8, walk);
  return f;
}

}  // namespace weft::methods
