#include "weft/schedule/segment_cells.h"

#include <algorithm>
#include <deque>
#include <string>
#include <utility>

#include "weft/base/error.h"

namespace weft {
namespace {

std::string text_of_cell(const SegmentCell& cell) {
  return "cell (segment " + std::to_string(cell.segment) + ", layer " + std::to_string(cell.layer) + ")";
}

// All ranks, step by step, as far as what they receive has been sent.
class CellProof {
 public:
  explicit CellProof(const CellSchedule& schedule) : s_(schedule), ranks_(static_cast<int>(schedule.ranks.size())) {
    require_blocks();
    at_.resize(s_.ranks.size());
    ran_.resize(static_cast<size_t>(s_.segments * s_.layers));
    arrived_.resize(s_.ranks.size() * static_cast<size_t>(s_.segments)), sent_ = arrived_;
    under_way_.resize(s_.ranks.size());
  }

  CellCounts run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (int rank = 0; rank < ranks_; ++rank) {
        while (advance(rank)) moved = true;
      }
    }
    require_end();
    CellCounts counts{.steps = 0, .hops = hops_};
    for (const Place& place : at_) counts.steps = std::max(counts.steps, place.time);
    return counts;
  }

 private:
  struct Place {
    size_t step = 0, received = 0;  // hops of this step that have been taken
    int64_t time = 0;
  };
  struct UnderWay {
    int64_t segment, time;
  };

  const std::vector<CellStep>& steps(int rank) const { return s_.ranks[static_cast<size_t>(rank)]; }
  Range block(int rank) const { return s_.blocks[static_cast<size_t>(rank)]; }
  Place& place(int rank) { return at_[static_cast<size_t>(rank)]; }
  char& ran(int64_t segment, int64_t layer) { return ran_[static_cast<size_t>(segment * s_.layers + layer)]; }
  size_t of_rank(int rank, int64_t segment) const { return static_cast<size_t>(rank * s_.segments + segment); }

  [[noreturn]] void refuse(int rank, const std::string& what) const {
    throw Error(ErrorCode::wrong, "cells: rank " + std::to_string(rank) + ", step " +
                                      std::to_string(at_[static_cast<size_t>(rank)].step) + ": " + what);
  }
  void require_segment(int rank, int64_t segment) const {
    if (segment < 0 || segment >= s_.segments) refuse(rank, "there is no segment " + std::to_string(segment));
  }

  void require_blocks() const {
    int64_t layer = 0;
    for (const Range b : s_.blocks) {
      if (b.begin != layer || b.end <= b.begin) layer = -1;
      if (layer < 0) break;
      layer = b.end;
    }
    if (layer != s_.layers || s_.blocks.size() != s_.ranks.size() || s_.segments < 1) {
      throw Error(ErrorCode::wrong, "cells: ranks do not hold consecutive layers, all of them");
    }
  }

  // One hop in, or the rest of a step. False: it waits, or has ended.
  bool advance(int rank) {
    Place& here = place(rank);
    if (here.step == steps(rank).size()) return false;
    const CellStep& step = steps(rank)[here.step];
    if (here.received < step.receive.size()) {
      if (!take(rank, step.receive[here.received])) return false;
      ++here.received;
      return true;
    }
    if (!step.cells.empty()) {
      run_group(rank, step.cells);
      ++here.time;
    }
    for (const CellHop& hop : step.send) send(rank, hop);
    ++here.step, here.received = 0;
    return true;
  }

  bool take(int rank, const CellHop& hop) {
    require_segment(rank, hop.segment);
    if (rank == 0 || hop.peer != rank - 1) {
      refuse(rank, "receives from rank " + std::to_string(hop.peer) + ", which has not the layer before its first");
    }
    std::deque<UnderWay>& queue = under_way_[static_cast<size_t>(hop.peer)];
    if (queue.empty()) return false;
    if (queue.front().segment != hop.segment) {
      refuse(rank, "expects segment " + std::to_string(hop.segment) + ", and rank " + std::to_string(hop.peer) +
                       " sends segment " + std::to_string(queue.front().segment));
    }
    place(rank).time = std::max(place(rank).time, queue.front().time);
    queue.pop_front();
    arrived_[of_rank(rank, hop.segment)] = 1;
    return true;
  }

  void run_group(int rank, const std::vector<SegmentCell>& cells) {
    const Range own = block(rank);
    for (size_t i = 0; i < cells.size(); ++i) {
      const SegmentCell& cell = cells[i];
      require_segment(rank, cell.segment);
      if (cell.layer < own.begin || cell.layer >= own.end)
        refuse(rank, text_of_cell(cell) + " is of a layer of another");
      if (i > 0 && cell.layer != cells[i - 1].layer + 1) {
        refuse(rank, text_of_cell(cell) + " is in a group behind layer " + std::to_string(cells[i - 1].layer));
      }
      if (ran(cell.segment, cell.layer)) refuse(rank, text_of_cell(cell) + " runs again");
      if (cell.segment > 0 && !ran(cell.segment - 1, cell.layer)) {
        refuse(rank, text_of_cell(cell) + " runs before the memory of segment " + std::to_string(cell.segment - 1));
      }
      const bool there = cell.layer > own.begin ? ran(cell.segment, cell.layer - 1) != 0
                                                : rank == 0 || arrived_[of_rank(rank, cell.segment)];
      if (!there) refuse(rank, text_of_cell(cell) + " runs before the activations of the layer below");
    }
    // Only now: cells of a group give each other nothing.
    for (const SegmentCell& cell : cells) ran(cell.segment, cell.layer) = 1;
  }

  void send(int rank, const CellHop& hop) {
    require_segment(rank, hop.segment);
    const std::string what = "sends segment " + std::to_string(hop.segment);
    if (hop.peer != rank + 1 || hop.peer >= ranks_) {
      refuse(rank, what + " to rank " + std::to_string(hop.peer) + ", which has not the layer behind its last");
    }
    if (!ran(hop.segment, block(rank).end - 1)) refuse(rank, what + " before its last layer has run");
    char& sent = sent_[of_rank(rank, hop.segment)];
    if (sent) refuse(rank, what + " again");
    sent = 1, ++hops_;
    under_way_[static_cast<size_t>(rank)].push_back({hop.segment, place(rank).time});
  }

  void require_end() const {
    for (int rank = 0; rank < ranks_; ++rank) {
      const Place& here = at_[static_cast<size_t>(rank)];
      if (here.step == steps(rank).size()) continue;
      const CellHop& hop = steps(rank)[here.step].receive[here.received];
      refuse(rank, "waits for segment " + std::to_string(hop.segment) + ", which rank " + std::to_string(hop.peer) +
                       " does not send");
    }
    for (int64_t i = 0; i < s_.segments * s_.layers; ++i) {
      if (!ran_[static_cast<size_t>(i)]) {
        throw Error(ErrorCode::wrong, "cells: " + text_of_cell({i / s_.layers, i % s_.layers}) + " never runs");
      }
    }
    for (const std::deque<UnderWay>& queue : under_way_) {
      if (queue.empty()) continue;
      throw Error(ErrorCode::wrong,
                  "cells: segment " + std::to_string(queue.front().segment) + " is sent and not received");
    }
  }

  const CellSchedule& s_;
  const int ranks_;
  std::vector<Place> at_;
  std::vector<char> ran_, arrived_, sent_;       // by cell; by rank and segment
  std::vector<std::deque<UnderWay>> under_way_;  // from each rank to the next
  int64_t hops_ = 0;
};

CellStep cell_step(std::vector<SegmentCell> cells, int rank, int ranks, Range block) {
  CellStep step;
  for (const SegmentCell& cell : cells) {
    if (rank > 0 && cell.layer == block.begin) step.receive.push_back({rank - 1, cell.segment});
    if (rank + 1 < ranks && cell.layer == block.end - 1) step.send.push_back({rank + 1, cell.segment});
  }
  step.cells = std::move(cells);
  return step;
}

}  // namespace

CellSchedule make_cells(int64_t segments, int64_t layers, int ranks, CellOrder order) {
  if (segments < 1 || ranks < 1 || layers < ranks) {
    throw Error(ErrorCode::usage, std::to_string(segments) + " segments, " + std::to_string(layers) + " layers over " +
                                      std::to_string(ranks) +
                                      " ranks; give at least one segment, and a layer for each rank");
  }
  CellSchedule made{.segments = segments, .layers = layers, .blocks = {}, .ranks = {}};
  for (int rank = 0; rank < ranks; ++rank) {
    const Range block{layers * rank / ranks, layers * (rank + 1) / ranks};
    std::vector<CellStep> steps;
    if (order == CellOrder::sequential) {
      for (int64_t n = 0; n < segments; ++n) {
        for (int64_t l = block.begin; l < block.end; ++l)
          steps.push_back(cell_step({SegmentCell{n, l}}, rank, ranks, block));
      }
    } else {
      for (int64_t i = block.begin; i < block.end + segments - 1; ++i) {
        std::vector<SegmentCell> group;
        for (int64_t l = std::max(block.begin, i - segments + 1); l < std::min(block.end, i + 1); ++l) {
          group.push_back({i - l, l});
        }
        steps.push_back(cell_step(std::move(group), rank, ranks, block));
      }
    }
    made.blocks.push_back(block), made.ranks.push_back(std::move(steps));
  }
  return made;
}

CellCounts verify_cells(const CellSchedule& schedule) { return CellProof(schedule).run(); }

}  // namespace weft
