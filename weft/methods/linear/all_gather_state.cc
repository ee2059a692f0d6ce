// One gather of all states: every rank fetches the maps of the ranks before it and folds them into the state that enters.
//
//   forward   summarise the own tokens; send (state, transition) to the later ranks that the document reaches; scan the own
//             tokens meanwhile; fold what came, from the first rank on; add what the folded state changes
//   backward  the same against the order: (gradient of the state, transition) to the earlier ranks
//
// One exchange in each direction, at the price of volume and of a fold on every rank: with n bytes of state and m of
// transition (none where decays are constants), rank r receives r n + (r-1) m bytes of one document, all ranks together send
// P(P-1)/2 n + (P-1)(P-2)/2 m in each phase. (An all-gather, as published, sends to the earlier ranks too, who have no use
// for it.) The transition of a fragment in which its document begins is 0 and is not sent.
//
// LASP-2, Sun, Lan, Zhong, Qu, Cheng 2025, arXiv 2502.07563, whose formulas have no decay; with decays it is the context
// parallelism of flash-linear-attention. The code released with the paper leaves out the own block or the causal mask,
// depending on the operator; here the schedule is proved.
#include <algorithm>

#include "weft/methods/formulas/linear.h"
#include "weft/methods/linear/both_ways.h"
#include "weft/methods/methods.h"

namespace weft::methods {
namespace {

// What all ranks name again and again: the tokens of what each fragment sends in a phase.
struct GatherPlan {
  explicit GatherPlan(SharedFragments all) : fragments(std::move(all)) {
    for (int n = 0; n < fragments->count(); ++n) {
      tails.emplace_back((*fragments)[n].tail);
      heads.emplace_back((*fragments)[n].head);
    }
  }
  const SharedFragments fragments;
  std::vector<NamedSet> tails, heads;
};

// One phase's gather on one rank: towards = 1 takes from the fragments before its own, -1 from those after.
class Gather {
 public:
  Gather(Builder& b, const GatherPlan& plan, int towards)
      : b_(b), all_(*plan.fragments), sets_(towards > 0 ? plan.tails : plan.heads), towards_(towards) {}

  // Fetches the maps of the fragments on that side, and sends those of `own` to whom they concern.
  void exchange(const std::vector<LocalFragment>& own) {
    Exchange exchange = b_.exchange();
    for (const LocalFragment& f : own) {
      for (const int peer : ranks_of(takers(f.number))) {
        exchange.send(peer, towards_ > 0 ? f.state : f.dstate);
        exchange.send(peer, f.transition);
      }
    }
    // Of two fragments of a document one needs all that the other does: that one first.
    for (size_t n = 0; n < own.size(); ++n) make_room(own[towards_ > 0 ? own.size() - 1 - n : n]);
    if (towards_ > 0) std::reverse(maps_.begin(), maps_.end());
    for (const Maps& maps : maps_) receive(maps, exchange);
    exchange.issue();
  }

  // The state that enters a fragment, or the gradient of the one that leaves it: all maps on that side joined, nearest last.
  Value fold(const LocalFragment& to) {
    const Set run = run_of(to);
    if (run.empty()) return {};
    const Maps& maps = *of(run);
    if (maps.run == run && maps.fragments.size() == 1) return maps.states;
    return b_.compose_pieces(maps.states[run], maps.transitions[run - piece(farthest(to.number))]);
  }

 private:
  // The maps of a run that a document has on one side of a fragment: one, or in pieces.
  struct Maps {
    Set run;
    Range fragments;
    int farthest;
    Value states, transitions;  // those of all but the farthest fragment, where they are needed
  };

  Set run_of(const LocalFragment& f) const { return towards_ > 0 ? f.before : f.after; }
  Set piece(int fragment) { return b_.set(sets_[static_cast<size_t>(fragment)]); }
  Range givers(int f) const { return towards_ > 0 ? Range{all_[f].first, f} : Range{f + 1, all_[f].end}; }
  Range takers(int f) const { return towards_ > 0 ? Range{f + 1, all_[f].end} : Range{all_[f].first, f}; }
  int farthest(int f) const { return static_cast<int>(towards_ > 0 ? givers(f).begin : givers(f).end - 1); }
  std::vector<Maps>::const_iterator of(Set run) const {
    return std::find_if(maps_.begin(), maps_.end(), [&](const Maps& maps) { return (run - maps.run).empty(); });
  }

  void make_room(const LocalFragment& to) {
    const Set run = run_of(to);
    if (run.empty() || of(run) != maps_.end()) return;
    const Field field = towards_ > 0 ? Field::state : Field::dstate;
    Maps& maps = maps_.emplace_back(Maps{run, givers(to.number), farthest(to.number), {}, {}});
    const bool one = maps.fragments.size() == 1;
    maps.states = one ? b_.whole(field, run, b_.all_heads()) : b_.pieces(field, run, b_.all_heads());
    if (has_transition(b_.problem().layer))
      maps.transitions = b_.pieces(Field::transition, run - piece(maps.farthest), b_.all_heads());
  }
  void receive(const Maps& maps, Exchange& exchange) {
    for (int n = static_cast<int>(maps.fragments.begin); n < maps.fragments.end; ++n) {
      const Set tokens = piece(n);
      exchange.receive(all_[n].rank, maps.states[tokens]);
      if (n != maps.farthest) exchange.receive(all_[n].rank, maps.transitions[tokens]);
    }
  }
  // The ranks of some fragments, each once: this one too.
  std::vector<int> ranks_of(Range fragments) const {
    std::vector<int> ranks;
    for (int64_t n = fragments.begin; n < fragments.end; ++n) ranks.push_back(all_[static_cast<int>(n)].rank);
    if (!std::is_sorted(ranks.begin(), ranks.end())) std::sort(ranks.begin(), ranks.end());
    ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
    return ranks;
  }

  Builder& b_;
  const Fragments& all_;
  const std::vector<NamedSet>& sets_;
  const int towards_;
  std::vector<Maps> maps_;
};

Steps write_gather(std::shared_ptr<const GatherPlan> plan, Builder& b) {
  std::vector<LocalFragment> own = local_fragments(b, *plan->fragments);
  {
    LinearPass pass(b);
    pass.begin_forward(own);
    {
      Gather gather(b, *plan, 1);
      gather.exchange(own);
      pass.scan_first(own);
      for (LocalFragment& f : own) f.entering = gather.fold(f);
    }
    pass.scan_rest(own);
    pass.finish_forward();
    co_yield Step{};
  }
  if (!b.problem().backward) co_return;

  b.begin_backward();
  LinearPass pass(b);
  pass.begin_backward(own);
  Gather gather(b, *plan, -1);
  gather.exchange(own);
  pass.scan_backward_first(own);
  std::vector<Value> dstates;
  for (const LocalFragment& f : own) dstates.push_back(gather.fold(f));
  pass.scan_backward_rest(own, dstates);
  pass.finish_backward();
  co_yield Step{};
}

}  // namespace

const Method all_gather_state = {
    .name = "all-gather-state",
    .family = Family::linear,
    .paper = "LASP-2, Sun, Lan, Zhong, Qu, Cheng 2025, arXiv 2502.07563",
    .summary = "every rank fetches the states of the ranks before it in one exchange, and folds them",
    .masks = "causal, of layer linear full; one document or packed ones",
    .needs =
        "layouts made of neighbouring tokens (contiguous, zigzag); any tokens and ranks; memory for a state of each "
        "rank",
    .options = {},
    .layout = contiguous_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions&) -> Writer {
      const SharedFragments fragments = make_fragments(*problem);
      if (problem->bidirectional())
        return [fragments](int /*rank*/, Builder& b) { return write_both_ways(fragments, Sum::gathered, b); };
      const auto plan = std::make_shared<const GatherPlan>(fragments);
      return [plan](int /*rank*/, Builder& b) { return write_gather(plan, b); };
    },
    .formula = [](const Configuration& c, const MethodOptions&) { return gather_state_formula(c); },
    .both_ways = true,
};

}  // namespace weft::methods
