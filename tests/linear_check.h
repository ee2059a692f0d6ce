// Runs a case of a linear layer, and compares all of its results with the recurrence token by token.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/linear_case.h"
#include "weft/execute/check.h"

namespace weft {

inline CheckReport checked(const LinearCase& c, uint64_t seed = 1) {
  CheckOptions options{.seed = seed};
  options.execute.poison = true;
  return check_schedule(c.schedule(), options);
}

// On every rank and in every head by itself: an error in one of many must not drown in the others' size.
inline void expect_right(const LinearCase& c, uint64_t seed = 1) {
  SCOPED_TRACE(c.describe());
  const CheckReport report = checked(c, seed);
  for (const TensorError& error : report.errors) {
    EXPECT_LE(error.max_abs, error.bound) << error.name;
    if (c.element != DType::fp64) continue;
    const double range = error.max_rel == 0 ? 1 : error.max_abs / error.max_rel;
    for (const double each : error.by_rank_and_head) EXPECT_LE(each, 1e-10 * std::max(1.0, range)) << error.name;
  }
}

}  // namespace weft
