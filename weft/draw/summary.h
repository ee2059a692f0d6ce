// What every rank does in every step, added up for pictures: pairs computed by owner of the tokens, bytes by peer.
//
//   Summary summary = summarise(schedule, 16);
//   summary.cells[step][rank].work();
//
// Programs are read step by step and nothing of them is kept. Work and bytes are floating point: a document may hold a
// schedule of any size, right or wrong, and its picture must not overflow.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "weft/schedule/schedule.h"

namespace weft {

// One attend, in a few characters. "lo" and "hi" are the first and the last rows of a shard.
struct Computed {
  std::string queries;  // "" all of the rank's own; "q hi", "q3", "q0-3", "q3 lo"
  std::string keys;     // "k3", "k0-3", "k3 lo"; "v3" where values are worked on apart from keys
  std::string heads;    // "" all heads, else "h0-1"
  double work = 0;      // allowed pairs x query heads; half of it where scores and values are worked on apart

  std::string label() const;  // "q hi x k3"
};

// Pairs of one step whose keys (or queries) live on one rank; -1: on several.
struct Share {
  int owner = 0;
  double work = 0;
};

// One message.
struct Flow {
  int peer = 0;
  double bytes = 0;
  Fields fields;
  uint8_t lane = 0;
};

struct Cell {
  std::vector<Computed> computed;  // in order of issue, equal neighbours joined
  std::vector<Share> key_owners;   // in order of first use
  std::vector<Share> query_owners;
  std::vector<Flow> sends;  // in order of issue
  std::vector<Flow> receives;

  double work() const;
  bool idle() const { return computed.empty() && sends.empty() && receives.empty(); }
};

struct RankTotals {
  double work = 0;  // pairs x query heads, forward
  double work_backward = 0;
  double bytes_sent = 0;
  int64_t messages = 0;  // sent
};

struct Summary {
  int ranks = 0;                         // of the schedule
  int shown = 0;                         // ranks that were read: 0 .. shown - 1
  int forward_rows = 0;                  // cells[0 .. forward_rows - 1]; the rest is backward
  bool truncated = false;                // there were more steps than were asked for
  bool values_apart = false;             // some cells say "v3"
  std::vector<std::vector<Cell>> cells;  // [row][rank]; rows in which nothing happens are left out
  std::vector<RankTotals> totals;        // [rank], steps that are not shown included

  int rows() const { return static_cast<int>(cells.size()); }
};

// Reads the programs of the first `max_ranks` ranks. Steps from `max_steps` of a phase on count in the totals only.
// The backward phases of all ranks start in the same row.
Summary summarise(const Schedule& schedule, int max_ranks, int max_steps = 4096);

// What shares of the work are shares of: allowed pairs x heads, of linear layers tokens x heads.
double total_work(const Problem& problem);

// As format_bytes.
std::string bytes_text(double bytes);

// "causal", "window:256", "3 documents, full": a mask in a few words, as far as its bands tell.
std::string describe(const Mask& mask);

// The schedule's problem in one line: "4096 tokens, causal, 8 heads of 64 (2 kv heads), fp32".
std::string describe(const Problem& problem);

}  // namespace weft
