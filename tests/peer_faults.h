// Shared by the tests that repeat calls at which published packages go wrong: see docs/what-we-check.md.
//
// Each test runs the same configuration through Weft and compares with dense attention in fp64. Beside it stands a
// control: the very fault, planted, must fail that comparison, so that the test could fail.
#pragma once

#include <gtest/gtest.h>

#include <cmath>

#include "tests/execute_case.h"
#include "weft/base/test_level.h"
#include "weft/execute/dense.h"

namespace weft::peer_faults {

// The shape that most calls were made with: fp32, causal, a few heads.
inline ExecuteCase their_case(std::string method, int ranks = 2, Options options = {}) {
  return {.method = std::move(method),
          .options = std::move(options),
          .lengths = {test_level() == 0 ? 96 : 256},
          .ranks = ranks,
          .heads = 4,
          .kv_heads = 4,
          .dim = 16,
          .dim_v = 16,
          .element = DType::fp32,
          .wire = DType::fp32};
}

inline std::string errors_of(const CheckReport& report) {
  std::string text;
  for (const TensorError& e : report.errors) {
    text += e.name + " " + std::to_string(e.max_abs) + " (allowed " + std::to_string(e.bound) + ") ";
  }
  return text;
}

// Every result within its bound of docs/numerics.md.
inline CheckReport expect_right(const ExecuteCase& c, const CheckOptions& options = {}) {
  SCOPED_TRACE(c.describe());
  CheckReport report = check_schedule(c.schedule(), options);
  EXPECT_TRUE(report.ok) << errors_of(report);
  return report;
}

// The control: the results named are wrong, and not by a little.
inline void expect_noticed(const CheckReport& report, const std::vector<std::string>& wrong) {
  EXPECT_FALSE(report.ok);
  for (const TensorError& error : report.errors) {
    if (std::find(wrong.begin(), wrong.end(), error.name) == wrong.end()) continue;
    EXPECT_FALSE(error.max_abs <= 100 * error.bound) << error.name << " " << errors_of(report);
  }
}
inline void expect_noticed(const ExecuteCase& c, const kernels::KernelSet& planted,
                           const std::vector<std::string>& wrong) {
  SCOPED_TRACE(c.describe() + ", planted");
  expect_noticed(check_schedule(c.schedule(), {.kernels = &planted}), wrong);
}

// What dense attention in fp64 makes of the inputs that a run had.
inline DenseAttention exact_of(const Problem& problem, const CheckTensors& t) {
  return dense_attention(problem.mask,
                         {problem.heads, problem.kv_heads, problem.dim, problem.dim_v, problem.softmax_scale()},
                         {t.q.to_fp64(), t.k.to_fp64(), t.v.to_fp64(), t.dout.to_fp64()}, DType::fp64);
}

// Largest and root mean square difference.
struct Difference {
  double max = 0, rms = 0;
};
inline Difference difference(const HostTensor& tensor, const std::vector<double>& exact) {
  Difference d;
  for (int64_t i = 0; i < tensor.elements(); ++i) {
    const double x = tensor.at(i) - exact[static_cast<size_t>(i)];
    d.max = std::max(d.max, std::abs(x));
    d.rms += x * x;
  }
  d.rms = std::sqrt(d.rms / static_cast<double>(tensor.elements()));
  return d;
}

}  // namespace weft::peer_faults
