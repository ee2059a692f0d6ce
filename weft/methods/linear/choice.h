// Which method scans a linear layer over the ranks soonest, and why: the times of all by latency, bandwidth and speed.
//
//   const LinearChoice choice = choose_linear_method(configuration, {.operations = 1e14, .network = {8e-6, 25e9}});
//   choice.method, choice.why, choice.times[0].seconds()
//
// A model, not a measurement. Work is counted in scans of a rank's own tokens (docs/linear.md, 3), which take the leading
// terms of their multiply-adds; messages take latency + bytes / bandwidth, and what a method computes while they travel hides
// them. One document over all ranks, the worst case: shorter ones cross fewer borders.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "weft/methods/formula.h"

namespace weft {

struct Network {
  double latency = 2e-5;   // seconds of a message
  double bandwidth = 1e9;  // bytes a second that a rank sends, and receives at the same time
};

struct Machine {
  double operations = 1e11;  // a second and rank; a multiply-add is two
  Network network{};         // between nodes, or between all ranks
  int node = 1;              // ranks that a faster network joins
  Network inside{};          // that one
};

struct LinearTime {
  std::string_view method;
  double work = 0;     // seconds of the rank that has most to compute, forward and backward
  double waiting = 0;  // for what no work hides
  double seconds() const { return work + waiting; }
};

struct LinearChoice {
  std::string_view method;
  std::string why;                // one sentence
  std::vector<LinearTime> times;  // of all methods that fit, the soonest first
};

// Methods with their default options. Those that do not fit are left out: head-exchange where ranks do not divide the heads,
// hierarchical without nodes. Throws Error(usage) for softmax.
LinearChoice choose_linear_method(const Configuration& configuration, const Machine& machine);

}  // namespace weft
