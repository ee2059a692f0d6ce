#include "weft/base/range.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

TEST(Range, SizeAndMembers) {
  const Range range{2, 5};
  EXPECT_EQ(range.size(), 3);
  EXPECT_FALSE(range.empty());
  EXPECT_TRUE(range.contains(2));
  EXPECT_TRUE(range.contains(4));
  EXPECT_FALSE(range.contains(5));
  EXPECT_FALSE(range.contains(1));
}

TEST(Range, BackwardRangesAreEmpty) {
  const Range range{5, 2};
  EXPECT_TRUE(range.empty());
  EXPECT_EQ(range.size(), 0);
  EXPECT_FALSE(range.contains(3));
}

TEST(Range, IntersectAgreesWithMembers) {
  for (int64_t a = 0; a < 5; ++a) {
    for (int64_t b = 0; b < 5; ++b) {
      for (int64_t c = 0; c < 5; ++c) {
        for (int64_t d = 0; d < 5; ++d) {
          const Range both = intersect({a, b}, {c, d});
          for (int64_t x = 0; x < 5; ++x) {
            EXPECT_EQ(both.contains(x), Range({a, b}).contains(x) && Range({c, d}).contains(x));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace weft
