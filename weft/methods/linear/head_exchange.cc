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
//
// Where heads share rows of q and k, a rank fetches those that its heads read. Where ranks cut such a group of heads, each of them
// does, and dq and dk go home as sums, added there in the order of the ranks.
#include "weft/methods/formulas/linear.h"
#include "weft/methods/linear/heads_for_tokens.h"
#include "weft/methods/methods.h"

namespace weft::methods {
namespace {

Steps write(Builder& b) {
  HeadsForTokens heads(b, {0, b.problem().ranks()});
  const Problem& problem = b.problem();
  const Set tokens = heads.tokens(), mine = heads.mine();
  const auto sums = [&](Field field) { return b.sums(field, b.rows(field, tokens), mine); };
  auto [q, kv, initial] = heads.fetch_inputs();  // all tokens of the rank's heads, kept for backward
  {
    Value finished, final_states;
    {
      const Value out = sums(Field::out), final = problem.gives_states() ? sums(Field::final_state) : Value();
      b.scan(q, {kv, initial}, {out, final});
      finished = b.finish(out);
      final_states = b.finish(final);
    }
    co_yield Step{};
    Exchange back = b.exchange();
    const Value home = heads.send_home(back, finished, Field::out);
    const Value home_final = problem.gives_states() ? heads.send_home(back, final_states, Field::final_state) : Value();
    back.issue();
    b.result(home);
    b.result(home_final);
    co_yield Step{};
  }
  if (!problem.backward) co_return;

  b.begin_backward();
  const bool cut = !heads.summed().empty();
  const Fields gradients = problem.key_gradients().without(heads.summed());
  Value dq, dk, dkv, dinitial;
  {
    const Value own_dout = b.input(Field::dout), own_dfinal = b.input(Field::dfinal_state);
    Exchange in = b.exchange();
    const Value dout = heads.fetch(in, own_dout, Field::dout);
    const Value dfinal = problem.gives_states() ? heads.fetch(in, own_dfinal, Field::dfinal_state) : Value();
    in.issue();
    const Value dq_sums = sums(Field::dq), dkv_sums = b.sums(gradients, tokens, mine);
    const Value dinitial_sums = problem.initial_states ? sums(Field::dinitial_state) : Value();
    if (cut) dk = sums(Field::dk);
    b.scan_backward(q, {kv, initial}, {dout, dfinal}, {}, dq_sums, {dkv_sums, dk, dinitial_sums});
    dq = cut ? dq_sums : b.finish(dq_sums);
    dkv = b.finish(dkv_sums);
    dinitial = b.finish(dinitial_sums);
  }
  q.reset(), kv.reset(), initial.reset();
  co_yield Step{};
  Exchange back = b.exchange();
  const Value home_dq = heads.send_home(back, dq, Field::dq, cut), home_dkv = heads.send_home(back, dkv, gradients),
              home_dk = cut ? heads.send_home(back, dk, Field::dk, cut) : Value();
  const Value home_dinitial = problem.initial_states ? heads.send_home(back, dinitial, Field::dinitial_state) : Value();
  back.issue();
  b.result(cut ? b.finish(home_dq) : home_dq);
  b.result(home_dkv);
  if (cut) b.result(b.finish(home_dk));
  b.result(home_dinitial);
  co_yield Step{};
}

// Sums over ranks are added in another order for each number of ranks.
void refuse_canonical_sums(const Problem& problem) {
  if (problem.canonical_tile == 0 || !problem.backward || summed_over_ranks(problem, problem.ranks()).empty()) return;
  throw Error(ErrorCode::unsupported, "head-exchange on " + std::to_string(problem.ranks()) +
                                          " ranks parts heads that share q and k, " +
                                          std::to_string(problem.heads / problem.key_heads) +
                                          " at a time, and has no canonical dq and dk; use chain or all-scan, or a "
                                          "number of ranks that divides key-heads");
}

}  // namespace

const Method head_exchange = {
    .name = "head-exchange",
    .family = Family::linear,
    .paper =
        "Megatron-LM's context parallelism of Mamba-2; the exchange of Ulysses, Jacobs et al. 2023, arXiv 2309.14509",
    .summary = "ranks trade tokens for heads, and each scans the whole sequence for its heads",
    .masks = "causal, of layer linear full; one document or packed ones",
    .needs =
        "layouts made of neighbouring tokens (contiguous, zigzag); any tokens and ranks; more heads than ranks to use "
        "them all",
    .options = {},
    .layout = contiguous_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions&) -> Writer {
      refuse_canonical_sums(*problem);
      return [](int /*rank*/, Builder& b) { return write(b); };
    },
    .formula = [](const Configuration& c, const MethodOptions&) { return trade_heads_formula(c); },
    .both_ways = true,
    .in_order = true,
};

}  // namespace weft::methods
