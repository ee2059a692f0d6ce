// The parts of a run add up to the run, maps compose, and the adjoint of a map is its transposed transition.
#include "weft/kernels/linear/recurrence.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "weft/base/random.h"

namespace weft::kernels {
namespace {

enum class Mixing { none, delta, low_rank, columns };

// One head of one document, in fp64, cut anywhere.
struct Tokens {
  int64_t rows, dim, dim_v, gates, blocks;
  Mixing mixing = Mixing::none;
  double scale = 0.7;
  std::vector<double> q, k, v, g, beta, a, b, dout;

  // `columns` of g, or blocks of a.
  Tokens(int64_t r, int64_t d, int64_t dv, int64_t columns, double strength, uint64_t seed, Mixing m = Mixing::none)
      : rows(r),
        dim(d),
        dim_v(dv),
        gates(m == Mixing::columns ? 0 : columns),
        blocks(m == Mixing::columns ? columns : 0),
        mixing(m) {
    Random random(seed, 0);
    const auto fill = [&](std::vector<double>& x, int64_t width) {
      for (int64_t i = 0; i < rows * width; ++i) x.push_back(random.normal());
    };
    fill(q, dim), fill(k, dim), fill(v, dim_v), fill(dout, dim_v), fill(a, a_columns()), fill(beta, 1);
    for (int64_t i = 0; i < rows * std::max<int64_t>(1, gates); ++i) g.push_back(-strength * std::exp(random.normal()));
    for (double& x : beta) x = 2 / (1 + std::exp(x));
    if (mixing == Mixing::columns) {
      for (double& x : a) x *= 0.9 / static_cast<double>(blocks);  // of both signs, some above 1
    } else if (mixing != Mixing::none) {
      normalise(k), normalise(a);
    }
    for (const double x : a) b.push_back(-0.8 * x + 0.05 * random.normal());
  }
  int64_t a_columns() const { return mixing == Mixing::columns ? blocks * dim_v : dim; }
  void normalise(std::vector<double>& x) const {
    for (int64_t row = 0; row < rows; ++row) {
      double squares = 0;
      for (int64_t c = 0; c < dim; ++c) squares += std::pow(x[static_cast<size_t>(row * dim + c)], 2);
      for (int64_t c = 0; c < dim; ++c) x[static_cast<size_t>(row * dim + c)] /= std::sqrt(squares);
    }
  }
  // Numbers of a transition.
  int64_t passed() const {
    if (mixing == Mixing::columns) return a_columns();
    return mixing == Mixing::none ? std::max<int64_t>(1, gates) : dim * dim;
  }
  // No transition is needed: all know it.
  bool constant() const { return mixing == Mixing::none && gates == 0; }
  bool mixes_rows() const { return mixing == Mixing::delta || mixing == Mixing::low_rank; }
  static ConstView view(const std::vector<double>& x, int64_t row, int64_t width) {
    return {x.data() + row * width, DType::fp64, width, width};
  }
  TokenRun run(int64_t begin, int64_t end, std::span<const int64_t> starts = {}) const {
    return {.q = view(q, begin, dim),
            .k = view(k, begin, dim),
            .v = view(v, begin, dim_v),
            .g = gates == 0 ? ConstView{} : view(g, begin, gates),
            .beta = mixing == Mixing::delta ? view(beta, begin, 1) : ConstView{},
            .a = mixing == Mixing::low_rank || blocks > 0 ? view(a, begin, a_columns()) : ConstView{},
            .b = mixing == Mixing::low_rank ? view(b, begin, dim) : ConstView{},
            .blocks = blocks,
            .u = {},
            .decays = {.columns = gates, .log_decay = gates == 0 && mixing == Mixing::none ? -0.03 : 0},
            .rows = end - begin,
            .dim = dim,
            .dim_v = dim_v,
            .scale = scale,
            .starts = starts,
            .initial = {},
            .ends = false};
  }
};

struct Buffer {
  std::vector<double> data;
  explicit Buffer(int64_t size) : data(static_cast<size_t>(size), 0.0) {}
  View view(int64_t width, int64_t row = 0) { return {data.data() + row * width, DType::fp64, width, width}; }
};

void expect_near(const std::vector<double>& a, const std::vector<double>& b, const char* what) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-11 * (1 + std::abs(a[i]))) << what << " " << i;
}

std::vector<Tokens> samples() {
  std::vector<Tokens> list;
  for (const int64_t gates : {int64_t{0}, int64_t{1}, int64_t{5}}) {
    for (const double strength : {0.01, 1.0, 30.0}) {
      list.emplace_back(150, 5, 3, gates, strength, 11);
      list.emplace_back(150, 5, 3, gates, strength, 12, Mixing::delta);
      list.emplace_back(150, 5, 3, gates, strength, 13, Mixing::low_rank);
    }
  }
  list.emplace_back(150, 2, 3, 1, 0, 14, Mixing::columns);
  list.emplace_back(150, 1, 6, 2, 0, 15, Mixing::columns);
  return list;
}

// All gradients of a run.
struct Sums {
  Buffer dq, dk, dv, dg, dbeta, da, db;
  Sums(const Tokens& at, int64_t gates)
      : dq(at.rows * at.dim),
        dk(dq),
        dv(at.rows * at.dim_v),
        dg(at.rows * gates),
        dbeta(at.rows),
        da(at.rows * at.a_columns()),
        db(dq) {}
  RunGradients from(const Tokens& at, int64_t gates, int64_t row) {
    return {.dq = dq.view(at.dim, row),
            .dk = dk.view(at.dim, row),
            .dv = dv.view(at.dim_v, row),
            .dg = dg.view(gates, row),
            .dbeta = dbeta.view(1, row),
            .da = da.view(at.a_columns(), row),
            .db = db.view(at.dim, row),
            .du = {},
            .dinitial = {}};
  }
  std::vector<std::pair<const char*, const std::vector<double>*>> all() const {
    return {{"dq", &dq.data},       {"dk", &dk.data}, {"dv", &dv.data}, {"dg", &dg.data},
            {"dbeta", &dbeta.data}, {"da", &da.data}, {"db", &db.data}};
  }
};

void expect_near(const Sums& a, const Sums& b) {
  for (size_t i = 0; i < a.all().size(); ++i) expect_near(*a.all()[i].second, *b.all()[i].second, a.all()[i].first);
}

// Everything about a run that is cut at `cut`, put together from its two parts, against the run as a whole.
TEST(Recurrence, PartsOfARunAddUp) {
  for (const Tokens& t : samples()) {
    for (const int64_t cut : {1, 16, 64, 77, 149}) {
      const TokenRun all = t.run(0, t.rows), left = t.run(0, cut), right = t.run(cut, t.rows);
      const int64_t size = t.dim * t.dim_v, columns = std::max<int64_t>(1, t.gates);
      Buffer state(size), dstate(size);
      summarise(left, state.view(size));
      summarise_backward(right, Tokens::view(t.dout, cut, t.dim_v), {}, dstate.view(size));

      Buffer out(t.rows * t.dim_v), parts(t.rows * t.dim_v);
      scan(all, {}, out.view(t.dim_v), {}, {});
      scan(left, {}, parts.view(t.dim_v), {}, {});
      scan(right, {}, parts.view(t.dim_v, cut), {}, {});
      apply_state(right, state.view(size), parts.view(t.dim_v, cut), {});
      expect_near(out.data, parts.data, "out");

      const ConstView dout = Tokens::view(t.dout, 0, t.dim_v), dout_right = Tokens::view(t.dout, cut, t.dim_v);
      Sums whole(t, columns), sum(t, columns);
      scan_backward(all, dout, {}, {}, whole.from(t, columns, 0));
      scan_backward(left, dout, {}, {}, sum.from(t, columns, 0));
      apply_dstate(left, dstate.view(size), {}, sum.from(t, columns, 0));
      scan_backward(right, dout_right, {}, {.state = state.view(size), .dstate = {}, .leaving = {}},
                    sum.from(t, columns, cut));
      expect_near(whole, sum);
    }
  }
}

// A run in two parts, the second begun with what leaves the first, and back: the same as at once, where documents begin too.
TEST(Recurrence, RunsGoOnFromOneAnother) {
  const std::vector<std::vector<int64_t>> documents = {{}, {20}, {77, 100}, {0, 90}};
  for (const Tokens& t : samples()) {
    for (const auto& starts : documents) {
      for (const int64_t cut : {1, 64, 77, 149}) {
        std::vector<int64_t> before, behind;
        for (const int64_t start : starts) start < cut ? before.push_back(start) : behind.push_back(start - cut);
        const TokenRun all = t.run(0, t.rows, starts), right = t.run(cut, t.rows, behind);
        TokenRun left = t.run(0, cut, before);
        left.ends = !behind.empty() && behind[0] == 0;
        const int64_t size = t.dim * t.dim_v, columns = std::max<int64_t>(1, t.gates);
        const ConstView dout = Tokens::view(t.dout, 0, t.dim_v), dout_right = Tokens::view(t.dout, cut, t.dim_v);
        Buffer entering(size), coming(size), passed(size), expected(size), between(size), given(size);
        Random random(7, 0);
        for (double& x : entering.data) x = random.normal();
        for (double& x : coming.data) x = random.normal();

        Buffer out(t.rows * t.dim_v), parts(t.rows * t.dim_v);
        scan(all, entering.view(size), out.view(t.dim_v), {}, expected.view(size));
        scan(left, entering.view(size), parts.view(t.dim_v), {}, between.view(size));
        scan(right, between.view(size), parts.view(t.dim_v, cut), {}, given.view(size));
        expect_near(out.data, parts.data, "out");
        expect_near(expected.data, given.data, "leaving state");

        Sums whole(t, columns), sum(t, columns);
        Buffer first(size), second(size);
        scan_backward(all, dout, {}, {entering.view(size), coming.view(size), first.view(size)},
                      whole.from(t, columns, 0));
        scan_backward(right, dout_right, {}, {between.view(size), coming.view(size), passed.view(size)},
                      sum.from(t, columns, cut));
        scan_backward(left, dout, {}, {entering.view(size), passed.view(size), second.view(size)},
                      sum.from(t, columns, 0));
        expect_near(whole, sum);
        expect_near(first.data, second.data, "leaving dstate");
        if (!starts.empty() && starts[0] == 0) {
          EXPECT_EQ(first.data, std::vector<double>(first.data.size(), 0.0));
        }
      }
    }
  }
}

TEST(Recurrence, MapsCompose) {
  for (const Tokens& t : samples()) {
    const int64_t size = t.dim * t.dim_v, columns = t.passed(), cut = 61;
    const bool mixes = t.mixes_rows();
    const TokenRun all = t.run(0, t.rows), left = t.run(0, cut), right = t.run(cut, t.rows);
    const auto summary = [&](const TokenRun& run) {
      Buffer to(size);
      summarise(run, to.view(size));
      return to;
    };
    const auto passed = [&](const TokenRun& run) {
      Buffer to(columns);
      transition(run, to.view(columns));
      return to;
    };
    Buffer earlier = summary(left), later = summary(right), joined(size);
    Buffer first = passed(left), second = passed(right), both(columns);
    compose_states({.near = earlier.view(size),
                    .far = later.view(size),
                    .transition = t.constant() ? ConstView{} : ConstView(second.view(columns)),
                    .mixes_rows = mixes,
                    .blocks = t.blocks,
                    .decays = right.decays,
                    .rows = right.rows,
                    .dim = t.dim,
                    .dim_v = t.dim_v},
                   joined.view(size));
    expect_near(summary(all).data, joined.data, "state");
    if (t.blocks > 0) {
      multiply_column_transitions(first.view(columns), second.view(columns), t.dim_v, t.blocks, both.view(columns));
    } else {
      multiply_transitions(first.view(columns), second.view(columns), mixes ? t.dim : columns, mixes,
                           both.view(columns));
    }
    expect_near(passed(all).data, both.data, "transition");
  }
}

// Backward, the gradient of what is behind two runs passes both by the transposed transition.
TEST(Recurrence, GradientsPassByTheTransposedTransition) {
  for (const Tokens& t : samples()) {
    const int64_t size = t.dim * t.dim_v, cut = 61;
    const bool mixes = t.mixes_rows();
    const TokenRun all = t.run(0, t.rows), left = t.run(0, cut), right = t.run(cut, t.rows);
    Buffer whole(size), near(size), far(size), joined(size), passed(t.passed());
    summarise_backward(all, Tokens::view(t.dout, 0, t.dim_v), {}, whole.view(size));
    summarise_backward(left, Tokens::view(t.dout, 0, t.dim_v), {}, far.view(size));
    summarise_backward(right, Tokens::view(t.dout, cut, t.dim_v), {}, near.view(size));
    transition(left, passed.view(t.passed()));
    compose_states({.near = near.view(size),
                    .far = far.view(size),
                    .transition = t.constant() ? ConstView{} : ConstView(passed.view(t.passed())),
                    .mixes_rows = mixes,
                    .blocks = t.blocks,
                    .transposed = true,
                    .decays = left.decays,
                    .rows = left.rows,
                    .dim = t.dim,
                    .dim_v = t.dim_v},
                   joined.view(size));
    expect_near(whole.data, joined.data, "dstate");
  }
}

// <out due to R, dout> = <R, gradient of R>.
TEST(Recurrence, SummariseBackwardIsTheAdjoint) {
  for (const Tokens& t : samples()) {
    const int64_t size = t.dim * t.dim_v;
    const TokenRun run = t.run(0, t.rows);
    Random random(4, 0);
    Buffer entering(size), gradient(size), out(t.rows * t.dim_v);
    for (double& x : entering.data) x = random.normal();
    apply_state(run, entering.view(size), out.view(t.dim_v), {});
    summarise_backward(run, Tokens::view(t.dout, 0, t.dim_v), {}, gradient.view(size));
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
  Buffer state(size), alone(size), passed(3), gradient(size), head(size);
  summarise(run, state.view(size));
  summarise(t.run(start, 40), alone.view(size));
  EXPECT_EQ(state.data, alone.data);
  transition(run, passed.view(3));
  EXPECT_EQ(passed.data, std::vector<double>(3, 0.0));
  const ConstView dout = Tokens::view(t.dout, 0, t.dim_v);
  summarise_backward(run, dout, {}, gradient.view(size));
  summarise_backward(t.run(0, start), dout, {}, head.view(size));
  EXPECT_EQ(gradient.data, head.data);
  const std::vector<int64_t> at_once = {0};
  summarise_backward(t.run(0, 40, at_once), dout, {}, gradient.view(size));
  EXPECT_EQ(gradient.data, std::vector<double>(static_cast<size_t>(size), 0.0));
}

}  // namespace
}  // namespace weft::kernels
