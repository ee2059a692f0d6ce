#include "weft/train/ranks.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "weft/base/error.h"
#include "weft/base/random.h"

namespace weft {
namespace {

using namespace std::chrono_literals;

void on_ranks(RankGroup& group, const std::function<void(int)>& body) {
  const StopFlag never;
  run_ranks(group, never, nullptr, body);
}

TEST(CollectivesTest, SumsInRankOrder) {
  for (const int ranks : {1, 2, 3, 7}) {
    for (const int64_t size : {0, 1, 5, 10000}) {
      std::vector<std::vector<float>> buffers(static_cast<size_t>(ranks));
      Random random(3);
      for (auto& buffer : buffers) {
        for (int64_t i = 0; i < size; ++i) buffer.push_back(static_cast<float>(random.normal()));
      }
      std::vector<float> want(static_cast<size_t>(size));
      for (size_t i = 0; i < want.size(); ++i) {
        float sum = buffers[0][i];
        for (size_t r = 1; r < buffers.size(); ++r) sum += buffers[r][i];
        want[i] = sum;
      }
      ThreadGroup group(ranks);
      on_ranks(group, [&](int rank) {
        group.all_reduce_sum(rank, std::span<float>(buffers[static_cast<size_t>(rank)]));
        const double n = ranks;
        EXPECT_EQ(group.all_reduce_sum(rank, rank + 0.5), n * (n - 1) / 2 + n * 0.5);
      });
      for (const auto& buffer : buffers) EXPECT_EQ(buffer, want);
    }
  }
}

TEST(CollectivesTest, BarriersKeepRanksTogether) {
  ThreadGroup group(5);
  std::atomic<int> arrived{0};
  on_ranks(group, [&](int rank) {
    for (int round = 1; round <= 200; ++round) {
      ++arrived;
      group.barrier(rank);
      EXPECT_GE(arrived.load(), 5 * round);
      group.barrier(rank);
    }
  });
  EXPECT_EQ(arrived.load(), 1000);
}

TEST(CollectivesTest, WaitingIsCounted) {
  ThreadGroup group(2);
  on_ranks(group, [&](int rank) {
    if (rank == 1) std::this_thread::sleep_for(50ms);
    group.barrier(rank);
  });
  EXPECT_GT(group.waiting_seconds(0), 0.02);
  EXPECT_LT(group.waiting_seconds(1), 0.02);
}

TEST(RanksTest, AFailureEndsEverybodyAndIsReportedOnce) {
  ThreadGroup group(4);
  std::atomic<int> stopped{0}, told{0};
  const StopFlag never;
  const auto begin = std::chrono::steady_clock::now();
  try {
    run_ranks(
        group, never, [&] { ++told; },
        [&](int rank) {
          if (rank == 2) throw Error(ErrorCode::io, "disk of rank 2");
          try {
            for (;;) group.barrier(rank);
          } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::stopped);
            ++stopped;
            throw;
          }
        });
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "disk of rank 2");
  }
  EXPECT_EQ(stopped.load(), 3);
  EXPECT_LE(told.load(), 1);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 1s);
}

TEST(RanksTest, TheCauseIsReportedAlsoWhenOthersFailFirst) {
  ThreadGroup group(2);
  const StopFlag never;
  try {
    run_ranks(group, never, nullptr, [&](int rank) {
      if (rank == 0) throw Error(ErrorCode::stopped, "another rank failed");
      std::this_thread::sleep_for(20ms);
      throw Error(ErrorCode::wrong, "the cause");
    });
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "the cause");
  }
}

TEST(RanksTest, AbortWakesWhoIsBlockedElsewhere) {
  ThreadGroup group(2);
  const StopFlag never;
  StopFlag attention;  // stands for a plan
  EXPECT_THROW(run_ranks(
                   group, never, [&] { attention.raise(); },
                   [&](int rank) {
                     if (rank == 0) throw Error(ErrorCode::wrong, "x");
                     for (;;) {
                       attention.poll();
                       std::this_thread::sleep_for(1ms);
                     }
                   }),
               Error);
}

TEST(RanksTest, AnInterruptStopsAll) {
  ThreadGroup group(3);
  StopFlag interrupt;
  std::jthread user([&] {
    std::this_thread::sleep_for(50ms);
    interrupt.raise();
  });
  const auto begin = std::chrono::steady_clock::now();
  try {
    run_ranks(group, interrupt, nullptr, [&](int rank) {
      for (;;) group.barrier(rank);
    });
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::stopped);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 1s);
}

TEST(RanksTest, ForeignExceptionsBecomeOneLine) {
  ThreadGroup group(2);
  const StopFlag never;
  try {
    run_ranks(group, never, nullptr, [&](int rank) {
      if (rank == 1) throw std::runtime_error("first line\nsecond line");
      group.barrier(rank);
    });
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "rank 1: first line");
  }
}

}  // namespace
}  // namespace weft
