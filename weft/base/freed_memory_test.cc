#include "weft/base/freed_memory.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <thread>
#include <vector>

namespace weft {
namespace {

constexpr size_t kBytes = size_t{96} << 20;  // more than glibc ever takes from a heap by itself

long faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

// Page faults of a thread that fills a large array and frees it.
long faults_of_an_array() {
  const long before = faults();
  std::thread([] { std::vector<char>(kBytes, 1).clear(); }).join();
  return faults() - before;
}

// 0: freed memory comes back to a thread. A process of its own, since a process that has had threads keeps their heaps.
int freed_memory_comes_back() {
  const auto fill_and_free = [] { std::vector<char>(kBytes, 1).clear(); };
  const long before = faults();
  fill_and_free();
  const long fresh = faults() - before;
  keep_freed_memory();
  faults_of_an_array();
  return faults_of_an_array() < fresh / 10 ? 0 : 1;
}

TEST(FreedMemory, ComesBackToAnyThread) {
#if !defined(__GLIBC__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "not glibc's allocator";
#endif
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(std::exit(freed_memory_comes_back()), testing::ExitedWithCode(0), "");
  EXPECT_GT(faults_of_an_array(),
            static_cast<long>(kBytes / 4096 / 2));  // here, where it was not asked for, it does not
}

}  // namespace
}  // namespace weft
