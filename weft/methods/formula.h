// Formula: what a method costs, from sizes alone, without writing a schedule.
//
// verify counts a schedule that exists. Whoever compares thousands of ways to run one attention has none yet, so every
// method publishes its counts in closed form. A formula knows one document in self-attention under a full or a causal
// mask; where it says `exact`, its numbers are those that verify counts, to the byte; where it knows nothing it says
// why, never a wrong number.
//
//   Configuration c;
//   c.ranks = 64, c.tokens = 1 << 20, c.mask.causal = true, c.heads = 32, c.kv_heads = 8, c.backward = true;
//   const Formula f = formula_of(find_method("zigzag"), c, options);          // methods/registry.h
//   if (f.known()) f.forward.bytes.busiest, f.backward.exposed_bytes.busiest, f.live_bytes
#pragma once

#include <string>
#include <string_view>

#include "weft/schedule/cost.h"
#include "weft/schedule/problem.h"

namespace weft {

// What to evaluate: heads, columns and types as in a Problem, and the sizes that a schedule would be written for.
struct Configuration : AttentionShape {
  int ranks = 1;
  int64_t tokens = 1;         // of queries and of keys
  MaskRule mask;              // of the one document
  std::string_view layout{};  // "contiguous", "zigzag" or "striped"; empty: the one the method is published with
};

struct Formula : Cost {
  std::string reason;  // why nothing is known here; empty where it is
  bool exact = true;   // else tokens do not divide, and the numbers are those of the next larger count that does

  bool known() const { return reason.empty(); }
};
inline Formula no_formula(std::string reason) {
  Formula formula;
  formula.reason = std::move(reason);
  return formula;
}

}  // namespace weft
