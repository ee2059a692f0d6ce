// A schedule as a table for the terminal: ranks across, steps down; what is computed, what travels.
//
//   draw_text(schedule)
//
//           rank 0      rank 1
//   ------  ----------  ----------
//   step 0  k0 12.5%    k1 12.5%       keys of rank 0 and own queries, and the share of all pairs
//           kv>1 1 MiB  kv>0 1 MiB     sent to rank 1
#pragma once

#include <string>

#include "weft/schedule/schedule.h"

namespace weft {

struct TextOptions {
  int max_ranks = 16;  // the first ones; the text says how many there are
  int max_steps = 200;
};

// Ends with a line break.
std::string draw_text(const Schedule& schedule, const TextOptions& options = {});

}  // namespace weft
