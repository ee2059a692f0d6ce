// What chain.cc costs: states of blocks of heads go from rank to rank.
#include "weft/methods/formulas/linear_parts.h"
#include "weft/methods/linear/chain_plan.h"

namespace weft::methods {
namespace {

using Value = Ledger::Id;

// A fragment's values by block, and what a plan makes of them.
class ChainWalk {
 public:
  ChainWalk(Ledger& ledger, const LinearShares& shares, const ChainPlan& down, const ChainPlan* up, int rank)
      : ledger_(ledger), shares_(shares), down_(down), up_(up), rank_(rank) {
    const size_t blocks = static_cast<size_t>(down.blocks_of(rank));
    for (std::vector<Value>* ids : {&coming_, &own_, &transitions_, &entered_}) ids->assign(blocks, 0);
  }

  // Bytes that forward keeps.
  int64_t walk() {
    phase(down_, true);
    if (!up_) return 0;
    int64_t kept = 0;
    for (size_t n = 0; n < entered_.size(); ++n) {
      if (!up_->is_ahead(static_cast<int>(n))) ledger_.drop(transitions_[n]);
      kept += (entered_[n] != 0 ? heads(n) * shares_.size.state : 0) +
              (transitions_[n] != 0 ? heads(n) * shares_.size.transition : 0);
    }
    ledger_.begin_phase();
    phase(*up_, false);
    return kept;
  }

 private:
  int64_t heads(size_t n) const {
    const int64_t blocks = static_cast<int64_t>(own_.size()), block = static_cast<int64_t>(n);
    return shares_.size.heads * (block + 1) / blocks - shares_.size.heads * block / blocks;
  }
  bool crossed() const { return rank_ > 0 && rank_ + 1 < shares_.ranks; }
  void phase(const ChainPlan& plan, bool forward);
  void pass(const ChainPlan& plan, size_t n, int lane);

  Ledger& ledger_;
  const LinearShares& shares_;
  const ChainPlan& down_;
  const ChainPlan* const up_;
  const int rank_;
  std::vector<Value> coming_, own_, transitions_, entered_;
};

void ChainWalk::pass(const ChainPlan& plan, size_t n, int lane) {
  const int64_t bytes = heads(n) * shares_.size.state;
  if (crossed() && plan.is_ahead(static_cast<int>(n))) {
    Value joined = ledger_.make(bytes);
    ledger_.use({coming_[n], own_[n], transitions_[n]}, {joined});
    ledger_.exchange(lane, {{joined, bytes}}, {});
    ledger_.drop(joined);
  } else {
    ledger_.exchange(lane, {{own_[n], bytes}}, {});
  }
  ledger_.drop(own_[n]);
  if (!up_) ledger_.drop(transitions_[n]);
}

void ChainWalk::phase(const ChainPlan& plan, bool forward) {
  using Kind = ChainWork::Kind;
  const int direction = forward ? 0 : 2;
  LinearTensors tensors(ledger_, shares_, !forward);
  for (const ChainWork& work : plan.of(rank_)) {
    const size_t n = static_cast<size_t>(work.block);
    const int64_t bytes = heads(n) * shares_.size.state;
    switch (work.kind) {
      case Kind::receive:
        coming_[n] = ledger_.make(bytes);
        ledger_.exchange(direction + (rank_ + 1) % 2, {}, {{coming_[n], bytes}});
        break;
      case Kind::summarise:
        own_[n] = ledger_.make(bytes);
        if (crossed() && transitions_[n] == 0) transitions_[n] = ledger_.make(heads(n) * shares_.size.transition);
        break;
      case Kind::pass: pass(plan, n, direction + rank_ % 2); break;
      case Kind::scan:
        if (plan.leaves(rank_) && !plan.is_ahead(work.block)) own_[n] = ledger_.make(bytes);
        ledger_.attend({coming_[n], entered_[n]}, {own_[n]});
        if (forward && up_) {
          ledger_.move(coming_[n], entered_[n]);
        } else {
          ledger_.drop(entered_[n]), ledger_.drop(coming_[n]);
        }
    }
  }
  tensors.finish();
}

// Rows of the picture: each scan ends one.
int64_t steps_of(const ChainPlan& plan, int64_t ranks) {
  int64_t steps = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    int64_t step = 0;
    for (const ChainWork& work : plan.of(rank)) {
      if (work.kind != ChainWork::Kind::summarise) steps = std::max(steps, step + 1);
      step += work.kind == ChainWork::Kind::scan;
    }
  }
  return steps;
}

}  // namespace

Formula chain_formula(const Configuration& c, int64_t blocks) {
  Formula f;
  const LinearShares shares(c, f);
  if (!f.known()) return f;
  Problem problem = self_attention(Mask::of(shares.rows * shares.ranks, {.causal = true}),
                                   Layout::contiguous(shares.rows * shares.ranks, c.ranks), 1, 1, 1);
  static_cast<AttentionShape&>(problem) = c;
  const Fragments fragments(problem);
  const ChainPlan down(problem, fragments, static_cast<int>(blocks), 1);
  std::optional<ChainPlan> up;
  if (c.backward) up.emplace(problem, fragments, static_cast<int>(blocks), -1);
  f.forward.steps = steps_of(down, shares.ranks);
  if (up) f.backward.steps = steps_of(*up, shares.ranks);
  count_ranks(f, shares.ranks, false, 4 * blocks, [&](Ledger& ledger, int64_t rank) {
    ChainWalk walk(ledger, shares, down, up ? &*up : nullptr, static_cast<int>(rank));
    f.saved_bytes = std::max(f.saved_bytes, walk.walk());
  });
  return f;
}

}  // namespace weft::methods
