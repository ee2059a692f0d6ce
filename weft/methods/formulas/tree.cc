// What tree.cc costs: rows of queries go down a tree from each owner, their sums come up.
#include <vector>

#include "weft/methods/formulas/formulas.h"
#include "weft/methods/formulas/ledger.h"

namespace weft::methods {
namespace {

// Bytes of a row that goes down, of its sums, of those on the way and packed for it.
struct MovingBytes {
  int64_t block, sums, sent, packed;
};

// TreeShapes as tree.cc grows them: member 0 is the owner; ranks after it follow, then those before it, where their keys are
// seen.
class TreeShapes {
 public:
  TreeShapes(int64_t ranks, Needed queries, int64_t fan_in) : ranks_(ranks), queries_(queries) {
    int64_t most = 1;
    for (int64_t owner : {int64_t{0}, ranks - 1}) most = std::max(most, size(owner));
    for (int64_t span = 1;; span *= fan_in) {
      spans_.push_back(span);
      if (span >= most) break;
    }
    fan_in_ = fan_in;
  }

  int rounds() const { return static_cast<int>(spans_.size()) - 1; }
  int64_t fan_in() const { return fan_in_; }
  int64_t ranks() const { return ranks_; }
  int64_t span(int round) const { return spans_[static_cast<size_t>(round)]; }
  int64_t size(int64_t owner) const { return 1 + after(owner) + (queries_.by_before > 0 ? owner : 0); }
  // Of a rank in the tree of an owner; -1 where it is none.
  int64_t member(int64_t owner, int64_t rank) const {
    if (rank == owner) return 0;
    if (queries_.by(rank, owner) == 0) return -1;
    return rank > owner ? rank - owner : after(owner) + 1 + rank;
  }
  int64_t rank(int64_t owner, int64_t member) const {
    return member <= after(owner) ? owner + member : member - after(owner) - 1;
  }
  // The round in which a member gets its rows.
  int round(int64_t member) const {
    int round = 0;
    while (round < rounds() && member % span(round + 1) == 0) ++round;
    return round;
  }
  int64_t parent(int64_t member, int round) const { return member - member % span(round + 1); }
  // Rows of the owner that the member or one below it needs, when it gets them in this round.
  int64_t rows(int64_t owner, int64_t member, int round) const {
    const int64_t last = std::min(member + span(round), size(owner)) - 1;
    return std::max(member <= after(owner) ? queries_.by_after : 0, last > after(owner) ? queries_.by_before : 0);
  }

 private:
  int64_t after(int64_t owner) const { return queries_.by_after > 0 ? ranks_ - 1 - owner : 0; }

  int64_t ranks_, fan_in_ = 2;
  Needed queries_;
  std::vector<int64_t> spans_;  // fan_in^round
};

// One phase of a rank.
class TreeRank {
 public:
  using Id = Ledger::Id;

  TreeRank(const TreeShapes& trees, const MovingBytes& moving, int64_t rank, Ledger& ledger, Id own, Id home)
      : trees_(trees), moving_(moving), ledger_(ledger), messages_(static_cast<size_t>(trees.ranks())) {
    for (int64_t owner = 0; owner < trees.ranks(); ++owner) {
      const int64_t member = trees.member(owner, rank);
      if (member < 0) continue;
      const int round = trees.round(member);
      branches_.push_back({owner, member, round, owner == rank, member == 0 ? 0 : trees.rows(owner, member, round),
                           owner == rank ? own : 0, owner == rank ? home : 0});
    }
  }

  void down_and_compute() {
    for (int round = trees_.rounds(); round >= 0; --round) {
      if (round > 0) down(round - 1);
      for (Branch& branch : branches_) {
        if (branch.round == round) {
          if (!branch.mine) branch.sums = ledger_.make(branch.rows * moving_.sums);
          ledger_.attend({branch.held}, {branch.sums});
        }
        if (round == 0 && !branch.mine) ledger_.drop(branch.held);
      }
    }
  }
  void up() {
    for (int round = 0; round < trees_.rounds(); ++round) up(round);
  }

 private:
  struct Branch {
    int64_t owner, member;
    int round;
    bool mine;
    int64_t rows;
    Id held, sums;
  };

  void down(int round) {
    begin();
    for (Branch& branch : branches_) {
      for_each_child(branch, round, [&](int64_t rank, int64_t rows) {
        send(rank, {branch.held, rows * moving_.block});
      });
      if (branch.round != round) continue;
      branch.held = ledger_.make(branch.rows * moving_.block);
      in_.push_back({branch.held, branch.rows * moving_.block});
    }
    ledger_.exchange(0, out_, in_);
  }
  void up(int round) {
    begin();
    for (Branch& branch : branches_) {
      for_each_child(branch, round, [&](int64_t, int64_t rows) {
        in_.push_back({branch.sums, rows * moving_.sent, rows * moving_.sent});
      });
      if (branch.round != round) continue;
      send(trees_.rank(branch.owner, trees_.parent(branch.member, round)),
           {branch.sums, branch.rows * moving_.sent, branch.rows * moving_.packed});
    }
    ledger_.exchange(0, out_, in_);
    for (Branch& branch : branches_) {
      if (branch.round == round) ledger_.drop(branch.sums);
    }
  }

  void begin() {
    out_.clear(), in_.clear();
    ++exchange_;
  }
  // Rows of several owners to one rank are one message.
  void send(int64_t rank, Ledger::Out part) {
    part.messages = std::exchange(messages_[static_cast<size_t>(rank)], exchange_) != exchange_;
    out_.push_back(part);
  }
  template <typename F>
  void for_each_child(const Branch& branch, int round, F&& f) const {
    if (branch.round <= round) return;
    const int64_t span = trees_.span(round), size = trees_.size(branch.owner);
    for (int64_t j = 1; j < trees_.fan_in() && branch.member + j * span < size; ++j) {
      const int64_t child = branch.member + j * span;
      f(trees_.rank(branch.owner, child), trees_.rows(branch.owner, child, round));
    }
  }

  const TreeShapes& trees_;
  const MovingBytes& moving_;
  Ledger& ledger_;
  std::vector<int> messages_;  // by rank: the last exchange with one
  int exchange_ = 0;
  std::vector<Branch> branches_;
  std::vector<Ledger::Out> out_;
  std::vector<Ledger::In> in_;
};

}  // namespace

Formula tree_formula(const Configuration& c, int64_t fan_in) {
  Formula f;
  const Shares shares = share_rows(c, "zigzag", f);
  if (!f.known()) return f;
  const int64_t rows = shares.rows;
  const RowBytes row(c);
  const TreeShapes trees(c.ranks, shares.queries, std::min<int64_t>(fan_in, std::max(c.ranks, 2)));
  f.forward.steps = 2 * trees.rounds() + 1;
  f.forward.work = shares.work;  // seen from the other end, the pairs of a rank's keys are those of its queries
  if (c.backward) f.backward.steps = f.forward.steps, f.backward.work = shares.work;

  const MovingBytes forward{row.q, row.partial, row.sent_partial, row.packed_partial};
  const MovingBytes backward{row.bundle, row.dq, row.sent_dq, row.packed_dq};
  const auto walk = [&](Ledger& ledger, int64_t rank) {
    Ledger::Id q = ledger.make(rows * row.q), kv = ledger.make(rows * row.kv), acc = ledger.make(rows * row.partial);
    TreeRank down(trees, forward, rank, ledger, q, acc);
    down.down_and_compute();
    ledger.drop(q), ledger.drop(kv);
    down.up();
    const auto finish = [&](Ledger::Id sums, int64_t bytes) {
      Ledger::Id done = ledger.make(rows * bytes);
      ledger.use({sums}, {});
      ledger.drop(done);
    };
    finish(acc, row.out);
    ledger.drop(acc);
    if (!c.backward) return;
    ledger.begin_phase();
    const Ledger::Id inputs = ledger.make(rows * (row.backward_inputs() - row.dq));
    const Ledger::Id dq = ledger.make(rows * row.dq), dkv = ledger.make(rows * row.dkv);
    TreeRank gradients(trees, backward, rank, ledger, inputs, dq);
    gradients.down_and_compute();
    gradients.up();
    finish(dkv, row.dkv_done);
    finish(dq, row.dq_done);
  };
  // A rank works on owners in their order, which is another one from every rank.
  count_ranks(f, c.ranks, false, c.ranks * (trees.rounds() + 1) / 4, walk);  // most are not in its branches
  return f;
}

}  // namespace weft::methods
