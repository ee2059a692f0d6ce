// Where one rank makes the plan of a sequence and all ranks of the process take it.
//
//   PlanBoard board(factory, group);
//   std::shared_ptr<SequencePlan> plan = board.take(rank, i, shape);   // every rank
//   board.abort();                                                 // any thread
#pragma once

#include <array>
#include <memory>
#include <mutex>

#include "weft/train/sequence_plan.h"
#include "weft/transport/rank_group.h"

namespace weft {

class PlanBoard {
 public:
  PlanBoard(const PlanFactory& factory, RankGroup& group) : factory_(factory), group_(group) {}

  // The first rank of each process calls the factory, all wait for it. `shape` is read on that rank only; `sequence` is 0, 1, 2,
  // ... in turn on every rank.
  std::shared_ptr<SequencePlan> take(int rank, int64_t sequence, const SequenceShape& shape);

  // Aborts the plans that some rank may be using. To be called after the group was aborted: then no
  // further plan can be taken.
  void abort();

 private:
  const PlanFactory& factory_;
  RankGroup& group_;
  std::mutex mutex_;
  // Two: a fast rank may be at the next sequence while a slow one is at this.
  std::array<std::shared_ptr<SequencePlan>, 2> plans_;
};

}  // namespace weft
