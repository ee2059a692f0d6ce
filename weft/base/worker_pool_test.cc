#include "weft/base/worker_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <stdexcept>

namespace weft {
namespace {

TEST(WorkerPool, EveryItemRunsOnce) {
  for (int threads : {1, 2, 5}) {
    WorkerPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int64_t items : {0, 1, 2, 7, 1000}) {
      std::vector<int> runs(static_cast<size_t>(items));
      pool.run(items, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
      EXPECT_EQ(std::accumulate(runs.begin(), runs.end(), int64_t{0}), items);
      for (int count : runs) EXPECT_EQ(count, 1);
    }
  }
}

TEST(WorkerPool, ManyShortLoops) {
  WorkerPool pool(3);
  std::atomic<int64_t> sum = 0;
  for (int loop = 0; loop < 2000; ++loop) pool.run(3, [&](int64_t i) { sum += i; });
  EXPECT_EQ(sum, 6000);
}

TEST(WorkerPool, AnErrorReachesTheCallerAndThePoolLivesOn) {
  WorkerPool pool(3);
  std::atomic<int> started = 0;
  const auto fail = [&] {
    pool.run(100000, [&](int64_t i) {
      ++started;
      if (i == 10) throw std::runtime_error("item 10");
    });
  };
  EXPECT_THROW(fail(), std::runtime_error);
  EXPECT_GE(started, 11);
  EXPECT_LT(started, 100000);
  int runs = 0;
  pool.run(1, [&](int64_t) { ++runs; });
  EXPECT_EQ(runs, 1);
}

}  // namespace
}  // namespace weft
