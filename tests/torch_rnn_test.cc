// Nonlinear recurrent networks by Newton's method over ranks as threads: results, states and all gradients against the cells
// token by token in torch operators, in fp64, over methods, layouts and ranks; what does not converge; documents apart.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/rnn_case.h"
#include "tests/tensors.h"
#include "weft/base/error.h"
#include "weft/base/test_level.h"
#include "weft/mask/testing.h"

namespace weft {
namespace {

[[maybe_unused]] const bool one_thread = (at::set_num_threads(1), true);  // each rank is one

struct Upstream {
  at::Tensor dout, dfinal;
};
Upstream random_gradients(const RnnCase& c, at::ScalarType type = at::kDouble) {
  return {at::randn({c.tokens(), kRnnChannels}, type),
          at::randn({static_cast<int64_t>(c.documents.size()), state_rows(c.cell), kRnnChannels}, type)};
}

int expect_right(const RnnCase& c) {
  SCOPED_TRACE(c.describe());
  RnnTensors in = random_inputs(c);
  const Upstream up = random_gradients(c);
  for (at::Tensor* t : in.all()) {
    if (t->defined()) t->requires_grad_(true);
  }
  const auto [out, final_state] = token_loop(c, in);
  ((out * up.dout).sum() + (final_state * up.dfinal).sum()).backward();
  const RnnRun got = over_ranks(c, in, up.dout, up.dfinal);
  EXPECT_LT(distance(got.out, out.detach()), 1e-11);
  EXPECT_LT(distance(got.final_state, final_state.detach()), 1e-11);
  EXPECT_LT(distance(got.gradients.x, in.x.grad()), 1e-9);
  EXPECT_LT(distance(got.gradients.a, in.a.grad()), 1e-9);
  if (c.cell == RnnCell::lstm) {
    EXPECT_LT(distance(got.gradients.peephole, in.peephole.grad()), 1e-9);
  }
  if (c.initial) {
    EXPECT_LT(distance(got.gradients.initial, in.initial.grad()), 1e-9);
  }
  return got.iterations;
}

constexpr RnnCell kCells[] = {RnnCell::gru, RnnCell::lstm};

TEST(ParaRnn, EveryMethodAndLayoutAgainstTheTokenLoop) {
  const bool all = test_level() > 1;
  for (const RnnCell cell : kCells) {
    for (const Method* method : linear_methods()) {
      for (const int ranks : all ? std::vector<int>{1, 2, 3, 5} : std::vector<int>{3}) {
        RnnCase c{.cell = cell, .documents = {29}, .ranks = ranks, .method = std::string(method->name), .heads = 3};
        expect_right(c);
        c.documents = {3, 1, 17, 1, 1, 8}, c.initial = true;
        expect_right(c);
        c.layout = "zigzag";
        if (method->name != "head-exchange") expect_right(c);
      }
    }
    expect_right({.cell = cell, .documents = {2, 1}, .ranks = 5});  // ranks without tokens
  }
}

// Neither the number of ranks nor the way of the scan changes how many iterations it takes: about as many as the digits double.
TEST(ParaRnn, IterationsDoNotDependOnRanks) {
  for (const RnnCell cell : kCells) {
    RnnCase c{.cell = cell, .documents = {200}};
    const RnnTensors in = random_inputs(c);
    const Upstream up = random_gradients(c);
    const int one = over_ranks(c, in, up.dout, up.dfinal).iterations;
    EXPECT_LE(one, 12);
    for (const int ranks : {2, 4, 7}) {
      c.ranks = ranks;
      EXPECT_EQ(over_ranks(c, in, up.dout, up.dfinal).iterations, one);
    }
  }
}

// Each entry of the Jacobian against the difference quotient of the step.
TEST(ParaRnn, JacobiansAreTheDerivatives) {
  for (const RnnCell cell : kCells) {
    const RnnCase c{.cell = cell, .documents = {7}};
    const RnnTensors in = random_inputs(c);
    const int64_t rows = state_rows(cell);
    const at::Tensor before = at::randn({7, rows, kRnnChannels}, at::kDouble);
    const RnnStep step = rnn_step(cell, in.x, before, {}, {in.a, in.peephole});
    constexpr double kSmall = 1e-6;
    for (int64_t j = 0; j < rows; ++j) {
      const auto moved = [&](double by) {
        at::Tensor other = before.clone();
        other.select(1, j).add_(by);
        return rnn_step(cell, in.x, other, {}, {in.a, in.peephole}).rest;
      };
      const at::Tensor slope = (moved(kSmall) - moved(-kSmall)) / (2 * kSmall);
      for (int64_t i = 0; i < rows; ++i) {
        EXPECT_LT(distance(step.jacobian.select(1, i * rows + j), slope.select(1, i)), 1e-8);
      }
    }
  }
}

// And all gradients against difference quotients of the operation over ranks, each in some direction.
TEST(ParaRnn, GradientsAreTheDerivatives) {
  for (const RnnCell cell : kCells) {
    const RnnCase c{.cell = cell, .documents = {9, 14}, .ranks = 2, .layout = "zigzag", .initial = true};
    RnnTensors in = random_inputs(c);
    const Upstream up = random_gradients(c);
    RnnRun got = over_ranks(c, in, up.dout, up.dfinal);
    for (size_t n = 0; n < in.all().size(); ++n) {
      at::Tensor& t = *in.all()[n];
      if (!t.defined()) continue;
      const at::Tensor direction = at::randn(t.sizes(), at::kDouble), here = t;
      const auto loss = [&](double by) {
        t = here + by * direction;
        const RnnRun moved = over_ranks(c, in, up.dout, up.dfinal);
        return ((moved.out * up.dout).sum() + (moved.final_state * up.dfinal).sum()).item<double>();
      };
      constexpr double kSmall = 1e-5;
      const double slope = (loss(kSmall) - loss(-kSmall)) / (2 * kSmall);
      t = here;
      const double gradient = (*got.gradients.all()[n] * direction).sum().item<double>();
      EXPECT_NEAR(gradient, slope, 1e-6 * (1 + std::abs(slope))) << "input " << n;
    }
  }
}

// Hidden weights so large that neighbouring sequences part: the solution is still found, a token an iteration at worst.
TEST(ParaRnn, StaysBoundedWhereStepsGrow) {
  for (const RnnCell cell : kCells) {
    RnnCase c{.cell = cell, .documents = {40}, .ranks = 2};
    c.options.iterations = 45;
    RnnTensors in = random_inputs(c);
    in.a.mul_(6);
    const Upstream up = random_gradients(c);
    EXPECT_LT(distance(over_ranks(c, in, up.dout, up.dfinal).out, token_loop(c, in).first), 1e-6) << name_of(cell);
  }
}

TEST(ParaRnn, WhatDoesNotConvergeIsRefusedOnEveryRank) {
  RnnCase c{.documents = {60}, .ranks = 3};
  c.options.iterations = 1;
  const RnnTensors in = random_inputs(c);
  const Upstream up = random_gradients(c);
  try {
    over_ranks(c, in, up.dout, up.dfinal);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::wrong);
    EXPECT_NE(std::string(error.what()).find("after 1 iterations of Newton's method"), std::string::npos)
        << error.what();
    EXPECT_NE(std::string(error.what()).find("1e-11 is allowed; allow more iterations"), std::string::npos)
        << error.what();
  }
}

// Other numbers, NaN too, in one document do not reach the others, which differ by rounding where it takes more or fewer iterations
// for all; after a NaN all of its document is NaN.
TEST(ParaRnn, DocumentsStayApart) {
  for (const RnnCell cell : kCells) {
    for (const double value : {0.25, std::numeric_limits<double>::quiet_NaN()}) {
      RnnCase c{.cell = cell, .documents = {6, 1, 30, 3}, .ranks = 3, .layout = "zigzag"};
      const RnnTensors in = random_inputs(c);
      RnnTensors other = in;
      other.x = in.x.clone();
      other.x.narrow(0, 9, 1).fill_(value);
      const Upstream up = random_gradients(c);
      const RnnRun before = over_ranks(c, in, up.dout, up.dfinal), after = over_ranks(c, other, up.dout, up.dfinal);
      for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 9}, {37, 3}}) {
        EXPECT_LT(distance(before.out.narrow(0, first, count), after.out.narrow(0, first, count)), 1e-12);
      }
      for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 7}, {37, 3}}) {
        EXPECT_LT(distance(before.gradients.x.narrow(0, first, count), after.gradients.x.narrow(0, first, count)),
                  1e-11);
      }
      EXPECT_EQ(after.out.narrow(0, 9, 28).isnan().all().item<bool>(), std::isnan(value)) << name_of(cell);
    }
  }
}

TEST(ParaRnn, Fp32AndInputsOfLowerPrecision) {
  for (const RnnCell cell : kCells) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const RnnCase c{.cell = cell, .documents = {50, 9}, .ranks = 3};
      RnnTensors in = random_inputs(c);
      in.x = in.x.to(type), in.a = in.a.to(type);
      if (in.peephole.defined()) in.peephole = in.peephole.to(type);
      const Upstream up = random_gradients(c);
      const RnnRun got = over_ranks(c, in, up.dout.to(type), up.dfinal.to(at::kFloat));
      EXPECT_EQ(got.out.scalar_type(), type);
      RnnTensors wide = in;
      for (at::Tensor* t : wide.all()) {
        if (t->defined()) *t = t->to(at::kDouble).requires_grad_(true);
      }
      const auto [out, final_state] = token_loop(c, wide);
      ((out * up.dout.to(type)).sum() + (final_state * up.dfinal).sum()).backward();
      const double unit = type == at::kFloat ? 1e-5 : 1e-2;
      EXPECT_LT(distance(got.out.to(at::kDouble), out.detach()), unit);
      EXPECT_LT(distance(got.gradients.x.to(at::kDouble), wide.x.grad()), 10 * unit);
      EXPECT_LT(distance(got.gradients.a.to(at::kDouble), wide.a.grad()), 100 * unit);
    }
  }
}

TEST(ParaRnn, WhatDoesNotFitIsRefused) {
  const RnnCase c{.documents = {8}};
  const Problem problem = c.problem(at::kDouble);
  ThreadTransport transport(1);
  run_threads(transport, [&](int) {
    BufferPool pool;
    const auto executor_of = [&](const Problem& of) {
      return std::make_shared<Executor>(make_schedule("chain", of), 0, transport.endpoint(0),
                                        kernels::reference_kernels(), pool);
    };
    const auto halo_of = [&](int64_t width) {
      return std::make_shared<HaloExchange>(make_halo({8}, problem.query_layout, width), 0, transport.endpoint(0));
    };
    const ScheduledSequence ranks(executor_of(problem), halo_of(2));
    const auto call = [&](RnnCell cell, std::vector<int64_t> x, std::vector<int64_t> a, NewtonOptions options = {}) {
      return refusal([&] { para_rnn(cell, {.x = at::zeros(x), .parameters = {.a = at::zeros(a)}}, ranks, options); });
    };
    EXPECT_EQ(call(RnnCell::gru, {7, 3, 6}, {3, 6}),
              "para_rnn: x is [7, 3, 6]; this rank's plan needs [.., 8, 3, channels]: local tokens, gates, channels");
    EXPECT_EQ(call(RnnCell::gru, {8, 3, 6}, {2, 6}), "para_rnn: a is [2, 6]; for this x and cell gru it is [3, 6]");
    EXPECT_EQ(call(RnnCell::lstm, {8, 3, 6}, {3, 6}),
              "para_rnn: peephole is missing; for this x and cell lstm it is [2, 6]");
    EXPECT_EQ(call(RnnCell::gru, {8, 3, 6}, {3, 6}, {.iterations = -1}),
              "para_rnn: tolerance 0, iterations -1; give numbers of at least 0");
    EXPECT_NE(refusal([&] { ScheduledSequence(executor_of(problem), halo_of(3)); }).find("a halo of width 3"),
              std::string::npos);
    Problem other = problem;
    other.layer = Layer::linear;
    EXPECT_NE(refusal([&] { ScheduledSequence(executor_of(other), halo_of(2)); }).find("a schedule of layer linear"),
              std::string::npos);
    EXPECT_NE(refusal([] { rnn_cell_of("gruu"); }).find("gru"), std::string::npos);
  });
}

}  // namespace
}  // namespace weft
