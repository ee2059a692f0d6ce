// What every rank does in every step, added up for pictures: pairs computed by owner of the keys, bytes by peer.
//
//   Summary summary = summarise(schedule, 16);
//   summary.cells[step][rank].work;
//
// Programs are read step by step and nothing of them is kept.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "weft/schedule/schedule.h"

namespace weft {

// Pairs of one step between a rank's queries and keys that live on one rank.
struct Share {
  int owner = 0;     // rank whose keys these are, by the layout
  int64_t work = 0;  // allowed pairs x query heads
  std::string
      keys;  // which of the owner's keys: "" all, "lo" or "hi" the first or last of them, "part"
  std::string
      rows;  // which of the rank's own queries, in the same words; "other" when they live elsewhere
};

// One message.
struct Flow {
  int peer = 0;
  int64_t bytes = 0;
  Fields fields;
  uint8_t lane = 0;
};

struct Cell {
  std::vector<Share> shares;  // in the order in which they are computed
  std::vector<Flow> sends;    // in order of issue
  std::vector<Flow> receives;
  int64_t work() const;
};

struct RankTotals {
  int64_t work = 0;  // pairs x query heads, forward
  int64_t work_backward = 0;
  int64_t bytes_sent = 0;
  int64_t messages = 0;  // sent
};

struct Summary {
  int ranks = 0;                         // of the schedule
  int shown = 0;                         // ranks that were read: 0 .. shown - 1
  int forward_steps = 0;                 // cells[0 .. forward_steps - 1]; what follows is backward
  bool truncated = false;                // there were more steps than were asked for
  std::vector<std::vector<Cell>> cells;  // [step][rank]
  std::vector<RankTotals> totals;        // [rank]

  int steps() const { return static_cast<int>(cells.size()); }
};

// Reads the programs of the first `max_ranks` ranks; steps beyond `max_steps` count in the totals only.
// The backward phase of every rank starts in the same row.
Summary summarise(const Schedule& schedule, int max_ranks, int max_steps = 4096);

// "full", "causal", "window 256", "3 documents, causal": a mask in a few words, as far as its bands tell.
std::string describe(const Mask& mask);

}  // namespace weft
