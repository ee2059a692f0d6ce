// Some ranks trade tokens for heads: each fetches all of their tokens in its share of the heads, and sends home what it made of them.
#pragma once

#include "weft/methods/linear/head_share.h"
#include "weft/schedule/builder.h"

namespace weft::methods {

class HeadsForTokens {
 public:
  // Ranks [begin, end), of which the builder's is one.
  HeadsForTokens(Builder& b, Range ranks)
      : b_(b), ranks_(ranks), mine_(heads_of(b.rank())), summed_(summed_over_ranks(b.problem(), ranks.size())) {
    IntervalSet all;
    for (int64_t rank = ranks.begin; rank < ranks.end; ++rank)
      all.unite(b.problem().query_layout.shard(static_cast<int>(rank)));
    tokens_ = b.set(all);
  }

  Set tokens() const { return tokens_; }  // of all of them
  Set mine() const { return mine_; }      // this rank's heads
  // Gradients that go home as sums, since ranks have heads that share rows of them.
  Fields summed() const { return summed_; }

  // All tokens of this rank's heads, from `own`, all heads of its tokens.
  Value fetch(Exchange& exchange, const Value& own, Fields fields) {
    Value fetched = b_.whole(fields, b_.rows(fields, tokens_), mine_);
    for_each_peer([&](int peer) {
      exchange.send(peer, own.at(own.tokens(), heads_of(peer)));
      exchange.receive(peer, fetched.at(b_.rows(fields, b_.queries_of(peer)), mine_));
    });
    return fetched;
  }
  // The inputs of forward, which backward reads again.
  struct Inputs {
    Value q, kv, initial;
  };
  Inputs fetch_inputs() {
    const Problem& problem = b_.problem();
    const Value own_q = b_.input(Field::q), own_kv = b_.input(problem.key_inputs()),
                own_initial = b_.input(Field::initial_state);
    Exchange in = b_.exchange();
    Inputs fetched{fetch(in, own_q, Field::q), fetch(in, own_kv, problem.key_inputs()), {}};
    if (problem.initial_states) fetched.initial = fetch(in, own_initial, Field::initial_state);
    in.issue();
    return fetched;
  }
  // The other way round: rows to their owners, finished, or as sums that are added.
  Value send_home(Exchange& exchange, const Value& rows, Fields fields, bool sums = false) {
    const Set tokens = b_.rows(fields, b_.queries_of(b_.rank()));
    Value home = sums ? b_.sums(fields, tokens, b_.all_heads()) : b_.whole(fields, tokens, b_.all_heads());
    for_each_peer([&](int peer) {
      exchange.send(peer, rows.at(b_.rows(fields, b_.queries_of(peer)), mine_));
      exchange.receive(peer, home.at(home.tokens(), heads_of(peer)), sums ? Combine::add : Combine::copy);
    });
    return home;
  }

 private:
  Set heads_of(int rank) const { return b_.set(head_share(b_.problem().heads, rank - ranks_.begin, ranks_.size())); }
  template <typename F>
  void for_each_peer(F&& f) const {
    for (int64_t peer = ranks_.begin; peer < ranks_.end; ++peer) f(static_cast<int>(peer));
  }

  Builder& b_;
  const Range ranks_;
  Set tokens_, mine_;
  const Fields summed_;
};

}  // namespace weft::methods
