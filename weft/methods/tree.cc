// Tree attention: keys stay; queries go down a tree of ranks to them, and partial results merge on their way up.
//
//   8 ranks, fan-in 2: the tree of rank 0's queries                 down: round 2, 1, 0;  up: round 0, 1, 2
//      0 ---- 4 ---- 6 - 7      round 2: 0, 4   round 1: 0, 2 and 4, 6   round 0: 0, 1 and 2, 3 and 4, 5 and 6, 7
//      0 - 2 - 3     4 - 5      other owners have the same tree, begun at themselves, at the same time
//      0 - 1
//
// Only ranks that hold keys an owner's queries see are in its tree, and a rank gets the rows that itself or one below
// it needs. With fan-in F the partial results of F ranks become one in every round, so n ranks take ceil(log_F n) each way;
// F = n sends straight. Made for few queries against many keys, as in cross-attention: with T query tokens a rank, rows sent
// per rank under a full mask are (P-1) T of q and of (out, lse), however many keys there are; backward (P-1) T of (q, dout,
// lse, delta) and of dq, while dk and dv never move. Shyam et al. 2024, arXiv 2408.04093, for decoding: queries on every
// rank and all-reduces, of the maximum and then of weighted sums. Here pairs (out, lse) merge, which takes one reduction,
// and it ends at the owner; backward is weft's.
#include <algorithm>

#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/backward_inputs.h"
#include "weft/methods/passes/travelling.h"

namespace weft::methods {
namespace {

// The trees of all owners, the same on every rank. Member m of a tree gets its rows from m less its lowest digit that is
// not 0, written to the base fan_in, in the round of that digit; it stands for the members m, m + 1, ... up to, not with,
// m + fan_in^round: itself and those below it.
struct Trees {
  int fan_in = 2;
  int rounds = 0;                         // of the deepest tree
  std::vector<std::vector<int>> members;  // by owner: itself, and the ranks after it, cyclically, whose keys it needs

  int64_t span(int round) const {
    int64_t span = 1;
    for (int r = 0; r < round; ++r) span *= fan_in;
    return span;
  }
};

std::shared_ptr<const Trees> make_trees(const Problem& problem, int fan_in) {
  auto trees = std::make_shared<Trees>();
  trees->fan_in = fan_in;
  const int ranks = problem.ranks();
  trees->members.resize(static_cast<size_t>(ranks));
  for (int owner = 0; owner < ranks; ++owner) {
    const IntervalSet& queries = problem.query_layout.shard(owner);
    if (queries.empty()) continue;
    std::vector<int>& members = trees->members[static_cast<size_t>(owner)];
    members.push_back(owner);
    for (int distance = 1; distance < ranks; ++distance) {
      const int rank = (owner + distance) % ranks;
      if (problem.pairs.any(queries, problem.key_layout.shard(rank))) members.push_back(rank);
    }
    while (trees->span(trees->rounds) < static_cast<int64_t>(members.size())) ++trees->rounds;
  }
  return trees;
}

// A rank's place in the tree of one owner.
struct Branch {
  int owner = 0;
  int64_t member = 0;
  int round = 0;  // in which it gets its rows and gives back their sums; of the owner: the number of rounds
  Held held;
  Value sums;
};

// A rank's view of one phase.
class TreePass {
 public:
  TreePass(Builder& builder, std::shared_ptr<const Trees> trees, Travelling moving)
      : b_(builder),
        trees_(std::move(trees)),
        moving_(std::move(moving)),
        combine_(moving_.sums.has(Field::out) ? Combine::merge : Combine::add) {
    const int ranks = b_.problem().ranks();
    for (int owner = 0; owner < ranks; ++owner) {
      const std::vector<int>& members = trees_->members[static_cast<size_t>(owner)];
      const auto distance = [&](int rank) { return (rank - owner + ranks) % ranks; };
      const auto found = std::lower_bound(members.begin(), members.end(), b_.rank(),
                                          [&](int a, int b) { return distance(a) < distance(b); });
      if (found == members.end() || *found != b_.rank()) continue;
      branches_.push_back({owner, found - members.begin(), 0, {}, {}});
      Branch& branch = branches_.back();
      while (branch.round < trees_->rounds && branch.member % trees_->span(branch.round + 1) == 0) ++branch.round;
      if (owner == b_.rank()) branch.held.slices = moving_.own, branch.sums = moving_.home;
    }
  }

  int rounds() const { return trees_->rounds; }

  // Passes rows on to the members below that get them in this round.
  void down(int round) {
    Exchange x = b_.exchange(0);
    for (Branch& branch : branches_) {
      for_each_child(branch, round, [&](int rank, Set rows) { send_rows(x, rank, branch.held.slices, rows); });
      if (branch.round != round) continue;
      branch.held =
          moving_.receive(b_, x, parent(branch), rows_below(branch.owner, branch.member, round), b_.all_heads());
    }
    x.issue();
  }

  // Calls work(queries, sums) for what came in this round; in the first, numbered rounds(), for the own rows.
  template <typename Work>
  void compute(int round, Work&& work) {
    for (Branch& branch : branches_) {
      if (branch.round == round) {
        if (branch.owner != b_.rank()) branch.sums = b_.sums(moving_.sums, branch.held.rows.tokens(), b_.all_heads());
        work(branch.held, branch.sums);
      }
      if (round == 0) branch.held = {};  // nobody below waits for it
    }
  }

  // Gives sums back to where the rows came from.
  void up(int round) {
    Exchange x = b_.exchange(0);
    for (Branch& branch : branches_) {
      for_each_child(branch, round, [&](int rank, Set rows) { x.receive(rank, branch.sums[rows], combine_); });
      if (branch.round == round) x.send(parent(branch), branch.sums);
    }
    x.issue();
    for (Branch& branch : branches_) {
      if (branch.round == round) branch.sums.reset();
    }
  }

 private:
  int rank_of(int owner, int64_t member) const {
    return trees_->members[static_cast<size_t>(owner)][static_cast<size_t>(member)];
  }
  int parent(const Branch& branch) const {
    return rank_of(branch.owner, branch.member - branch.member % trees_->span(branch.round + 1));
  }
  // Rows of the owner that the member or one below it needs, when it gets them in this round.
  Set rows_below(int owner, int64_t member, int round) {
    const std::vector<int>& members = trees_->members[static_cast<size_t>(owner)];
    const auto last = std::min<int64_t>(member + trees_->span(round), static_cast<int64_t>(members.size())) - 1;
    const int ranks = b_.problem().ranks(), first_rank = rank_of(owner, member);
    // Ranks between them that are no members need nothing.
    const int count = (rank_of(owner, last) - first_rank + ranks) % ranks + 1;
    return b_.queries_needed(b_.problem().query_layout.shard(owner),
                             b_.problem().key_layout.shards().cover(first_rank, count));
  }
  // Calls f(rank, rows) for the members that a branch serves in this round.
  template <typename F>
  void for_each_child(const Branch& branch, int round, F&& f) {
    if (branch.round <= round) return;
    const int64_t span = trees_->span(round);
    const auto size = static_cast<int64_t>(trees_->members[static_cast<size_t>(branch.owner)].size());
    for (int64_t j = 1; j < trees_->fan_in && branch.member + j * span < size; ++j) {
      const int64_t child = branch.member + j * span;
      f(rank_of(branch.owner, child), rows_below(branch.owner, child, round));
    }
  }

  Builder& b_;
  std::shared_ptr<const Trees> trees_;
  Travelling moving_;
  Combine combine_;
  std::vector<Branch> branches_;
};

Steps write(std::shared_ptr<const Trees> trees, Builder& b) {
  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value acc = b.partial(q);
  {
    TreePass pass(b, trees, moving_queries(q, acc));
    for (int round = pass.rounds(); round >= 0; --round) {
      if (round > 0) pass.down(round - 1);  // while what came before is worked on
      pass.compute(round, [&](const Held& rows, const Value& sums) { b.attend(rows.slices, kv, sums); });
      co_yield Step{};
    }
    q.reset(), kv.reset();
    for (int round = 0; round < pass.rounds(); ++round) {
      pass.up(round);
      co_yield Step{};
    }
  }
  b.result(b.finish(acc));
  acc.reset();
  if (!b.problem().backward) co_return;

  BackwardInputs in(b);
  in.prepare();
  Value dkv = in.key_sums();
  {
    TreePass pass(b, trees, moving_queries(in.q, in.bundle(), in.dq));
    for (int round = pass.rounds(); round >= 0; --round) {
      if (round > 0) pass.down(round - 1);
      pass.compute(round, [&](const Held& rows, const Value& sums) {
        b.attend_backward(rows.slices[0], in.kv, rows.bundle(), sums, dkv);
      });
      co_yield Step{};
    }
    for (int round = 0; round < pass.rounds(); ++round) {
      pass.up(round);
      co_yield Step{};
    }
  }
  b.result(b.finish(dkv));  // while the last sums travel
  b.result(b.finish(in.dq));
}

}  // namespace

const Method tree = {
    .name = "tree",
    .paper = "Tree Attention, Shyam et al. 2024, arXiv 2408.04093; backward is weft's",
    .summary = "keys stay; queries go down a tree of ranks, partial results merge on the way up: for few queries",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "any tokens, ranks, heads and kv heads; in self-attention memory for all queries that see a rank's keys",
    .options = {MethodOption::integer("fan-in", "2", {.min = 2, .max = 65536},
                                      "partial results that become one in a round; as many as ranks: straight home")},
    .layout = zigzag_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      auto trees = make_trees(*problem, static_cast<int>(options.integer("fan-in")));
      return [trees](int /*rank*/, Builder& b) { return write(trees, b); };
    },
    .formula = [](const Configuration& c,
                  const MethodOptions& options) { return tree_formula(c, options.integer("fan-in")); },
};

}  // namespace weft::methods
