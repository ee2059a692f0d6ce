// Heads for tokens inside groups of ranks, states across the groups.
//
//   6 ranks, inner = 2                       the rank at each place of a group has a share of the heads
//   inside     ranks 0 1 | 2 3 | 4 5         all-to-all: tokens of a rank x all heads -> tokens of its group x heads of the rank
//   across     ranks 0 2 4 and 1 3 5         states of these heads by log steps over the groups
//   inside     home                          out, finished; backward the same of dout and of all gradients
//
// So a rank passes on 1 / inner of the heads' states, over as many fewer ranks, and rows travel inside a group alone: for groups
// whose ranks have fast links. inner = 1 is log-step, inner = all ranks head-exchange. On zigzag a group has two fragments, like a
// rank there. Volume of a document of S tokens over P = p u ranks, n bytes of state and m of transition, u = inner: each phase
// that of head-exchange of u ranks for each group, and the sum over rounds d = 1, 2, 4, .. < p of (p-d) n + max(0, p-2d) m.
//
// The composition is that of USP and LoongTrain for attention, with a scan in the place of the ring; Megatron-LM has the inner part.
#include "weft/methods/linear/doubling.h"
#include "weft/methods/linear/heads_for_tokens.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/degrees.h"

namespace weft::methods {
namespace {

// The groups, and their fragments as the ranks at each place of a group see them: with the rank at that place.
struct Groups {
  Groups(const Problem& problem, int inner) : inner(inner) {
    for (int place = 0; place < inner; ++place) {
      std::vector<Fragment> cut;
      for (int first = 0; first < problem.ranks(); first += inner) {
        IntervalSet tokens;
        for (int rank = first; rank < first + inner; ++rank) tokens.unite(problem.query_layout.shard(rank));
        for (const Range& run : tokens.ranges()) {
          Fragment& fragment = cut.emplace_back();
          fragment.tokens = run, fragment.rank = first + place;
        }
      }
      across.emplace_back(problem, std::move(cut));
    }
  }
  Range ranks_with(int rank) const { return {rank / inner * inner, rank / inner * inner + inner}; }
  const Fragments& fragments_of(int rank) const { return across[static_cast<size_t>(rank % inner)]; }

  int inner;
  std::vector<Fragments> across;  // by place
};
using SharedGroups = std::shared_ptr<const Groups>;

void send_outputs_home(Builder& b, HeadsForTokens& heads, LinearPass& pass) {
  const Value out = b.finish(pass.out), final = b.finish(pass.final);
  pass.out.reset(), pass.final.reset();
  Exchange back = b.exchange();
  const Value home = heads.send_home(back, out, Field::out);
  const Value home_final = b.problem().gives_states() ? heads.send_home(back, final, Field::final_state) : Value();
  back.issue();
  b.result(home);
  b.result(home_final);
}

void open_backward(Builder& b, HeadsForTokens& heads, LinearPass& pass) {
  const Value dout = b.input(Field::dout), dfinal = b.input(Field::dfinal_state);
  Exchange in = b.exchange();
  Value fetched = heads.fetch(in, dout, Field::dout);
  Value fetched_final = b.problem().gives_states() ? heads.fetch(in, dfinal, Field::dfinal_state) : Value();
  in.issue();
  pass.open_backward(std::move(fetched), std::move(fetched_final));
}

// Gradients go home as sums where ranks have heads that share rows of dq and dk, else finished.
void send_gradients_home(Builder& b, HeadsForTokens& heads, LinearPass& pass) {
  const bool sums = !heads.summed().empty();
  const auto rows_of = [&](Value& made, bool as_sums) {
    Value rows = as_sums ? made : b.finish(made);
    made.reset();
    return rows;
  };
  const Value dq = rows_of(pass.dq, sums), dkv = rows_of(pass.dkv, sums), dinitial = rows_of(pass.dinitial, false);
  Exchange back = b.exchange();
  const Value home_dq = heads.send_home(back, dq, Field::dq, sums);
  const Value home_dkv = heads.send_home(back, dkv, b.problem().key_gradients(), sums);
  const Value home_dinitial =
      b.problem().initial_states ? heads.send_home(back, dinitial, Field::dinitial_state) : Value();
  back.issue();
  b.result(sums ? b.finish(home_dq) : home_dq);
  b.result(sums ? b.finish(home_dkv) : home_dkv);
  b.result(home_dinitial);
}

Steps write(SharedGroups groups, Builder& b) {
  HeadsForTokens heads(b, groups->ranks_with(b.rank()));
  const Fragments& across = groups->fragments_of(b.rank());
  HeadsForTokens::Inputs fetched = heads.fetch_inputs();
  std::vector<LocalFragment> own = local_fragments(b, across);
  {
    LinearPass pass(b, fetched.q, fetched.kv, fetched.initial);
    pass.begin_forward(own);
    {
      Doubling doubling(b, across, own, 1, heads.mine());
      doubling.next();
      pass.scan_first(own);  // while the first maps are on their way
      co_yield Step{};
      while (doubling.next()) co_yield Step{};
      doubling.enter();
    }
    pass.scan_rest(own);
    send_outputs_home(b, heads, pass);
    co_yield Step{};
  }
  if (!b.problem().backward) co_return;

  b.begin_backward();
  LinearPass pass(b, std::move(fetched.q), std::move(fetched.kv), std::move(fetched.initial));
  open_backward(b, heads, pass);
  pass.make_dstates(own);
  Doubling doubling(b, across, own, -1, heads.mine());
  doubling.next();
  pass.scan_backward_first(own);
  co_yield Step{};
  while (doubling.next()) co_yield Step{};
  pass.scan_backward_rest(own, doubling.known_states());
  send_gradients_home(b, heads, pass);
  co_yield Step{};
}

// "auto": the largest divisor of the ranks that is at most their square root and the heads.
int inner_of(const Problem& problem, const MethodOptions& options) {
  const int64_t heads = problem.heads;
  const int asked = degree_option("two-dimensional", "inner", problem.ranks(), options);
  if (asked > heads) {
    throw Error(ErrorCode::unsupported, "two-dimensional: " + std::to_string(asked) + " ranks trade " +
                                            std::to_string(heads) + " heads; use at most as many ranks as heads");
  }
  if (asked > 0) return asked;
  int inner = 1;
  for (const int64_t divisor : divisors_of(problem.ranks())) {
    if (divisor * divisor <= problem.ranks() && divisor <= heads) inner = static_cast<int>(divisor);
  }
  return inner;
}

}  // namespace

const Method two_dimensional = {
    .name = "two-dimensional",
    .family = Family::linear,
    .paper = "the grid of USP, Fang and Zhao 2024, arXiv 2405.07719, with a scan for its ring",
    .summary =
        "ranks trade tokens for heads inside groups, and states of these heads go across the groups by log steps",
    .masks = "causal, one document or packed ones",
    .needs = "layouts made of neighbouring tokens (contiguous, zigzag); a number of ranks in a group that divides all",
    .options = {MethodOption::integer("inner", "auto", {.min = 1, .max = 65536},
                                      "ranks that trade heads, a divisor of all, at most the heads", {"auto"})},
    .layout = contiguous_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      const auto groups = std::make_shared<const Groups>(*problem, inner_of(*problem, options));
      return [groups](int /*rank*/, Builder& b) { return write(groups, b); };
    },
};

}  // namespace weft::methods
