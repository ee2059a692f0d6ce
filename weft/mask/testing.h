// What tests of masks and of layouts share: hostile sizes, refusals, and a mask as a table of every pair.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "weft/base/error.h"
#include "weft/base/random.h"
#include "weft/mask/mask.h"

namespace weft {

inline constexpr int64_t kMost = (int64_t{1} << 31) - 1;
inline constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();

// Runs f and returns the message of the usage error that it must throw.
template <typename F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::usage) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "not refused";
  return "";
}

// Runs f and returns the message of the Error(wrong) with which it refuses what it checks; empty where it does not.
template <typename F>
std::string found_wrong(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::wrong) << error.what();
    return error.what();
  }
  return "";
}

// Every pair, one byte each: the brute force of these tests.
struct PairTable {
  int64_t queries = 0;
  int64_t keys = 0;
  std::vector<char> allowed;

  PairTable(int64_t q, int64_t k) : queries(q), keys(k), allowed(static_cast<size_t>(q * k), 0) {}
  char& at(int64_t q, int64_t k) { return allowed[static_cast<size_t>(q * keys + k)]; }
  bool at(int64_t q, int64_t k) const { return allowed[static_cast<size_t>(q * keys + k)] != 0; }
  int64_t area() const { return std::count(allowed.begin(), allowed.end(), 1); }
};

inline void expect_is(const Mask& mask, const PairTable& table) {
  ASSERT_EQ(mask.queries(), table.queries);
  ASSERT_EQ(mask.keys(), table.keys);
  ASSERT_EQ(mask.area(), table.area());
  int64_t areas = 0;
  for (size_t i = 0; i < mask.bands().size(); ++i) {
    ASSERT_FALSE(mask.bands()[i].empty());
    areas += mask.bands()[i].area();
    if (i == 0) continue;
    const BandRectangle &a = mask.bands()[i - 1], &b = mask.bands()[i];
    ASSERT_TRUE(a.q.begin < b.q.begin || (a.q.begin == b.q.begin && a.k.begin <= b.k.begin));
  }
  ASSERT_EQ(areas, table.area());
  for (int64_t q = 0; q < table.queries; ++q) {
    for (int64_t k = 0; k < table.keys; ++k) {
      ASSERT_EQ(mask.covers(q, k), table.at(q, k)) << "query " << q << ", key " << k;
    }
  }
  EXPECT_FALSE(mask.covers(-1, 0) || mask.covers(0, -1));
  EXPECT_FALSE(mask.covers(table.queries, 0) || mask.covers(0, table.keys));
}

inline std::vector<int64_t> random_lengths(Random& random, int64_t most_documents, int64_t most_tokens) {
  std::vector<int64_t> lengths;
  for (int64_t n = random.uniform(1, most_documents + 1); n > 0; --n) {
    lengths.push_back(random.uniform(3) == 0 ? 1 : random.uniform(1, most_tokens + 1));
  }
  return lengths;
}

inline MaskRule random_rule(Random& random) {
  return {.causal = random.uniform(2) == 0, .window = random.uniform(2) == 0 ? 0 : random.uniform(1, 9)};
}

}  // namespace weft
