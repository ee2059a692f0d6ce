#include "weft/methods/linear/both_ways.h"

#include <algorithm>

namespace weft::methods {
namespace {

// A document on several ranks, one of which is this one.
struct SharedDocument {
  Range tokens;
  std::vector<int> fragments;  // that hold it, ascending
  std::vector<int> ranks;      // that hold these, ascending, each once
  std::vector<Value> states;   // the sum for backward, in some heads each

  // The place of a rank among them.
  int64_t place(int rank) const { return std::lower_bound(ranks.begin(), ranks.end(), rank) - ranks.begin(); }
};

class BothWays {
 public:
  BothWays(Builder& b, const Fragments& all, Sum sum) : b_(b), all_(all), sum_(sum) {
    for (const int number : all.of(b.rank())) {
      const Fragment& f = all[number];
      if (!f.before.empty()) share({f.before.begin, f.crossed() ? f.after.end : f.head.end});
      if (!f.after.empty() && !f.crossed()) share({f.tail.begin, f.after.end});
      const IntervalSet inside = subtract(subtract(IntervalSet(f.tokens), IntervalSet(f.head)), IntervalSet(f.tail));
      if (!inside.empty()) whole_.push_back(b.set(inside));
    }
  }
  void forward();
  void backward();

 private:
  void share(Range tokens);
  // What a fragment has of a document.
  Set piece(const SharedDocument& document, int fragment) {
    return b_.set(intersect(all_[fragment].tokens, document.tokens));
  }
  bool is_mine(int fragment) const { return all_[fragment].rank == b_.rank(); }
  Set share_of(const SharedDocument& document, int rank) {
    if (sum_ == Sum::gathered) return b_.all_heads();
    const int64_t heads = b_.problem().heads, ranks = static_cast<int64_t>(document.ranks.size()),
                  at = document.place(rank);
    return b_.set(Range{heads * at / ranks, heads * (at + 1) / ranks});
  }
  // Of each document and each of its fragments: the rank's own, made by `make`, or those of others in the rank's share of heads.
  using States = std::vector<std::vector<Value>>;
  template <typename Make>
  States fetch(Field field, Make&& make);
  // Of each document the sum, in all heads: one value, or the rank's share and what the others have added.
  States add_up(Field field, States states);
  // Calls f(piece, state) for each of the rank's pieces and each part of its document's sum.
  template <typename F>
  void for_each_piece(const States& sums, F&& f);

  Builder& b_;
  const Fragments& all_;
  const Sum sum_;
  std::vector<SharedDocument> shared_;
  std::vector<Set> whole_;  // runs of documents that lie here
  States kept_;             // sums of forward
};

void BothWays::share(Range tokens) {
  if (!shared_.empty() && shared_.back().tokens == tokens) return;  // two fragments of one document, on zigzag
  SharedDocument& document = shared_.emplace_back();
  document.tokens = tokens;
  for (int n = 0; n < all_.count(); ++n) {
    if (intersect(all_[n].tokens, tokens).empty()) continue;
    document.fragments.push_back(n);
    document.ranks.push_back(all_[n].rank);
  }
  std::sort(document.ranks.begin(), document.ranks.end());
  document.ranks.erase(std::unique(document.ranks.begin(), document.ranks.end()), document.ranks.end());
}

template <typename Make>
BothWays::States BothWays::fetch(Field field, Make&& make) {
  States states;
  Exchange exchange = b_.exchange();
  for (const SharedDocument& document : shared_) {
    std::vector<Value>& list = states.emplace_back();
    for (const int fragment : document.fragments) {
      if (is_mine(fragment)) {
        const Value& own = list.emplace_back(make(piece(document, fragment)));
        for (const int peer : document.ranks) {
          if (peer != b_.rank()) exchange.send(peer, own.at(own.tokens(), share_of(document, peer)));
        }
      } else {
        const Value& other =
            list.emplace_back(b_.whole(field, piece(document, fragment), share_of(document, b_.rank())));
        exchange.receive(all_[fragment].rank, other);
      }
    }
  }
  exchange.issue();
  return states;
}

BothWays::States BothWays::add_up(Field field, States states) {
  States sums;
  Exchange exchange = b_.exchange();
  for (size_t n = 0; n < shared_.size(); ++n) {
    const SharedDocument& document = shared_[n];
    const Set mine = share_of(document, b_.rank());
    Value sum;
    for (Value& state : states[n]) {
      const Slice next = state.at(state.tokens(), mine);
      if (!mine.empty()) sum = sum.empty() ? state : b_.compose(sum.at(sum.tokens(), mine), next);
      state.reset();
    }
    std::vector<Value>& list = sums.emplace_back();
    if (!sum.empty()) list.push_back(sum);
    if (sum_ == Sum::gathered) continue;
    const Value others = b_.whole(field, b_.set(document.tokens), b_.all_heads() - mine);
    for (const int peer : document.ranks) {
      if (peer == b_.rank()) continue;
      exchange.send(peer, sum.empty() ? Slice{} : sum.at(sum.tokens(), mine));
      exchange.receive(peer, others.at(others.tokens(), share_of(document, peer)));
    }
    list.push_back(others);
  }
  exchange.issue();
  return sums;
}

template <typename F>
void BothWays::for_each_piece(const States& sums, F&& f) {
  for (size_t n = 0; n < shared_.size(); ++n) {
    for (const int fragment : shared_[n].fragments) {
      if (!is_mine(fragment)) continue;
      for (const Value& sum : sums[n]) f(piece(shared_[n], fragment), sum);
    }
  }
}

void BothWays::forward() {
  LinearPass pass(b_);
  pass.open_forward();
  States states = fetch(Field::state, [&](Set tokens) { return b_.state_of(pass.kv[tokens]); });
  for (const Set tokens : whole_) b_.scan(pass.q[tokens], pass.kv[tokens], pass.out[tokens]);
  const States sums = add_up(Field::state, std::move(states));
  for_each_piece(sums, [&](Set tokens, const Value& state) {
    const Set heads = state.heads();
    b_.apply_state(pass.q.at(tokens, heads), pass.kv.at(tokens, heads), state, pass.out.at(tokens, heads));
  });
  pass.finish_forward();
  if (b_.problem().backward) kept_ = sums;
}

void BothWays::backward() {
  LinearPass pass(b_);
  pass.open_backward();
  States states = fetch(Field::dstate,
                        [&](Set tokens) { return b_.dstate_of(pass.q[tokens], pass.kv[tokens], pass.dout[tokens]); });
  for (const Set tokens : whole_)
    b_.scan_backward(pass.q[tokens], pass.kv[tokens], pass.dout[tokens], {}, pass.dq[tokens], pass.dkv[tokens]);
  for_each_piece(kept_, [&](Set tokens, const Value& state) {
    const Set heads = state.heads();
    b_.apply_state(pass.q.at(tokens, heads), pass.kv.at(tokens, heads), state, pass.dq.at(tokens, heads),
                   pass.dout.at(tokens, heads));
  });
  kept_.clear();
  const States sums = add_up(Field::dstate, std::move(states));
  for_each_piece(sums, [&](Set tokens, const Value& dstate) {
    const Set heads = dstate.heads();
    b_.apply_dstate(pass.kv.at(tokens, heads), dstate, {}, pass.dkv.at(tokens, heads));
  });
  pass.finish_backward();
}

}  // namespace

Steps write_both_ways(SharedFragments fragments, Sum sum, Builder& b) {
  BothWays work(b, *fragments, sum);
  work.forward();
  co_yield Step{};
  if (!b.problem().backward) co_return;
  b.begin_backward();
  work.backward();
  co_yield Step{};
}

}  // namespace weft::methods
