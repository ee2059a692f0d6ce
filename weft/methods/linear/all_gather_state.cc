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
#include <numeric>

#include "weft/methods/formulas/linear.h"
#include "weft/methods/linear/both_ways.h"
#include "weft/methods/methods.h"

namespace weft::methods {
namespace {

// What other ranks need of a fragment: its state or dstate, and its transition where that is passed on its way.
struct Map {
  int fragment = 0;
  Value state, transition;
};

// One phase's gather on one rank: towards = 1 takes from the fragments before its own, -1 from those after.
class Gather {
 public:
  Gather(Builder& b, const Fragments& all, int towards) : b_(b), all_(all), towards_(towards) {}

  // Fetches the maps of other ranks, and sends them those of `own`.
  void exchange(const std::vector<LocalFragment>& own) {
    Exchange exchange = b_.exchange();
    std::vector<int> needed;
    for (const LocalFragment& f : own) {
      for (const int peer : ranks_of(takers(f.number))) {
        exchange.send(peer, towards_ > 0 ? f.state : f.dstate);
        exchange.send(peer, f.transition);
      }
      const std::vector<int> sources = others(givers(f.number));
      needed.insert(needed.end(), sources.begin(), sources.end());
    }
    std::sort(needed.begin(), needed.end());
    needed.erase(std::unique(needed.begin(), needed.end()), needed.end());
    for (const int fragment : needed) {
      const Fragment& f = all_[fragment];
      Map map{fragment, {}, {}};
      map.state =
          b_.whole(towards_ > 0 ? Field::state : Field::dstate, b_.set(towards_ > 0 ? f.tail : f.head), b_.all_heads());
      if (f.crossed() && has_transition(b_.problem().layer)) {
        map.transition = b_.whole(Field::transition, b_.set(f.tokens), b_.all_heads());
      }
      exchange.receive(f.rank, map.state);
      exchange.receive(f.rank, map.transition);
      maps_.push_back(std::move(map));
    }
    exchange.issue();
  }

  // The state that enters a fragment, or the gradient of the one that leaves it: all maps on that side, nearest last.
  Value fold(const LocalFragment& to, const std::vector<LocalFragment>& own) {
    Value folded;
    std::vector<int> order = givers(to.number);
    if (towards_ < 0) std::reverse(order.begin(), order.end());
    for (const int fragment : order) {
      const Map map = find(fragment, own);
      if (folded.empty()) {
        folded = map.state;
      } else if (towards_ > 0) {
        folded = b_.compose(folded, map.state, map.transition);
      } else {
        folded = b_.compose(map.state, folded, map.transition);
      }
    }
    return folded;
  }

 private:
  std::vector<int> numbers(int begin, int end) const {
    std::vector<int> list(static_cast<size_t>(std::max(0, end - begin)));
    std::iota(list.begin(), list.end(), begin);
    return list;
  }
  std::vector<int> earlier(int f) const { return numbers(all_[f].first, f); }
  std::vector<int> later(int f) const { return numbers(f + 1, all_[f].end); }
  std::vector<int> givers(int f) const { return towards_ > 0 ? earlier(f) : later(f); }
  std::vector<int> takers(int f) const { return towards_ > 0 ? later(f) : earlier(f); }
  std::vector<int> others(std::vector<int> fragments) const {
    std::erase_if(fragments, [&](int f) { return all_[f].rank == b_.rank(); });
    return fragments;
  }
  // The other ranks among the owners of these fragments, each once.
  std::vector<int> ranks_of(const std::vector<int>& fragments) const {
    std::vector<int> ranks;
    for (const int f : others(fragments)) ranks.push_back(all_[f].rank);
    std::sort(ranks.begin(), ranks.end());
    ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
    return ranks;
  }
  Map find(int fragment, const std::vector<LocalFragment>& own) const {
    for (const LocalFragment& f : own) {
      if (f.number == fragment) return {fragment, towards_ > 0 ? f.state : f.dstate, f.transition};
    }
    const auto at = std::lower_bound(maps_.begin(), maps_.end(), fragment,
                                     [](const Map& map, int number) { return map.fragment < number; });
    return *at;
  }

  Builder& b_;
  const Fragments& all_;
  const int towards_;
  std::vector<Map> maps_;  // of other ranks, by fragment
};

Steps write_gather(SharedFragments fragments, Builder& b) {
  std::vector<LocalFragment> own = local_fragments(b, *fragments);
  {
    LinearPass pass(b);
    pass.begin_forward(own);
    {
      Gather gather(b, *fragments, 1);
      gather.exchange(own);
      pass.scan_first(own);
      for (LocalFragment& f : own) {
        if (!f.before.empty()) f.entering = gather.fold(f, own);
      }
    }
    pass.scan_rest(own);
    pass.finish_forward();
    co_yield Step{};
  }
  if (!b.problem().backward) co_return;

  b.begin_backward();
  LinearPass pass(b);
  pass.begin_backward(own);
  Gather gather(b, *fragments, -1);
  gather.exchange(own);
  pass.scan_backward_first(own);
  std::vector<Value> dstates;
  for (const LocalFragment& f : own) dstates.push_back(gather.fold(f, own));
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
      return [fragments](int /*rank*/, Builder& b) { return write_gather(fragments, b); };
    },
    .formula = [](const Configuration& c, const MethodOptions&) { return gather_state_formula(c); },
    .both_ways = true,
};

}  // namespace weft::methods
