// The local work of linear layers on every kernel path, at sizes that are no multiple of anything, against the recurrence
// token by token in fp64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

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

// One rank scans all; of two, the second begins with the first's state (chain), or is corrected by it (log-step), so that
// every part has its turn.
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
              if (seed % 5 < 2) c.method = "log-step";
              c.initial_states = seed % 2 == 0, c.final_states = seed % 3 == 0;
              if (seed % 4 == 0) c.state_positions = {length / 3, length / 2, length - 1};
              expect_right(c, path, seed);
              if (::testing::Test::HasFailure()) return;
            }
          }
        }
      }
    }
  }
}

// Tokens that write several times, on every path and type.
TEST(LinearKernels, Householders) {
  std::vector<std::string_view> paths = kernels::available_cpu_paths();
  paths.push_back("reference");
  for (const std::string_view path : paths) {
    for (const Layer layer : {Layer::deltanet, Layer::gdn, Layer::kda}) {
      for (const DType element : kElements) {
        LinearCase c{.layer = layer, .lengths = {3, 65, 1, 40}, .ranks = 2, .dim = 33, .dim_v = 17};
        c.element = element, c.householders = 2, c.final_states = true;
        expect_right(c, path, 6);
      }
    }
  }
}

// Documents of any length begin and end inside chunks and across ranks.
TEST(LinearKernels, PackedDocumentsOnEveryPath) {
  for (const std::string_view path : kernels::available_cpu_paths()) {
    for (const Layer layer : kLinearLayers) {
      for (const char* method : {"chain", "log-step"}) {
        LinearCase c{.method = method, .layer = layer, .lengths = {3, 100, 1, 64, 17, 70}, .ranks = 3, .dim = 9};
        c.dim_v = 20, c.element = DType::fp32, c.layout = "zigzag";
        expect_right(c, path, 5);
      }
    }
  }
}

void set_rows(HostTensor& tensor, Range rows, double value) {
  const int64_t width = tensor.heads * tensor.columns;
  for (int64_t i = rows.begin * width; i < std::min(tensor.elements(), rows.end * width); ++i) tensor.set(i, value);
}

bool same_bits(const HostTensor& a, const HostTensor& b, Range rows) {
  const int64_t width = a.heads * a.columns;
  for (int64_t i = rows.begin * width; i < rows.end * width; ++i) {
    if (!(a.at(i) == b.at(i))) return false;
  }
  return true;
}

// NaN in one document changes no bit of the others'; a later number no bit of an earlier token, though it lies in its chunk.
TEST(LinearKernels, WhatMayNotMatterDoesNot) {
  for (const std::string_view path : kernels::available_cpu_paths()) {
    CheckOptions options{.compare = false};
    options.kernels = &kernels::cpu_kernels(path);
    for (const Layer layer : kLinearLayers) {
      LinearCase c{.layer = layer, .lengths = {50, 30, 90}, .ranks = 2, .dim = 10, .dim_v = 18};
      c.element = DType::fp32;
      SCOPED_TRACE(std::string(path) + ": " + c.describe());
      const CheckTensors inputs = random_inputs(c.problem(), 9);
      const CheckTensors clean = check_schedule(c.schedule(), inputs, options).tensors;
      CheckTensors poisoned = inputs, later = inputs;
      for (HostTensor* t : {&poisoned.q, &poisoned.k, &poisoned.v, &poisoned.g, &poisoned.beta, &poisoned.a,
                            &poisoned.b, &poisoned.dout})
        set_rows(*t, {50, 80}, std::nan(""));
      for (HostTensor* t : {&later.q, &later.k, &later.v}) set_rows(*t, {110, 111}, 0.3);
      poisoned = check_schedule(c.schedule(), std::move(poisoned), options).tensors;
      later = check_schedule(c.schedule(), std::move(later), options).tensors;
      for (const Range rows : {Range{0, 50}, Range{80, 170}}) {
        for (HostTensor CheckTensors::*member :
             {&CheckTensors::out, &CheckTensors::dq, &CheckTensors::dk, &CheckTensors::dv, &CheckTensors::dg,
              &CheckTensors::dbeta, &CheckTensors::da, &CheckTensors::db})
          EXPECT_TRUE((clean.*member).empty() || same_bits(clean.*member, poisoned.*member, rows));
      }
      EXPECT_FALSE(same_bits(clean.out, poisoned.out, {50, 80}));
      EXPECT_TRUE(same_bits(clean.out, later.out, {0, 110}));
      EXPECT_FALSE(same_bits(clean.out, later.out, {110, 111}));
    }
  }
}

// Decays of 1, of e^-20 and of 0, in blocks and whole chunks.
TEST(LinearKernels, ExtremeGates) {
  for (const std::string_view path : kernels::available_cpu_paths()) {
    for (const Layer layer : {Layer::mamba2, Layer::gla, Layer::gdn, Layer::kda, Layer::rwkv6, Layer::rwkv7}) {
      for (const double g : {0.0, -20.0, -1e30, -std::numeric_limits<double>::infinity()}) {
        LinearCase c{.layer = layer, .lengths = {200}, .ranks = 2, .dim = 10, .dim_v = 18};
        c.element = DType::fp32;
        CheckTensors inputs = random_inputs(c.problem(), 8);
        for (int64_t t = 0; t < 80; t += 3) set_rows(inputs.g, {t, t + 1}, g);
        set_rows(inputs.g, {110, 190}, g);
        CheckOptions options;
        options.kernels = &kernels::cpu_kernels(path);
        for (const TensorError& error : check_schedule(c.schedule(), inputs, options).errors)
          EXPECT_LE(error.max_abs, 2 * error.bound) << path << " " << name_of(layer) << " " << g << " " << error.name;
      }
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
