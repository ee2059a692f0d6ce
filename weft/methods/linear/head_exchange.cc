// Heads for tokens: every rank fetches all tokens of its share of the heads, scans the whole sequence, and sends home.
//
//   forward   all-to-all of q, k, v, g: tokens of the rank x all heads -> all tokens x heads of the rank; scan; out back
//   backward  all-to-all of dout; scan backward with what forward fetched; dq, dk, dv, dg back, finished
//
// Ulysses for linear layers, as the Mamba-2 and gated delta rule of Megatron-LM have it. No state travels and no scan over ranks is
// needed: arithmetic is that of one device, and any layout works. But volume grows with the tokens where states do not: with S
// tokens, P ranks and bytes of a row of all heads q, k, v, g, out: all ranks together send (P-1)/P S (q + kv + g + out) forward and
// (P-1)/P S (dout + dq + dkv + dg) backward, where P divides the heads. Fewer heads than ranks leave ranks without work; published codes
// refuse them.
#include "weft/methods/methods.h"

namespace weft::methods {
namespace {

class HeadExchange {
 public:
  explicit HeadExchange(Builder& b)
      : b_(b), all_(b.set(Range{0, b.problem().query_layout.tokens()})), mine_(heads_of(b.rank())) {}

  Set all_tokens() const { return all_; }
  Set my_heads() const { return mine_; }

  // All tokens of this rank's heads, from `own`, all heads of its tokens.
  Value fetch(Exchange& exchange, const Value& own, Fields fields) {
    Value fetched = b_.whole(fields, all_, mine_);
    for (int peer = 0; peer < b_.problem().ranks(); ++peer) {
      exchange.send(peer, own.at(b_.queries_of(b_.rank()), heads_of(peer)));
      exchange.receive(peer, fetched.at(b_.queries_of(peer), mine_));
    }
    return fetched;
  }
  // The other way round: finished rows to their owners.
  Value send_home(Exchange& exchange, const Value& finished, Fields fields) {
    Value home = b_.whole(fields, b_.queries_of(b_.rank()), b_.all_heads());
    for (int peer = 0; peer < b_.problem().ranks(); ++peer) {
      exchange.send(peer, finished.at(b_.queries_of(peer), mine_));
      exchange.receive(peer, home.at(b_.queries_of(b_.rank()), heads_of(peer)));
    }
    return home;
  }

 private:
  Set heads_of(int rank) const {
    const int64_t heads = b_.problem().heads, ranks = b_.problem().ranks();
    return b_.set(Range{heads * rank / ranks, heads * (rank + 1) / ranks});
  }

  Builder& b_;
  const Set all_, mine_;
};

Steps write(Builder& b) {
  HeadExchange heads(b);
  const Fields inputs = b.problem().key_inputs(), gradients = b.problem().key_gradients();
  Value q, kv;  // all tokens of the rank's heads, kept for backward
  {
    Value own_q = b.input(Field::q), own_kv = b.input(inputs), finished;
    Exchange in = b.exchange();
    q = heads.fetch(in, own_q, Field::q);
    kv = heads.fetch(in, own_kv, inputs);
    in.issue();
    own_q.reset(), own_kv.reset();
    {
      Value out = b.sums(Field::out, heads.all_tokens(), heads.my_heads());
      b.scan(q, kv, out);
      finished = b.finish(out);
    }
    co_yield Step{};
    Exchange back = b.exchange();
    Value home = heads.send_home(back, finished, Field::out);
    back.issue();
    b.result(home);
    co_yield Step{};
  }
  if (!b.problem().backward) co_return;

  b.begin_backward();
  Value dq, dkv;
  {
    Value own_dout = b.input(Field::dout);
    Exchange in = b.exchange();
    const Value dout = heads.fetch(in, own_dout, Field::dout);
    in.issue();
    const Value dq_sums = b.sums(Field::dq, heads.all_tokens(), heads.my_heads());
    const Value dkv_sums = b.sums(gradients, heads.all_tokens(), heads.my_heads());
    b.scan_backward(q, kv, dout, {}, dq_sums, dkv_sums);
    dq = b.finish(dq_sums);
    dkv = b.finish(dkv_sums);
  }
  q.reset(), kv.reset();
  co_yield Step{};
  Exchange back = b.exchange();
  const Value home_dq = heads.send_home(back, dq, Field::dq), home_dkv = heads.send_home(back, dkv, gradients);
  back.issue();
  b.result(home_dq);
  b.result(home_dkv);
  co_yield Step{};
}

}  // namespace

const Method head_exchange = {
    .name = "head-exchange",
    .family = Family::linear,
    .paper =
        "Megatron-LM's context parallelism of Mamba-2; the exchange of Ulysses, Jacobs et al. 2023, arXiv 2309.14509",
    .summary = "ranks trade tokens for heads, and each scans the whole sequence for its heads",
    .masks = "causal, one document or packed ones",
    .needs =
        "layouts made of neighbouring tokens (contiguous, zigzag); any tokens and ranks; more heads than ranks to use "
        "them all",
    .options = {},
    .layout = contiguous_layout,
    .writer = [](std::shared_ptr<const Problem>, const MethodOptions&) -> Writer {
      return [](int /*rank*/, Builder& b) { return write(b); };
    },
};

}  // namespace weft::methods
