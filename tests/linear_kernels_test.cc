// The local work of linear layers on every kernel path, at sizes that are no multiple of anything, against the recurrence
// token by token in fp64.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/linear_case.h"
#include "weft/base/test_level.h"
#include "weft/execute/check.h"

namespace weft {
namespace {

constexpr int64_t kLengths[] = {1, 7, 63, 64, 65, 130};  // chunks have 64 tokens, blocks inside them 16
constexpr std::pair<int64_t, int64_t> kDims[] = {{8, 3}, {16, 24}, {5, 40}, {33, 17}, {64, 64}};
constexpr DType kElements[] = {DType::fp32, DType::bf16, DType::fp16};

void expect_right(const LinearCase& c, std::string_view path, uint64_t seed) {
  SCOPED_TRACE(std::string(path) + ": " + c.describe());
  CheckOptions options{.seed = seed};
  options.kernels = path == "reference" ? &kernels::reference_kernels() : &kernels::cpu_kernels(path);
  options.execute.poison = true;
  for (const TensorError& error : check_schedule(c.schedule(), options).errors) {
    // Of a token or two the plain recurrence may by chance lose next to nothing.
    const double range = error.max_rel == 0 ? 1 : error.max_abs / error.max_rel, least = 2e-6 * std::max(1.0, range);
    EXPECT_LE(error.max_abs, std::max(error.bound, c.element == DType::fp64 ? 0 : least)) << error.name;
  }
}

// One rank scans all; of two, the second's state comes from the first, so that every part has its turn.
TEST(LinearKernels, EveryPathLayerAndOddSize) {
  std::vector<std::string_view> paths = kernels::available_cpu_paths();
  paths.push_back("reference");
  uint64_t seed = 0;
  for (const Layer layer : kLinearLayers) {
    for (const auto& [dim, dim_v] : kDims) {
      for (const int64_t length : kLengths) {
        for (const std::string_view path : paths) {
          for (const DType element : kElements) {
            for (const int ranks : {1, 2}) {
              ++seed;
              if (test_level() < 2 && seed % 7 != 0) continue;
              LinearCase c{.layer = layer, .lengths = {length}, .ranks = ranks, .dim = dim, .dim_v = dim_v};
              c.heads = 1, c.element = element;
              c.initial_states = seed % 2 == 0, c.final_states = seed % 3 == 0;
              expect_right(c, path, seed);
              if (::testing::Test::HasFailure()) return;
            }
          }
        }
      }
    }
  }
}

// Documents of any length begin and end inside chunks and across ranks.
TEST(LinearKernels, PackedDocumentsOnEveryPath) {
  for (const std::string_view path : kernels::available_cpu_paths()) {
    for (const Layer layer : kLinearLayers) {
      LinearCase c{.layer = layer, .lengths = {3, 100, 1, 64, 17, 70}, .ranks = 3, .dim = 9, .dim_v = 20};
      c.element = DType::fp32, c.layout = "zigzag";
      expect_right(c, path, 5);
    }
  }
}

// fp64 goes the same way in plain loops.
TEST(LinearKernels, Fp64) {
  for (const Layer layer : kLinearLayers) {
    for (const int64_t length : kLengths) {
      LinearCase c{.layer = layer, .lengths = {length, 90}, .ranks = 2, .dim = 12, .dim_v = 7};
      c.initial_states = true, c.final_states = true;
      expect_right(c, "reference", 3);
    }
  }
}

}  // namespace
}  // namespace weft
