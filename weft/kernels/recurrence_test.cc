// The parts of a run add up to the run, maps compose, and the adjoint of a map is its transposed transition.
#include "weft/kernels/recurrence.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "weft/base/random.h"

namespace weft::kernels {
namespace {

// One head of one document, in fp64, cut anywhere.
struct Tokens {
  int64_t rows, dim, dim_v, gates;
  double scale = 0.7;
  std::vector<double> q, k, v, g, dout;

  Tokens(int64_t r, int64_t d, int64_t dv, int64_t columns, double strength, uint64_t seed)
      : rows(r), dim(d), dim_v(dv), gates(columns) {
    Random random(seed, 0);
    const auto fill = [&](std::vector<double>& x, int64_t width) {
      for (int64_t i = 0; i < rows * width; ++i) x.push_back(random.normal());
    };
    fill(q, dim), fill(k, dim), fill(v, dim_v), fill(dout, dim_v);
    for (int64_t i = 0; i < rows * std::max<int64_t>(1, gates); ++i) g.push_back(-strength * std::exp(random.normal()));
  }
  static ConstView view(const std::vector<double>& x, int64_t row, int64_t width) {
    return {x.data() + row * width, DType::fp64, width, width};
  }
  TokenRun run(int64_t begin, int64_t end, std::span<const int64_t> starts = {}) const {
    return {.q = view(q, begin, dim),
            .k = view(k, begin, dim),
            .v = view(v, begin, dim_v),
            .g = gates == 0 ? ConstView{} : view(g, begin, gates),
            .decays = {.columns = gates, .log_decay = gates == 0 ? -0.03 : 0},
            .rows = end - begin,
            .dim = dim,
            .dim_v = dim_v,
            .scale = scale,
            .starts = starts};
  }
};

struct Block {
  std::vector<double> data;
  explicit Block(int64_t size) : data(static_cast<size_t>(size), 0.0) {}
  View view(int64_t width, int64_t row = 0) { return {data.data() + row * width, DType::fp64, width, width}; }
};

void expect_near(const std::vector<double>& a, const std::vector<double>& b, const char* what) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-11 * (1 + std::abs(a[i]))) << what << " " << i;
}

std::vector<Tokens> samples() {
  std::vector<Tokens> list;
  for (const int64_t gates : {int64_t{0}, int64_t{1}, int64_t{5}}) {
    for (const double strength : {0.01, 1.0, 30.0}) list.emplace_back(150, 5, 3, gates, strength, 11);
  }
  return list;
}

// Everything about a run that is cut at `cut`, put together from its two parts, against the run as a whole.
TEST(Recurrence, PartsOfARunAddUp) {
  for (const Tokens& t : samples()) {
    for (const int64_t cut : {1, 16, 64, 77, 149}) {
      const TokenRun all = t.run(0, t.rows), left = t.run(0, cut), right = t.run(cut, t.rows);
      const int64_t size = t.dim * t.dim_v, columns = std::max<int64_t>(1, t.gates);
      Block state(size), dstate(size);
      summarise(left, state.view(size));
      summarise_backward(right, Tokens::view(t.dout, cut, t.dim_v), dstate.view(size));

      Block out(t.rows * t.dim_v), parts(t.rows * t.dim_v);
      scan(all, out.view(t.dim_v));
      scan(left, parts.view(t.dim_v));
      scan(right, parts.view(t.dim_v, cut));
      apply_state(right, state.view(size), parts.view(t.dim_v, cut));
      expect_near(out.data, parts.data, "out");

      const ConstView dout = Tokens::view(t.dout, 0, t.dim_v), dout_right = Tokens::view(t.dout, cut, t.dim_v);
      Block dq(t.rows * t.dim), dk(dq), dv(t.rows * t.dim_v), dg(t.rows * columns);
      Block dq2(dq), dk2(dk), dv2(dv), dg2(dg);
      const auto gradients = [&](Block& a, Block& b, Block& c, Block& d, int64_t row) {
        return RunGradients{a.view(t.dim, row), b.view(t.dim, row), c.view(t.dim_v, row), d.view(columns, row)};
      };
      scan_backward(all, dout, {}, gradients(dq, dk, dv, dg, 0));
      scan_backward(left, dout, {}, gradients(dq2, dk2, dv2, dg2, 0));
      apply_dstate(left, dstate.view(size), {}, gradients(dq2, dk2, dv2, dg2, 0));
      scan_backward(right, dout_right, state.view(size), gradients(dq2, dk2, dv2, dg2, cut));
      expect_near(dq.data, dq2.data, "dq");
      expect_near(dk.data, dk2.data, "dk");
      expect_near(dv.data, dv2.data, "dv");
      expect_near(dg.data, dg2.data, "dg");
    }
  }
}

TEST(Recurrence, MapsCompose) {
  for (const Tokens& t : samples()) {
    const int64_t size = t.dim * t.dim_v, columns = std::max<int64_t>(1, t.gates), cut = 61;
    const TokenRun all = t.run(0, t.rows), left = t.run(0, cut), right = t.run(cut, t.rows);
    const auto summary = [&](const TokenRun& run) {
      Block to(size);
      summarise(run, to.view(size));
      return to;
    };
    const auto passed = [&](const TokenRun& run) {
      Block to(columns);
      transition(run, to.view(columns));
      return to;
    };
    Block earlier = summary(left), later = summary(right), joined(size);
    Block first = passed(left), second = passed(right), both(columns);
    compose_states({.near = earlier.view(size),
                    .far = later.view(size),
                    .transition = t.gates == 0 ? ConstView{} : ConstView(second.view(columns)),
                    .decays = right.decays,
                    .rows = right.rows,
                    .dim = t.dim,
                    .dim_v = t.dim_v},
                   joined.view(size));
    expect_near(summary(all).data, joined.data, "state");
    multiply_transitions(first.view(columns), second.view(columns), columns, both.view(columns));
    expect_near(passed(all).data, both.data, "transition");
  }
}

// <out due to R, dout> = <R, gradient of R>, and the gradient passes a run by the transition.
TEST(Recurrence, SummariseBackwardIsTheAdjoint) {
  for (const Tokens& t : samples()) {
    const int64_t size = t.dim * t.dim_v;
    const TokenRun run = t.run(0, t.rows);
    Random random(4, 0);
    Block entering(size), gradient(size), out(t.rows * t.dim_v);
    for (double& x : entering.data) x = random.normal();
    apply_state(run, entering.view(size), out.view(t.dim_v));
    summarise_backward(run, Tokens::view(t.dout, 0, t.dim_v), gradient.view(size));
    double one = 0, other = 0;
    for (size_t i = 0; i < out.data.size(); ++i) one += out.data[i] * t.dout[i];
    for (size_t i = 0; i < gradient.data.size(); ++i) other += entering.data[i] * gradient.data[i];
    EXPECT_NEAR(one, other, 1e-10 * (1 + std::abs(one)));
  }
}

// A document's begin inside a run: nothing passes it in either direction.
TEST(Recurrence, DocumentsReset) {
  const Tokens t(40, 3, 2, 3, 0.1, 5);
  const int64_t size = t.dim * t.dim_v, start = 17;
  const std::vector<int64_t> starts = {start};
  const TokenRun run = t.run(0, 40, starts);
  Block state(size), alone(size), passed(3), gradient(size), head(size);
  summarise(run, state.view(size));
  summarise(t.run(start, 40), alone.view(size));
  EXPECT_EQ(state.data, alone.data);
  transition(run, passed.view(3));
  EXPECT_EQ(passed.data, std::vector<double>(3, 0.0));
  const ConstView dout = Tokens::view(t.dout, 0, t.dim_v);
  summarise_backward(run, dout, gradient.view(size));
  summarise_backward(t.run(0, start), dout, head.view(size));
  EXPECT_EQ(gradient.data, head.data);
  const std::vector<int64_t> at_once = {0};
  summarise_backward(t.run(0, 40, at_once), dout, gradient.view(size));
  EXPECT_EQ(gradient.data, std::vector<double>(static_cast<size_t>(size), 0.0));
}

}  // namespace
}  // namespace weft::kernels
