// TASP: as many rings at once as there are links, each carrying a piece of every key-value block.
//
//   5 ranks, 4 rings that together use each of the 20 links once; piece i of every block goes round ring i
//   ring 0   0 1 2 3 4       what rank 0 holds    ring 0  ring 1  ring 2  ring 3
//   ring 1   0 4 3 2 1       step 0                 0       0       0       0
//   ring 2   0 2 4 1 3       step 1                 4       1       3       2
//   ring 3   0 3 1 4 2       step 2                 3       2       1       4
//                            step 3                 2       3       4       1
//                            step 4                 1       4       2       3
//
// A ring uses one link out of each rank; here a step moves the same bytes over all of them. Over nodes every ring follows
// a path through one node after the other, so a rank sends one piece out of its node and the others inside. Each piece
// has a part of every run of its shard, so on zigzag shards all pieces cost the same under a causal mask. Wang et al.
// 2025, arXiv 2509.26541, whose code is forward only and refuses causal masks over nodes. In backward the keys go round
// again and their gradients follow one step behind on the same ring until they are home, so that nothing leaves its
// links; what no later rank of a ring needs is not sent on. With S tokens and P ranks, rows sent per rank under a full
// mask: forward (P-1)/P * S of (k, v), backward as many of (k, v) and of (dk, dv); over each link 1/rings of it.
#include <algorithm>
#include <string>

#include "weft/base/error.h"
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/backward_inputs.h"
#include "weft/methods/passes/degrees.h"
#include "weft/methods/passes/multi_ring.h"

namespace weft::methods {
namespace {

constexpr int kKeysLane = 0, kSumsLane = 1;
constexpr Fields kKeys = Field::k | Field::v, kSums = Field::dk | Field::dv;
// Every rank trades a message per ring in each of as many steps as there are ranks: beyond this size more than a few rings
// are refused. Ranks of one node beyond it have no link each to each; there a ring and its reverse are chosen.
constexpr int kLargestNode = 64, kMostBeyond = 16, kChosenBeyond = 2;

struct Plan {
  MultiRing rings;
  // Whether the pieces that a rank holds in a step lie in one value, which makes one call of a kernel, or in one each. One
  // value has another set of rows for nearly every rank and step: with many ranks those are too many to prove.
  bool joined;
};

enum class Phase { forward, backward };

// A rank's view of one phase. In every step: trade, compute on block() into targets(), settle.
class MultiRingPass {
 public:
  // `home` is where the sums of the own keys end. Both are empty on a rank without keys, which still passes on what
  // others have.
  MultiRingPass(Builder& b, const Plan& plan, Phase phase, const Value& own, const Value& home);

  int steps() const { return rings_.ranks(); }
  // Passes keys and sums on. One more call than there are steps brings the last sums home.
  void trade(int t);
  // The pieces held in this step, and in backward where the sums of their rows go.
  const std::vector<Slice>& block() const { return block_; }
  const std::vector<Slice>& targets() const { return targets_; }
  // Keys that have been worked on go, sums are made up.
  void settle();

 private:
  // Pieces in one value.
  struct Group {
    int first_ring = 0, rings = 0;
    Value keys, next_keys;  // of this step and of the next
    Value sums, part;       // sums of the keys of this step, and what this rank adds to them
    Value sent;             // sums of the step before
  };
  // A ring as this rank sees it.
  struct Ring {
    int next, previous;  // ranks
    int place;           // of this rank
    size_t group;
    Set sums;  // rows of the piece of this step that have sums
  };

  static size_t at(int i) { return static_cast<size_t>(i); }
  int next_rank(int i) const { return ring_[at(i)].next; }
  int previous_rank(int i) const { return ring_[at(i)].previous; }
  // On the ring; of the piece that comes round to this rank in step t.
  int place_of_owner(int i, int t) const { return rings_.place_after(ring_[at(i)].place, -t); }
  // Of that piece: what is needed by the ranks `distance` and more places behind its owner, and by those up to there.
  Set ahead(int i, int t, int distance) { return b_.set(rings_.ahead(i, place_of_owner(i, t), distance)); }
  Set so_far(int i, int t, int distance) { return b_.set(rings_.so_far(i, place_of_owner(i, t), distance)); }
  Group& group_of(int i) { return groups_[ring_[at(i)].group]; }
  // The union of rows(ring) over the rings of a group.
  template <typename Rows>
  Set join(const Group& group, Rows&& rows);
  void pass_keys(int t);
  void pass_sums(int t);
  void bring_sums_home();
  void choose_block(int t);

  Builder& b_;
  const MultiRing& rings_;
  bool backward_;
  Value own_, home_;
  std::vector<int> to_, from_;  // rings by the rank that I send to, that sends to me
  std::vector<Ring> ring_;
  std::vector<Group> groups_;
  bool unanswered_ = false;  // sums were sent, and none arrived
  std::vector<Slice> block_, targets_;
  IntervalSet scratch_;
};

MultiRingPass::MultiRingPass(Builder& b, const Plan& plan, Phase phase, const Value& own, const Value& home)
    : b_(b), rings_(plan.rings), backward_(phase == Phase::backward), own_(own), home_(home) {
  const int joined = plan.joined ? rings_.rings() : 1;
  groups_.resize(at(rings_.rings() / joined));
  for (size_t k = 0; k < groups_.size(); ++k) {
    groups_[k].first_ring = static_cast<int>(k) * joined;
    groups_[k].rings = joined;
  }
  for (int i = 0; i < rings_.rings(); ++i) {
    const int place = rings_.place_of(i, b.rank());
    ring_.push_back({.next = rings_.rank_at(i, rings_.place_after(place, 1)),
                     .previous = rings_.rank_at(i, rings_.place_after(place, -1)),
                     .place = place,
                     .group = at(i / joined),
                     .sums = {}});
    to_.push_back(i);
  }
  from_ = to_;
  // Parts in the order of their peers, which is the same in every step.
  std::sort(to_.begin(), to_.end(), [&](int i, int j) { return next_rank(i) < next_rank(j); });
  std::sort(from_.begin(), from_.end(), [&](int i, int j) { return previous_rank(i) < previous_rank(j); });
}

template <typename Rows>
Set MultiRingPass::join(const Group& group, Rows&& rows) {
  if (group.rings == 1) return rows(group.first_ring);
  scratch_.clear();
  for (int i = 0; i < group.rings; ++i) scratch_.unite(rows(group.first_ring + i).intervals());
  return b_.set(scratch_);
}

// Keys of step t go to the next ranks while those of step t + 1 arrive.
void MultiRingPass::pass_keys(int t) {
  if (t + 1 == steps()) return;
  for (Group& group : groups_) {
    group.next_keys = b_.whole(kKeys, join(group, [&](int i) { return ahead(i, t + 1, t + 1); }), b_.all_kv_heads());
  }
  Exchange x = b_.exchange(kKeysLane);
  for (int i : from_) x.receive(previous_rank(i), group_of(i).next_keys[ahead(i, t + 1, t + 1)]);
  for (int i : to_) {
    const Value& current = t == 0 ? own_ : group_of(i).keys;
    x.send(next_rank(i), current[ahead(i, t, t + 1)]);
  }
  x.issue();
}

// Sums of the pieces of step t - 1, complete as far as this rank goes, follow them; those of step t arrive.
void MultiRingPass::pass_sums(int t) {
  // Where nothing arrives nothing waits, and all that was sent would be held to the end. It had a whole step to leave.
  if (unanswered_) b_.wait(kSumsLane);
  unanswered_ = true;
  for (Group& group : groups_) {
    group.sent = std::move(group.sums);
    if (join(group, [&](int i) { return so_far(i, t, t - 1); }).empty()) continue;  // this rank is the first
    group.sums = b_.sums(kSums, join(group, [&](int i) { return so_far(i, t, t); }), b_.all_kv_heads());
    unanswered_ = false;
  }
  Exchange x = b_.exchange(kSumsLane);
  for (int i : to_) x.send(next_rank(i), group_of(i).sent[ring_[at(i)].sums]);
  for (int i : from_) x.receive(previous_rank(i), group_of(i).sums[so_far(i, t, t - 1)]);
  x.issue();
  for (Group& group : groups_) group.sent.reset();
}

void MultiRingPass::bring_sums_home() {
  Exchange x = b_.exchange(kSumsLane);
  for (int i : to_) x.send(next_rank(i), group_of(i).sums[ring_[at(i)].sums]);
  for (int i : from_) x.receive(previous_rank(i), home_[so_far(i, 0, steps() - 1)], Combine::add);
  x.issue();
  for (Group& group : groups_) group.sums.reset();
}

void MultiRingPass::trade(int t) {
  if (t == steps()) return bring_sums_home();
  pass_keys(t);
  if (backward_ && t > 1) pass_sums(t);
  choose_block(t);
}

void MultiRingPass::choose_block(int t) {
  block_.clear();
  targets_.clear();
  if (t == 0) {
    block_ = {own_};
    targets_ = {home_};
    return;
  }
  if (!backward_) {
    for (const Group& group : groups_) block_.push_back(group.keys);
    return;
  }
  for (Group& group : groups_) {
    // Sums that are still arriving are not computed into.
    const Set mine = join(group, [&](int i) { return b_.set(rings_.needed_by(i, place_of_owner(i, t), b_.rank())); });
    group.part = b_.sums(kSums, mine, b_.all_kv_heads());
    block_.push_back(group.keys[mine]);
    targets_.push_back(group.part);
  }
  for (int i = 0; i < rings_.rings(); ++i) ring_[at(i)].sums = so_far(i, t, t);
}

void MultiRingPass::settle() {
  for (Group& group : groups_) {
    if (group.sums.empty()) {
      group.sums = std::move(group.part);
    } else {
      b_.add(group.sums[group.part.tokens()], group.part);
    }
    group.part.reset();
    group.keys = std::move(group.next_keys);
    group.next_keys.reset();
  }
}

Steps write(std::shared_ptr<const Plan> plan, Builder& b) {
  Value q = b.input(Field::q), kv = b.input(kKeys);
  Value acc = b.partial(q);
  {
    MultiRingPass pass(b, *plan, Phase::forward, kv, {});
    for (int t = 0; t < pass.steps(); ++t) {
      pass.trade(t);
      b.attend(q, pass.block(), acc);
      pass.settle();
      co_yield Step{};
    }
  }
  b.result(b.finish(acc));
  acc.reset(), q.reset(), kv.reset();
  if (!b.problem().backward) co_return;

  BackwardInputs in(b);
  in.prepare();
  Value dkv = in.key_sums();
  const std::vector<Slice> bundle = in.bundle();
  MultiRingPass pass(b, *plan, Phase::backward, in.kv, dkv);
  for (int t = 0; t < pass.steps(); ++t) {
    pass.trade(t);
    b.attend_backward(in.q, pass.block(), bundle, in.dq, pass.targets());
    pass.settle();
    co_yield Step{};
  }
  pass.trade(pass.steps());
  b.result(b.finish(in.dq));  // while the last sums travel
  co_yield Step{};
  b.result(b.finish(dkv));
}

// The number of rings: as given, or as many as share no link in a node.
int rings_of(int ranks, int nodes, const MethodOptions& options) {
  const int most = most_rings(nodes, ranks / nodes),
            allowed = ranks > kLargestNode ? std::min(most, kMostBeyond) : most;
  if (options.is("rings", "auto")) return nodes == 1 && ranks > kLargestNode ? kChosenBeyond : allowed;
  const int given = static_cast<int>(options.integer("rings"));
  if (given <= allowed) return given;
  const std::string where = std::to_string(ranks) + (ranks == 1 ? " rank" : " ranks") +
                            (nodes > 1 ? " on " + std::to_string(nodes) + " nodes" : "");
  const std::string reason =
      given > most ? "at most " + std::to_string(most) + " that share no link are known for " + where
                   : "above " + std::to_string(kLargestNode) + " ranks at most " + std::to_string(kMostBeyond) +
                         ", since every rank trades a message per ring in each of " + std::to_string(ranks) + " steps";
  throw Error(ErrorCode::unsupported, "tasp: rings " + std::to_string(given) + ": " + reason + "; use 1" +
                                          (allowed > 1 ? " to " + std::to_string(allowed) : "") +
                                          ", or all-gather with chunks " + std::to_string(given) +
                                          ", which loads the links of one node as evenly");
}

}  // namespace

const Method tasp = {
    .name = "tasp",
    .paper = "TASP, Wang et al. 2025, arXiv 2509.26541; backward is weft's",
    .summary = "pieces of key-value blocks go round many rings at once that share no link, in a node and over nodes",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "nodes that divide the ranks; any tokens, heads and kv heads; above 64 ranks at most 16 rings",
    .options = {MethodOption::integer("nodes", "1", {.min = 1, .max = 65536},
                                      "groups of ranks, a divisor of all; rings pass through one after the other"),
                MethodOption::integer(
                    "rings", "auto", {.min = 1, .max = kLargestNode - 1},
                    "pieces of a block, each on a ring of its own; auto: as many as share no link in a node",
                    {"auto"})},
    .layout = zigzag_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      const int ranks = problem->ranks(), nodes = degree_option("tasp", "nodes", ranks, options);
      const int count = rings_of(ranks, nodes, options);
      auto plan = std::make_shared<const Plan>(
          Plan{MultiRing(*problem, rings_over_nodes(nodes, ranks / nodes, count)), ranks <= kLargestNode});
      return [plan](int /*rank*/, Builder& b) { return write(plan, b); };
    },
    .formula =
        [](const Configuration& c, const MethodOptions& options) {
          const int nodes = degree_option("tasp", "nodes", c.ranks, options);
          return tasp_formula(c, nodes, rings_of(c.ranks, nodes, options), c.ranks <= kLargestNode);
        },
};

}  // namespace weft::methods
