#include "weft/layout/axis.h"

#include "weft/layout/testing.h"

namespace weft {
namespace {

TEST(Axis, RunsInsideASlotInterval) {
  Random random(4);
  for (int trial = 0; trial < 300; ++trial) {
    const int64_t tokens = random.uniform(1, 40);
    const Layout layout = Layout::from_runs(tokens, random_runs(random, tokens, 3));
    const Axis& axis = layout.axis();
    ASSERT_EQ(axis.tokens(), tokens);
    bool identity = true;
    for (int64_t slot = 0; slot < tokens; ++slot) identity &= axis.position(slot) == slot;
    ASSERT_EQ(axis.is_identity(), identity);
    const int64_t begin = random.uniform(-3, tokens + 3);
    const Range wanted{begin, begin + random.uniform(-1, tokens)};
    int64_t next = std::max<int64_t>(begin, 0);
    axis.for_each_run(wanted, [&](Range slots, weft::Run run) {
      ASSERT_EQ(slots.begin, next);
      ASSERT_EQ(slots.size(), run.count);
      ASSERT_GT(run.count, 0);
      for (int64_t i = 0; i < run.count; ++i) {
        ASSERT_EQ(axis.position(slots.begin + i), run.base + i * run.stride);
      }
      next = slots.end;
    });
    const Range inside = intersect(wanted, {0, tokens});
    ASSERT_EQ(next, inside.empty() ? std::max<int64_t>(begin, 0) : inside.end);
  }
}

TEST(Axis, TheExampleOfTheHeader) {
  const Axis axis = Axis::from_runs({{.base = 0, .stride = 2, .count = 3}, {.base = 1, .stride = 2, .count = 2}});
  EXPECT_EQ(axis.position(2), 4);
  EXPECT_EQ(axis.position(3), 1);
  EXPECT_TRUE(Axis::identity(5).is_identity());
  EXPECT_EQ(Axis::from_runs({{0, 1, 2}, {2, 9, 1}, {3, 1, 2}}), Axis::identity(5));
}

}  // namespace
}  // namespace weft
