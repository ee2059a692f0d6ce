// Degrees: how methods that arrange the ranks in a grid choose its sides.
#pragma once

#include <algorithm>
#include <vector>

#include "weft/methods/method.h"

namespace weft::methods {

// All divisors in ascending order.
std::vector<int> divisors_of(int ranks);

// The divisor of least cost(divisor), the smallest of equal ones.
template <typename Cost>
int cheapest_divisor(int ranks, Cost&& cost) {
  const std::vector<int> all = divisors_of(ranks);
  return *std::min_element(all.begin(), all.end(), [&](int a, int b) { return cost(a) < cost(b); });
}

// The degree that an option asks for; 0 for "auto". Throws Error(unsupported) with the divisors when it does not divide
// the ranks, or `what` of that number.
int degree_option(std::string_view method, std::string_view option, int ranks, const MethodOptions& options,
                  std::string_view what = "ranks");
// The same; for "auto" the largest divisor that is not above their square root.
int middle_degree(std::string_view method, std::string_view option, int ranks, const MethodOptions& options,
                  std::string_view what = "ranks");

}  // namespace weft::methods
