// Cells of segments and layers: what is made is right, takes the steps of the formulas, and is right backwards too; what is wrong
// is refused, one kind at a time and at random.
#include "weft/schedule/segment_cells.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>

#include "weft/base/error.h"
#include "weft/base/random.h"

namespace weft {
namespace {

constexpr CellOrder kOrders[] = {CellOrder::sequential, CellOrder::diagonal};

// Backward as a schedule: last to first, with segments, layers and ranks counted from their ends.
CellSchedule mirrored(const CellSchedule& of) {
  const int last = static_cast<int>(of.ranks.size()) - 1;
  CellSchedule made{.segments = of.segments, .layers = of.layers, .blocks = {}, .ranks = {}};
  const auto hops = [&](std::vector<CellHop> list) {
    std::reverse(list.begin(), list.end());
    for (CellHop& hop : list) hop = {last - hop.peer, of.segments - 1 - hop.segment};
    return list;
  };
  for (int rank = last; rank >= 0; --rank) {
    const Range block = of.blocks[static_cast<size_t>(rank)];
    made.blocks.push_back({of.layers - block.end, of.layers - block.begin});
    std::vector<CellStep> steps = of.ranks[static_cast<size_t>(rank)];
    std::reverse(steps.begin(), steps.end());
    for (CellStep& step : steps) {
      std::reverse(step.cells.begin(), step.cells.end());
      for (SegmentCell& cell : step.cells) cell = {of.segments - 1 - cell.segment, of.layers - 1 - cell.layer};
      std::swap(step.receive, step.send);
      step.receive = hops(step.receive), step.send = hops(step.send);
    }
    made.ranks.push_back(std::move(steps));
  }
  return made;
}

TEST(SegmentCells, StepsAndHopsOfTheFormulas) {
  for (int64_t segments = 1; segments <= 9; ++segments) {
    for (int64_t layers = 1; layers <= 8; ++layers) {
      for (int ranks = 1; ranks <= layers; ++ranks) {
        SCOPED_TRACE(std::to_string(segments) + " x " + std::to_string(layers) + " over " + std::to_string(ranks));
        for (const CellOrder order : kOrders) {
          const CellSchedule schedule = make_cells(segments, layers, ranks, order);
          const CellCounts counts = verify_cells(schedule), back = verify_cells(mirrored(schedule));
          EXPECT_EQ(counts.hops, segments * (ranks - 1));
          EXPECT_EQ(back.hops, counts.hops);
          EXPECT_EQ(back.steps, counts.steps);
          if (order == CellOrder::diagonal) {
            EXPECT_EQ(counts.steps, segments + layers - 1);
          } else if (layers % ranks == 0) {
            EXPECT_EQ(counts.steps, (segments + ranks - 1) * (layers / ranks));
          }
        }
      }
    }
  }
}

// One device: group i is all cells whose segment and layer sum to i.
TEST(SegmentCells, GroupsAreTheAntiDiagonals) {
  const CellSchedule schedule = make_cells(5, 3, 1, CellOrder::diagonal);
  ASSERT_EQ(schedule.ranks[0].size(), 7u);
  const std::vector<size_t> sizes = {1, 2, 3, 3, 3, 2, 1};
  for (size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_EQ(schedule.ranks[0][i].cells.size(), sizes[i]);
    for (const SegmentCell& cell : schedule.ranks[0][i].cells)
      EXPECT_EQ(cell.segment + cell.layer, static_cast<int64_t>(i));
  }
}

TEST(SegmentCells, ManySegmentsAndRanks) {
  EXPECT_EQ(verify_cells(make_cells(2000, 128, 128, CellOrder::diagonal)).steps, 2127);
}

std::string refusal_of(const CellSchedule& schedule) {
  try {
    verify_cells(schedule);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::wrong);
    return error.what();
  }
  return "";
}
std::string refusal_of_changed(const std::function<void(CellSchedule&)>& change) {
  CellSchedule schedule = make_cells(3, 4, 2, CellOrder::diagonal);
  change(schedule);
  return refusal_of(schedule);
}

TEST(SegmentCells, WrongOnesAreRefused) {
  using S = CellSchedule;
  EXPECT_EQ(refusal_of_changed([](S&) {}), "");
  EXPECT_EQ(refusal_of_changed([](S& s) { std::swap(s.ranks[0][0].cells, s.ranks[0][3].cells); }),
            "cells: rank 0, step 0: cell (segment 2, layer 1) runs before the memory of segment 1");
  EXPECT_EQ(refusal_of_changed([](S& s) {
              s.ranks[0][0].cells = {{0, 0}, {0, 1}};
              s.ranks[0][1].cells.pop_back();
            }),
            "cells: rank 0, step 0: cell (segment 0, layer 1) runs before the activations of the layer below");
  EXPECT_EQ(refusal_of_changed([](S& s) {
              s.ranks[0][1].cells = {{1, 0}, {2, 0}};
            }),
            "cells: rank 0, step 1: cell (segment 2, layer 0) is in a group behind layer 0");
  EXPECT_EQ(refusal_of_changed([](S& s) {
              s.ranks[0][1].cells[0] = {0, 0};
            }),
            "cells: rank 0, step 1: cell (segment 0, layer 0) runs again");
  EXPECT_EQ(refusal_of_changed([](S& s) {
              s.ranks[1][0].cells[0] = {0, 1};
            }),
            "cells: rank 1, step 0: cell (segment 0, layer 1) is of a layer of another");
  EXPECT_EQ(refusal_of_changed([](S& s) { s.ranks[1].back().cells.clear(); }),
            "cells: cell (segment 2, layer 3) never runs");
  EXPECT_EQ(refusal_of_changed([](S& s) { s.ranks[0][1].send.clear(); }),
            "cells: rank 1, step 0: expects segment 0, and rank 0 sends segment 1");
  EXPECT_EQ(refusal_of_changed([](S& s) { s.ranks[0][3].send.clear(); }),
            "cells: rank 1, step 2: waits for segment 2, which rank 0 does not send");
  EXPECT_EQ(refusal_of_changed([](S& s) { s.ranks[1][0].receive.clear(); }),
            "cells: rank 1, step 0: cell (segment 0, layer 2) runs before the activations of the layer below");
  EXPECT_EQ(refusal_of_changed([](S& s) {
              s.ranks[0][0].send = {{1, 0}};
            }),
            "cells: rank 0, step 0: sends segment 0 before its last layer has run");
  EXPECT_EQ(refusal_of_changed([](S& s) {
              s.ranks[0][2].send.push_back({1, 0});
            }),
            "cells: rank 0, step 2: sends segment 0 again");
  EXPECT_EQ(refusal_of_changed([](S& s) { s.ranks[0][1].send[0].peer = 0; }),
            "cells: rank 0, step 1: sends segment 0 to rank 0, which has not the layer behind its last");
  EXPECT_EQ(refusal_of_changed([](S& s) { s.ranks[1][0].receive[0].peer = 1; }),
            "cells: rank 1, step 0: receives from rank 1, which has not the layer before its first");
  EXPECT_EQ(refusal_of_changed([](S& s) { s.ranks[0][0].cells[0].segment = 3; }),
            "cells: rank 0, step 0: there is no segment 3");
  EXPECT_EQ(refusal_of_changed([](S& s) { s.blocks[0].end = 3; }),
            "cells: ranks do not hold consecutive layers, all of them");
}

// A group, cell or hop left out, doubled, or in the place of another, or a segment changed for another: none is accepted.
TEST(SegmentCells, RandomChangesAreRefused) {
  Random random(7);
  const auto below = [&](size_t n) { return static_cast<size_t>(random.uniform(static_cast<int64_t>(n))); };
  int changed = 0;
  for (int round = 0; round < 4000; ++round) {
    const int64_t layers = 2 + static_cast<int64_t>(below(5));
    CellSchedule schedule = make_cells(2 + static_cast<int64_t>(below(5)), layers,
                                       1 + static_cast<int>(below(static_cast<size_t>(layers))), kOrders[below(2)]);
    auto& steps = schedule.ranks[below(schedule.ranks.size())];
    const size_t first = below(steps.size()), second = below(steps.size());
    CellStep &step = steps[first], &other = steps[second];
    const size_t kind = below(5);
    if (kind == 0) step.cells.erase(step.cells.begin() + static_cast<int64_t>(below(step.cells.size())));
    if (kind == 1) other.cells.push_back(step.cells[below(step.cells.size())]);
    if (kind == 2) {
      if (first == second) continue;
      std::swap(step.cells,
                other.cells);  // neighbours of a sequential order too: one needs the other, or its layer's memory
      if (schedule.ranks.size() == 1 && refusal_of(schedule).empty()) continue;  // cells that do not need each other
    }
    if (kind == 3) {
      std::vector<CellHop>& hops = below(2) == 0 ? step.receive : step.send;
      if (hops.empty()) continue;
      if (below(2) == 0) {
        hops.pop_back();
      } else {
        hops.push_back(hops.back());
      }
    }
    if (kind == 4) {
      int64_t& segment = step.cells[below(step.cells.size())].segment;
      segment =
          (segment + 1 + static_cast<int64_t>(below(static_cast<size_t>(schedule.segments - 1)))) % schedule.segments;
    }
    ++changed;
    EXPECT_NE(refusal_of(schedule), "") << "kind " << kind;
  }
  EXPECT_GT(changed, 2000);
}

TEST(SegmentCells, WhatCannotBeIsRefused) {
  EXPECT_THROW(make_cells(0, 3, 1, CellOrder::diagonal), Error);
  EXPECT_THROW(make_cells(4, 3, 0, CellOrder::diagonal), Error);
  try {
    make_cells(4, 3, 5, CellOrder::diagonal);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::usage);
    EXPECT_STREQ(error.what(),
                 "4 segments, 3 layers over 5 ranks; give at least one segment, and a layer for each rank");
  }
}

}  // namespace
}  // namespace weft
