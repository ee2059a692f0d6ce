// Two levels: recursive doubling inside every node, then over the nodes with one rank of each, then home.
//
//   8 ranks, nodes of 4
//   inside     every rank learns the joined map of its node's ranks before it                    log2 4 rounds, fast links
//   between    the last rank of each node has the node's map; these scan over the nodes           log2 2 rounds, slow links
//   home       it sends the state that enters its node to the node's other ranks                  1 message each, fast links
//              each rank passes that through the map of the ranks before it
//
// So a node sends one state (and transition) per round over the slow links, where log-step sends one for every rank.
// Backward is the same against the order, the first rank of a node in the role of the last. One document over N nodes of g ranks,
// n bytes of state and m of transition: inside, sum over d = 1, 2, 4 .. < g of N (g-d) n + ((N-1)(g-d) + max(0, g-2d)) m; between,
// that of log-step for N; home, (N-1)(g-1) n. Only what a document reaches travels.
#include "weft/methods/formulas/linear.h"
#include "weft/methods/linear/doubling.h"
#include "weft/methods/methods.h"

namespace weft::methods {
namespace {

// The fragments, and groups of `size` of them; a group's rank is that of its last fragment (forward) or first (backward).
struct Levels {
  Levels(const Problem& problem, int group_size)
      : size(group_size), fragments(problem), down(groups(problem, 1)), up(groups(problem, -1)) {}

  const Fragments& grouped(int towards) const { return towards > 0 ? down : up; }

  int size;
  Fragments fragments;

 private:
  Fragments groups(const Problem& problem, int towards) const {
    std::vector<Fragment> list;
    for (int first = 0; first < fragments.count(); first += size) {
      const int last = std::min(first + size, fragments.count()) - 1;
      Fragment& group = list.emplace_back();
      group.tokens = {fragments[first].tokens.begin, fragments[last].tokens.end};
      group.rank = fragments[towards > 0 ? last : first].rank;
    }
    return Fragments(problem, std::move(list));
  }

  Fragments down, up;
};
using SharedLevels = std::shared_ptr<const Levels>;

// One phase on one rank.
class Scan {
 public:
  Scan(Builder& b, const Levels& levels, std::vector<LocalFragment>& own, int towards)
      : b_(b),
        levels_(levels),
        own_(own),
        towards_(towards),
        inside_(b, levels.fragments, own, towards, levels.size),
        groups_(local_fragments(b, levels.grouped(towards))),
        between_(b, levels.grouped(towards), groups_, towards) {}

  Doubling& inside() { return inside_; }
  Doubling& between() { return between_; }

  // After the rounds inside: the maps of the groups whose sums are on this rank.
  void sum_groups() {
    for (LocalFragment& group : groups_) {
      const int at = own_index(end_of(group.number));
      Doubling::Window sum = inside_.inclusive(static_cast<size_t>(at), levels_.size);
      (towards_ > 0 ? group.state : group.dstate) = std::move(sum.state);
      if (group.crossed) group.transition = std::move(sum.transition);
    }
  }

  // After the rounds between: what enters each own fragment, in forward, or the gradient of what leaves it.
  std::vector<Value> finish() {
    std::vector<Value> known(own_.size());  // of the group of each own fragment
    Exchange exchange = b_.exchange();
    for (size_t g = 0; g < groups_.size(); ++g) {
      for (int f = first_of(groups_[g].number); f < first_of(groups_[g].number) + levels_.size; ++f) {
        if (f >= levels_.fragments.count() || !needs_group(f)) continue;
        const int peer = levels_.fragments[f].rank;
        if (peer == b_.rank()) {
          known[static_cast<size_t>(own_index(f))] = between_.known(g).state;
        } else {
          exchange.send(peer, between_.known(g).state);
        }
      }
    }
    for (size_t i = 0; i < own_.size(); ++i) {
      const Fragment& group = levels_.grouped(towards_)[own_[i].number / levels_.size];
      if (!needs_group(own_[i].number) || group.rank == b_.rank()) continue;
      known[i] = b_.whole(towards_ > 0 ? Field::state : Field::dstate,
                          b_.set(towards_ > 0 ? group.before : group.after), b_.all_heads());
      exchange.receive(group.rank, known[i]);
    }
    exchange.issue();
    for (size_t i = 0; i < own_.size(); ++i) {
      const Doubling::Window& near = inside_.known(i);
      if (known[i].empty()) {
        known[i] = near.state;
      } else if (!near.state.empty()) {
        known[i] = towards_ > 0 ? b_.compose(known[i], near.state, near.transition)
                                : b_.compose(near.state, known[i], near.transition);
      }
    }
    return known;
  }

 private:
  int first_of(int group) const { return group * levels_.size; }
  // The fragment that completes a group's map.
  int end_of(int group) const {
    const int last = std::min(first_of(group) + levels_.size, levels_.fragments.count()) - 1;
    return towards_ > 0 ? last : first_of(group);
  }
  int own_index(int fragment) const {
    const auto at =
        std::find_if(own_.begin(), own_.end(), [&](const LocalFragment& f) { return f.number == fragment; });
    return static_cast<int>(at - own_.begin());
  }
  // Whether a document of the fragment goes on behind its group.
  bool needs_group(int f) const {
    const Fragment &at = levels_.fragments[f], &group = levels_.grouped(towards_)[f / levels_.size];
    if (towards_ > 0) return !at.before.empty() && at.before.begin < group.tokens.begin;
    return !at.after.empty() && at.after.end > group.tokens.end;
  }

  Builder& b_;
  const Levels& levels_;
  std::vector<LocalFragment>& own_;
  const int towards_;
  Doubling inside_;
  std::vector<LocalFragment> groups_;  // whose sums are on this rank
  Doubling between_;
};

Steps write(SharedLevels levels, Builder& b) {
  std::vector<LocalFragment> own = local_fragments(b, levels->fragments);
  {
    LinearPass pass(b);
    pass.begin_forward(own);
    {
      Scan scan(b, *levels, own, 1);
      scan.inside().next();
      pass.scan_first(own);  // while the first maps are on their way
      co_yield Step{};
      while (scan.inside().next()) co_yield Step{};
      scan.sum_groups();
      while (scan.between().next()) co_yield Step{};
      const std::vector<Value> known = scan.finish();
      for (size_t i = 0; i < own.size(); ++i) {
        if (!own[i].before.empty()) own[i].entering = known[i];
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
  Scan scan(b, *levels, own, -1);
  scan.inside().next();
  pass.scan_backward_first(own);
  co_yield Step{};
  while (scan.inside().next()) co_yield Step{};
  scan.sum_groups();
  while (scan.between().next()) co_yield Step{};
  pass.scan_backward_rest(own, scan.finish());
  pass.finish_backward();
  co_yield Step{};
}

}  // namespace

const Method hierarchical = {
    .name = "hierarchical",
    .family = Family::linear,
    .paper = "two levels of recursive doubling",
    .summary =
        "log steps inside nodes, then between nodes with one rank of each: one state a node and round on slow links",
    .masks = "causal, one document or packed ones",
    .needs = "layouts made of neighbouring tokens (contiguous, zigzag); any tokens and ranks",
    .options = {MethodOption::integer("node", "8", {.min = 1, .max = 65536},
                                      "shards in the order of the sequence that make a node")},
    .layout = contiguous_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      const auto levels = std::make_shared<const Levels>(*problem, static_cast<int>(options.integer("node")));
      return [levels](int /*rank*/, Builder& b) { return write(levels, b); };
    },
    .formula = [](const Configuration& c,
                  const MethodOptions& options) { return hierarchical_formula(c, options.integer("node")); },
};

}  // namespace weft::methods
