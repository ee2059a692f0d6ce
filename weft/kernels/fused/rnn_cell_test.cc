// Cells of recurrent networks: the reference in fp64 against the cells' formulas and difference quotients, every path in fp32
// against the reference, at sizes that are no multiple of anything; what is not finite.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "weft/base/random.h"
#include "weft/kernels/fused/fused.h"
#include "weft/kernels/kernels.h"

namespace weft::kernels {
namespace {

constexpr RnnCell kCells[] = {RnnCell::gru, RnnCell::lstm};
constexpr double kNoNumber = std::numeric_limits<double>::quiet_NaN();

template <typename T>
constexpr DType kTypeOf = std::is_same_v<T, double> ? DType::fp64 : DType::fp32;

std::vector<double> numbers(int64_t count, Random& random, double deviation = 1) {
  std::vector<double> made(static_cast<size_t>(count));
  for (double& x : made) x = double{static_cast<float>(deviation * random.normal())};  // the same in both types
  return made;
}
template <typename T>
std::vector<T> as(const std::vector<double>& from) {
  return {from.begin(), from.end()};
}

struct RnnInput {
  RnnCell cell;
  int64_t rows, channels;
  std::vector<double> x, before, state, a, peephole, dnext;

  RnnInput(RnnCell c, int64_t r, int64_t n, uint64_t seed) : cell(c), rows(r), channels(n) {
    Random random(seed);
    const int64_t states = r * rows_of_state(c) * n;
    x = numbers(3 * r * n, random, 2), before = numbers(states, random), state = numbers(states, random);
    a = numbers(3 * n, random), peephole = numbers(2 * n, random), dnext = numbers(states, random);
  }
};

struct Stepped {
  std::vector<double> rest, jacobian;
  RnnResidual residual;
};
template <typename T>
Stepped stepped(const FusedKernels& kernels, const RnnInput& in, bool from_state) {
  const auto x = as<T>(in.x), before = as<T>(in.before), state = as<T>(in.state), a = as<T>(in.a),
             p = as<T>(in.peephole);
  std::vector<T> rest(before.size()), jacobian(before.size() * static_cast<size_t>(rows_of_state(in.cell)));
  const RnnResidual residual =
      kernels.rnn_step({in.cell, kTypeOf<T>, x.data(), before.data(), from_state ? state.data() : nullptr, a.data(),
                        p.data(), rest.data(), jacobian.data(), in.rows, in.channels});
  return {{rest.begin(), rest.end()}, {jacobian.begin(), jacobian.end()}, residual};
}

struct Gradients {
  std::vector<double> dx, da, dpeephole;
};
template <typename T>
Gradients gradients(const FusedKernels& kernels, const RnnInput& in) {
  const auto x = as<T>(in.x), before = as<T>(in.before), a = as<T>(in.a), p = as<T>(in.peephole),
             dnext = as<T>(in.dnext);
  std::vector<T> dx(x.size()), da(a.size(), T{1}), dp(p.size(), T{1});
  kernels.rnn_backward({in.cell, kTypeOf<T>, x.data(), before.data(), a.data(), p.data(), dnext.data(), dx.data(),
                        da.data(), dp.data(), in.rows, in.channels});
  return {{dx.begin(), dx.end()}, {da.begin(), da.end()}, {dp.begin(), dp.end()}};
}

void expect_near(const std::vector<double>& got, const std::vector<double>& want, double error,
                 const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], error * (1 + std::abs(want[i]))) << what << i;
}

double sigma(double x) { return 1 / (1 + std::exp(-x)); }

// f at one place, as papers have it.
std::vector<double> formula(const RnnInput& in, int64_t row, int64_t c) {
  const int64_t n = in.channels, states = rows_of_state(in.cell);
  const auto at = [&](const std::vector<double>& from, int64_t i) { return from[static_cast<size_t>(i * n + c)]; };
  const double h = at(in.before, row * states + states - 1);
  const auto gate = [&](int64_t i, double read) { return at(in.a, i) * read + at(in.x, row * 3 + i); };
  if (in.cell == RnnCell::gru) {
    const double z = sigma(gate(0, h)), r = sigma(gate(1, h));
    return {z * std::tanh(gate(2, r * h)) + (1 - z) * h};
  }
  const double cell = at(in.before, row * states), f = sigma(gate(0, h) + at(in.peephole, 0) * cell);
  const double next = f * cell + (1 - f) * std::tanh(gate(2, h));
  return {next, sigma(gate(1, h) + at(in.peephole, 1) * next) * std::tanh(next)};
}

TEST(RnnCells, ReferenceIsTheFormula) {
  for (const RnnCell cell : kCells) {
    const RnnInput in(cell, 5, 7, 1);
    const int64_t states = rows_of_state(cell);
    const Stepped whole = stepped<double>(reference_fused_kernels(), in, false);
    const Stepped rest = stepped<double>(reference_fused_kernels(), in, true);
    double largest = 0;
    for (int64_t i = 0; i < 5 * states * 7; ++i) {
      const auto n = static_cast<size_t>(i);
      const double want = formula(in, i / (7 * states), i % 7)[static_cast<size_t>(i / 7 % states)];
      EXPECT_NEAR(whole.rest[n], want, 1e-14);
      EXPECT_NEAR(rest.rest[n], want - in.state[n], 1e-14);
      largest = std::max(largest, std::abs(rest.rest[n]));
    }
    EXPECT_EQ(rest.residual.largest, largest);
    EXPECT_TRUE(rest.residual.finite);
  }
}

TEST(RnnCells, JacobiansAndGradientsAreTheDerivatives) {
  constexpr double kSmall = 1e-6;
  const FusedKernels& reference = reference_fused_kernels();
  for (const RnnCell cell : kCells) {
    RnnInput in(cell, 3, 5, 2);
    const int64_t states = rows_of_state(cell), n = in.channels;
    // Of f in direction of one number: all of it, and its product with dnext.
    const auto slope = [&](double& number, std::vector<double>& each) {
      const double here = number;
      number = here + kSmall;
      const std::vector<double> up = stepped<double>(reference, in, false).rest;
      number = here - kSmall;
      const std::vector<double> down = stepped<double>(reference, in, false).rest;
      number = here;
      double sum = 0;
      each.resize(up.size());
      for (size_t i = 0; i < up.size(); ++i) each[i] = (up[i] - down[i]) / (2 * kSmall), sum += each[i] * in.dnext[i];
      return sum;
    };
    const Stepped at = stepped<double>(reference, in, false);
    std::vector<double> each;
    for (int64_t place = 0; place < static_cast<int64_t>(in.before.size()); ++place) {
      slope(in.before[static_cast<size_t>(place)], each);
      const int64_t row = place / (n * states), j = place / n % states, c = place % n;
      for (int64_t i = 0; i < states; ++i) {
        const auto of = static_cast<size_t>((row * states + i) * n + c);
        EXPECT_NEAR(at.jacobian[static_cast<size_t>(((row * states + i) * states + j) * n + c)], each[of], 1e-8);
      }
    }
    const Gradients got = gradients<double>(reference, in);
    for (size_t i = 0; i < in.x.size(); ++i) EXPECT_NEAR(got.dx[i], slope(in.x[i], each), 1e-8);
    for (size_t i = 0; i < in.a.size(); ++i) EXPECT_NEAR(got.da[i], 1 + slope(in.a[i], each), 1e-8);
    for (size_t i = 0; i < in.peephole.size(); ++i)
      EXPECT_NEAR(got.dpeephole[i], 1 + slope(in.peephole[i], each), 1e-8);
  }
}

TEST(RnnCells, EveryPathAgainstTheReference) {
  const FusedKernels& reference = reference_fused_kernels();
  for (const std::string_view path : available_cpu_paths()) {
    const FusedKernels& kernels = fused_kernels(path);
    for (const RnnCell cell : kCells) {
      for (const int64_t channels : {1, 3, 8, 15, 16, 17, 33, 64, 101}) {
        const RnnInput in(cell, 150, channels, static_cast<uint64_t>(channels));  // more rows than a partial sum has
        const std::string what = std::string(path) + ", " + std::to_string(channels) + " channels: ";
        for (const bool from_state : {false, true}) {
          const Stepped got = stepped<float>(kernels, in, from_state),
                        want = stepped<double>(reference, in, from_state);
          expect_near(got.rest, want.rest, 1e-6, what);
          expect_near(got.jacobian, want.jacobian, 2e-6, what);
          EXPECT_NEAR(got.residual.largest, want.residual.largest, 1e-5) << what;
          EXPECT_TRUE(got.residual.finite) << what;
        }
        const Gradients got = gradients<float>(kernels, in), want = gradients<double>(reference, in);
        expect_near(got.dx, want.dx, 3e-6, what);
        expect_near(got.da, want.da, 2e-5, what);
        expect_near(got.dpeephole, want.dpeephole, 2e-5, what);
      }
    }
  }
}

// Saturated gates, and tanh near 0, where a difference of exponentials would lose all digits: an input of 1e-4 with z = 1.
TEST(RnnCells, LargeAndSmallInputs) {
  for (const std::string_view path : available_cpu_paths()) {
    RnnInput in(RnnCell::gru, 1, 6, 3);
    std::fill(in.a.begin(), in.a.end(), 0.0), std::fill(in.before.begin(), in.before.end(), 0.0);
    for (size_t c = 0; c < 6; ++c) in.x[c] = 200;
    const double given[] = {1e-4, -1e-4, 200, -200, 0.59, 0.61};
    for (size_t c = 0; c < 6; ++c) in.x[12 + c] = given[c];
    const Stepped got = stepped<float>(fused_kernels(path), in, false);
    for (size_t c = 0; c < 6; ++c) {
      EXPECT_NEAR(got.rest[c], std::tanh(given[c]), 3e-7 * std::abs(std::tanh(given[c]))) << path << " " << given[c];
    }
    for (size_t c = 0; c < 6; ++c) in.x[c] = -200;
    for (const double next : stepped<float>(fused_kernels(path), in, false).rest) EXPECT_NEAR(next, 0, 1e-30) << path;
  }
}

TEST(RnnCells, WhatIsNotFiniteIsSeen) {
  std::vector<const FusedKernels*> all = {&reference_fused_kernels()};
  for (const std::string_view path : available_cpu_paths()) all.push_back(&fused_kernels(path));
  for (const FusedKernels* kernels : all) {
    for (const RnnCell cell : kCells) {
      for (const int64_t place : {0, 17, 3 * 2 * 18 - 1}) {
        RnnInput in(cell, 2, 18, 4);
        in.x[static_cast<size_t>(place)] = kNoNumber;
        EXPECT_FALSE(stepped<float>(*kernels, in, true).residual.finite) << kernels->name() << " " << place;
      }
    }
  }
}

TEST(RnnCells, CorrectionsStayWithinTheBound) {
  constexpr float kInfinite = std::numeric_limits<float>::infinity();
  std::vector<const FusedKernels*> all = {&reference_fused_kernels()};
  for (const std::string_view path : available_cpu_paths()) all.push_back(&fused_kernels(path));
  for (const FusedKernels* kernels : all) {
    for (const int64_t more : {0, 13}) {  // in whole vectors and in the rest of a row
      std::vector<float> state = {0.5f, 0.5f, -0.5f, 0.5f, 0.25f, 0.25f, -1.0f};
      std::vector<float> by = {0.25f, 3.0f, -3.0f, kInfinite, static_cast<float>(kNoNumber), -kInfinite, 0.0f};
      std::vector<float> rest = {9, 9, 9, -0.5f, 0.5f, 0.125f, 9};
      const std::vector<float> want = {0.75f, 1.5f, -1.5f, 0.0f, 0.75f, 0.375f, -1.0f};
      for (std::vector<float>* v : {&state, &by, &rest}) v->insert(v->begin(), static_cast<size_t>(more), 0.0f);
      kernels->rnn_correct(
          {DType::fp32, state.data(), by.data(), rest.data(), 1.5, static_cast<int64_t>(state.size())});
      for (size_t i = 0; i < want.size(); ++i) {
        EXPECT_EQ(state[i + static_cast<size_t>(more)], want[i]) << kernels->name() << " " << i;
      }
    }
  }
}

}  // namespace
}  // namespace weft::kernels
