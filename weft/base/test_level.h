// How thorough a test should be. Tests only.
//
//   const int mutants = test_level() == 0 ? 200 : test_level() == 1 ? 10000 : 100000;
//   if (test_level() < 2) GTEST_SKIP() << "only in make test-full";
#pragma once

#include <cstdlib>

namespace weft {

// 0: quick, for sanitizers that make everything ten times slower; 1: `make test`; 2: `make test-full`.
// From the environment variable WEFT_TEST_LEVEL, by default 1.
inline int test_level() {
  const char* text = std::getenv("WEFT_TEST_LEVEL");
  return text != nullptr && text[0] >= '0' && text[0] <= '2' ? text[0] - '0' : 1;
}

}  // namespace weft
