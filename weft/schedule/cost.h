// Cost: what a schedule does and holds, in few numbers. verify counts them; a method's closed form (methods/formula.h)
// knows them without a schedule.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace weft {

// A sum over all ranks, and what the rank that has most of it has.
struct Amount {
  int64_t total = 0;
  int64_t busiest = 0;
  friend bool operator==(const Amount&, const Amount&) = default;
};

struct PhaseCost {
  int64_t steps = 0;     // in which some rank attends or something crosses: rows of the picture
  Amount work;           // allowed (query, key) pairs x query heads
  Amount messages;       // sent: one per exchange and peer
  Amount bytes;          // sent
  Amount exposed_bytes;  // received in exchanges between whose issue and first use the rank attends to nothing
  friend bool operator==(const PhaseCost&, const PhaseCost&) = default;
};

struct Cost {
  PhaseCost forward;
  PhaseCost backward;       // zeros where there is none
  int64_t live_bytes = 0;   // of both phases, on the rank that holds most, in its worst moment
  int64_t saved_bytes = 0;  // what forward keeps for backward on the rank that keeps most, without inputs and results
  friend bool operator==(const Cost&, const Cost&) = default;
};

// All numbers with their names ("backward bytes, busiest"), in one order: for tables and comparisons.
std::vector<std::pair<std::string_view, int64_t>> numbers_of(const Cost& cost);

}  // namespace weft
