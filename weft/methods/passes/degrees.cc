#include "weft/methods/passes/degrees.h"

#include "weft/base/error.h"

namespace weft::methods {

std::vector<int> divisors_of(int ranks) {
  std::vector<int> low, high;
  for (int d = 1; int64_t{d} * d <= ranks; ++d) {
    if (ranks % d != 0) continue;
    low.push_back(d);
    if (d != ranks / d) high.insert(high.begin(), ranks / d);
  }
  low.insert(low.end(), high.begin(), high.end());
  return low;
}

int degree_option(std::string_view method, std::string_view option, int ranks, const MethodOptions& options,
                  std::string_view what) {
  if (options.is(option, "auto")) return 0;
  const int degree = static_cast<int>(options.integer(option));
  if (ranks % degree == 0) return degree;
  std::string known;
  for (int d : divisors_of(ranks)) known += (known.empty() ? "" : ", ") + std::to_string(d);
  throw Error(ErrorCode::unsupported, std::string(method) + ": " + std::string(option) + " " + std::to_string(degree) +
                                          " does not divide " + std::to_string(ranks) + " " + std::string(what) +
                                          "; use one of " + known);
}

int middle_degree(std::string_view method, std::string_view option, int ranks, const MethodOptions& options,
                  std::string_view what) {
  if (const int given = degree_option(method, option, ranks, options, what)) return given;
  int degree = 1;
  for (int d : divisors_of(ranks)) {
    if (int64_t{d} * d <= ranks) degree = d;
  }
  return degree;
}

}  // namespace weft::methods
