// What head_exchange.cc costs: rows of all heads for all rows of some.
#include "weft/methods/formulas/linear_parts.h"
#include "weft/methods/linear/head_share.h"

namespace weft::methods {
namespace {

using Id = Ledger::Id;

// What a rank trades: own rows of all heads, and all tokens of own heads.
class HeadTrade {
 public:
  HeadTrade(const Configuration& c, const LinearShares& shares)
      : c_(c), ranks_(shares.ranks), rows_(shares.rows), cut_(!summed_over_ranks(c, ranks_).empty()) {
    gradients_ = c.key_gradients().without(cut_ ? Fields(Field::dk) : Fields());
    // Of all ranks' shares; each trade is of fields that are here.
    for (const Rows& rows : {Rows{Field::q}, keys(), Rows{Field::out}, Rows{Field::dout}, dq(), dk(), dkeys()})
      sent_.emplace_back(rows, wire_bytes_of_shares(c, rows.fields, rows.form, ranks_));
  }
  struct Rows {
    Fields fields;
    Form form = Form::whole;
    friend bool operator==(const Rows&, const Rows&) = default;
  };
  Rows keys() const { return {c_.key_inputs()}; }
  // As sums where ranks cut groups of heads that share rows.
  Rows dq() const { return {Field::dq, cut_ ? Form::accumulating : Form::whole}; }
  Rows dk() const { return {Field::dk, Form::accumulating}; }
  Rows dkeys() const { return {gradients_}; }
  static Rows sums(const Rows& rows) { return {rows.fields, Form::accumulating}; }
  bool cut() const { return cut_; }

  Range share(int64_t rank) const { return head_share(c_.heads, rank, ranks_); }
  // Bytes of all tokens in a rank's heads, and of its tokens in all heads.
  int64_t here(const Rows& rows, int64_t rank) const {
    return ranks_ * rows_ * bytes_of_share(c_, rows.fields, rows.form, share(rank));
  }
  int64_t own(const Rows& rows) const { return rows_ * c_.bytes_per_token(rows.fields, rows.form); }
  // Of what others have of a rank's heads, and of what it has of theirs; in messages, and with what it has of its own.
  int64_t of_others(const Rows& rows, int64_t rank) const {
    return (ranks_ - 1) * rows_ * wire_bytes_of_share(c_, rows.fields, rows.form, share(rank));
  }
  int64_t of_mine(const Rows& rows, int64_t rank) const {
    return of_all(rows) - rows_ * wire_bytes_of_share(c_, rows.fields, rows.form, share(rank));
  }
  int64_t of_all(const Rows& rows) const {
    const auto at = std::find_if(sent_.begin(), sent_.end(), [&](const auto& known) { return known.first == rows; });
    WEFT_CHECK(at != sent_.end());
    return rows_ * at->second;
  }
  // The copy that is packed of sums that travel in a narrower type.
  int64_t packed(const Rows& rows, int64_t rank) const {
    const bool lowered = rows.form == Form::accumulating && c_.wire != c_.accumulator();
    return lowered ? ranks_ * rows_ * wire_bytes_of_share(c_, rows.fields, rows.form, share(rank)) : 0;
  }

 private:
  const Configuration& c_;
  const int64_t ranks_, rows_;
  const bool cut_;
  Fields gradients_;
  std::vector<std::pair<Rows, int64_t>> sent_;
};

// One rank, as its writer goes.
class TradeWalk {
 public:
  TradeWalk(Ledger& ledger, const HeadTrade& trade, int64_t rank, int64_t ranks, int64_t heads)
      : ledger_(ledger), trade_(trade), rank_(rank), mine_(trade.share(rank).size()), all_(mine_ == heads) {
    const int64_t with_heads = std::min(ranks, heads);
    to_heads_ = static_cast<int>(with_heads - (mine_ > 0));
    to_home_ = static_cast<int>(mine_ > 0 ? ranks - 1 : 0);
  }
  void forward();
  void backward();
  int64_t kept() const { return trade_.here({Field::q}, rank_) + trade_.here(trade_.keys(), rank_); }

 private:
  using Rows = HeadTrade::Rows;
  struct Traded {
    Id from, to;
    Rows rows;
  };
  void trade(std::initializer_list<Traded> list, bool to_heads) {
    std::vector<Ledger::Out> out;
    std::vector<Ledger::In> in;
    int messages = to_heads ? to_heads_ : to_home_;
    for (const auto& [from, to, rows] : list) {
      const int64_t mine = trade_.of_mine(rows, rank_), others = trade_.of_others(rows, rank_);
      out.push_back({from, to_heads ? mine : others, trade_.packed(rows, rank_), std::exchange(messages, 0)});
      in.push_back({to, to_heads ? others : mine, rows.form == Form::accumulating ? trade_.of_all(rows) : 0});
    }
    ledger_.exchange(0, out, in);
  }
  Id here(const Rows& rows) { return ledger_.make(trade_.here(rows, rank_)); }
  Id own(const Rows& rows) { return ledger_.make(trade_.own(rows)); }
  // Sums that have come home.
  void finish(Id sums, const Rows& rows) {
    Id done = own({rows.fields});
    ledger_.use({sums}, {done});
    ledger_.drop(done);
  }

  Ledger& ledger_;
  const HeadTrade& trade_;
  const int64_t rank_, mine_;
  const bool all_;
  int to_heads_ = 0, to_home_ = 0;
  Id q_ = 0, keys_ = 0;
};

void TradeWalk::forward() {
  const Rows q{Field::q}, out{Field::out};
  Id own_q = own(q), own_keys = own(trade_.keys());
  q_ = here(q), keys_ = here(trade_.keys());
  trade({{own_q, q_, q}, {own_keys, keys_, trade_.keys()}}, true);
  if (!all_) ledger_.drop(own_q), ledger_.drop(own_keys);
  Id sums = here(HeadTrade::sums(out));
  ledger_.drop(own_q),
      ledger_.drop(own_keys);  // with all heads, what is on its way to itself is there until it is read
  if (mine_ > 0) ledger_.attend({q_, keys_}, {sums});
  Id done = here(out);
  ledger_.drop(sums);
  Id home = own(out);
  trade({{done, home, out}}, false);
  ledger_.use({home}, {});
  ledger_.drop(home), ledger_.drop(done);
}

void TradeWalk::backward() {
  const Rows dout{Field::dout}, dq = trade_.dq(), dk = trade_.dk(), dkeys = trade_.dkeys();
  const bool cut = trade_.cut();
  ledger_.begin_phase();
  Id own_dout = own(dout), all_dout = here(dout);
  trade({{own_dout, all_dout, dout}}, true);
  Id dq_sums = here(HeadTrade::sums(dq)), dkeys_sums = here(HeadTrade::sums(dkeys)), dk_sums = cut ? here(dk) : 0;
  if (mine_ > 0) ledger_.attend({q_, keys_, all_dout}, {dq_sums, dkeys_sums, dk_sums});
  Id done_dq = 0;
  if (cut) {
    ledger_.move(dq_sums, done_dq);
  } else {
    done_dq = here(dq);
  }
  Id done_dkeys = here(dkeys);
  for (Id* id : {&dkeys_sums, &dq_sums, &all_dout, &own_dout, &q_, &keys_}) ledger_.drop(*id);
  Id home_dq = own(dq), home_dkeys = own(dkeys), home_dk = cut ? own(dk) : 0;
  if (cut) {
    trade({{done_dq, home_dq, dq}, {done_dkeys, home_dkeys, dkeys}, {dk_sums, home_dk, dk}}, false);
    finish(home_dq, dq);
    finish(home_dk, dk);
  } else {
    trade({{done_dq, home_dq, dq}, {done_dkeys, home_dkeys, dkeys}}, false);
    ledger_.use({home_dq, home_dkeys}, {});
  }
}

}  // namespace

Formula trade_heads_formula(const Configuration& c) {
  Formula f;
  const LinearShares shares(c, f);
  if (!f.known()) return f;
  const int64_t ranks = shares.ranks;
  const HeadTrade trade(c, shares);
  f.forward.work = over_all(ranks, [&](int64_t rank) { return shares.rows * ranks * trade.share(rank).size(); });
  if (c.backward) f.backward.work = f.forward.work;
  f.forward.steps = ranks > 1 ? 2 : 1;
  if (c.backward) f.backward.steps = f.forward.steps;
  count_ranks(f, ranks, false, 8, [&](Ledger& ledger, int64_t rank) {
    TradeWalk walk(ledger, trade, rank, ranks, c.heads);
    walk.forward();
    if (!c.backward) return;
    f.saved_bytes = std::max(f.saved_bytes, walk.kept());
    walk.backward();
  });
  return f;
}

}  // namespace weft::methods
