// Every CPU path that this machine can run, against the reference kernels in fp64 on the same
// inputs.
#include <gtest/gtest.h>

#include <cstdio>

#include "weft/kernels/testing.h"

namespace weft::kernels {
namespace {

// Bounds relative to the largest value. fp32 sums of n products of comparable size are wrong by
// about sqrt(n) * 6e-8; the cases have up to 600 keys and 256 columns, and their scores (up to
// about 5, wrong by 1e-6) enter exponentials.
class Paths : public testing::Environment {
 public:
  void SetUp() override {
    std::string run, missing;
    for (std::string_view path : known_cpu_paths()) {
      const std::vector<std::string_view> available = available_cpu_paths();
      const bool has = std::find(available.begin(), available.end(), path) != available.end();
      std::string& list = has ? run : missing;
      list += (list.empty() ? "" : ", ") + std::string(path);
    }
    std::printf("kernel paths on this machine: %s; not run: %s\n", run.c_str(),
                missing.empty() ? "none" : missing.c_str());
  }
};
const auto* const kPaths = testing::AddGlobalTestEnvironment(new Paths);

void expect_forward(const KernelSet& kernels, const AttentionCase& start, const std::string& what,
                    double lse_bound = kBound) {
  const double bound = std::max(lse_bound, bound_of(kernels, start.type));
  AttentionCase actual = start, expected = start.in_fp64();
  kernels.attend(actual.forward());
  reference_kernels().attend(expected.forward());
  EXPECT_LT(relative_error(actual.o, expected.o), bound) << what << ": " << start.describe();
  EXPECT_LT(relative_error(actual.lse, expected.lse), lse_bound) << what << ": " << start.describe();
  EXPECT_TRUE(actual.o.gaps_intact() && actual.lse.gaps_intact()) << what;
}

void expect_backward(const KernelSet& kernels, const AttentionCase& start, const std::string& what) {
  const double bound = gradient_bound_of(kernels, start.type);
  AttentionCase actual = start, expected = start.in_fp64();
  kernels.attend_backward(actual.backward());
  reference_kernels().attend_backward(expected.backward());
  EXPECT_LT(relative_error(actual.dq, expected.dq), bound) << "dq, " << what << ": " << start.describe();
  EXPECT_LT(relative_error(actual.dk, expected.dk), bound) << "dk, " << what << ": " << start.describe();
  EXPECT_LT(relative_error(actual.dv, expected.dv), bound) << "dv, " << what << ": " << start.describe();
  EXPECT_TRUE(actual.dq.gaps_intact() && actual.dk.gaps_intact() && actual.dv.gaps_intact()) << what;
}

class AttentionPath : public testing::TestWithParam<std::string_view> {
 protected:
  const KernelSet& kernels() const { return cpu_kernels(GetParam()); }
  // One for each way in which the path computes.
  std::vector<DType> types() const {
    if (rounds_weights(kernels(), DType::bf16)) return {DType::fp32, DType::bf16};
    return {DType::fp32};
  }
};
INSTANTIATE_TEST_SUITE_P(All, AttentionPath, testing::ValuesIn(available_cpu_paths()),
                         [](const auto& param_info) { return std::string(param_info.param); });

TEST_P(AttentionPath, ForwardOfRandomCases) {
  for (DType type : {DType::fp32, DType::bf16, DType::fp16}) {
    for (uint64_t seed = 0; seed < 40; ++seed) {
      const AttentionCase c = random_case(seed, {.type = type, .max_rows = seed % 4 == 0 ? 300 : 90});
      expect_forward(kernels(), c, "seed " + std::to_string(seed));
      if (HasFailure()) return;
    }
  }
}

TEST_P(AttentionPath, BackwardOfRandomCases) {
  for (DType type : {DType::fp32, DType::bf16, DType::fp16}) {
    for (uint64_t seed = 100; seed < 130; ++seed) {
      AttentionCase c = random_case(seed, {.type = type, .max_rows = seed % 4 == 0 ? 250 : 80});
      make_bundle_consistent(c, seed);
      expect_backward(kernels(), c, "seed " + std::to_string(seed));
      if (HasFailure()) return;
    }
  }
}

TEST_P(AttentionPath, EveryHeadDim) {
  for (int64_t dim : {1, 2, 3, 5, 7, 8, 11, 16, 24, 31, 40, 64, 72, 80, 96, 128, 192, 256}) {
    for (int64_t dim_v : {dim, int64_t{1}, int64_t{48}}) {
      for (DType type : types()) {
        AttentionCase c = random_case(200 + dim, {.type = type, .dim = dim, .dim_v = dim_v, .max_rows = 50});
        expect_forward(kernels(), c, "dims");
        make_bundle_consistent(c, 1);
        expect_backward(kernels(), c, "dims");
        if (HasFailure()) return;
      }
    }
  }
}

// One head, one block of given shape: the edges of tiles, panels and packed key blocks.
AttentionCase single_block(int64_t q_rows, int64_t k_rows, int64_t lo, int64_t hi, int64_t dim = 8,
                           DType type = DType::fp32) {
  AttentionCase c;
  Random random(q_rows * 10007 + k_rows);
  c.q_rows = q_rows;
  c.k_rows = k_rows;
  c.dim = c.dim_v = dim;
  c.scale = 1 / std::sqrt(static_cast<double>(dim));
  c.kv_head = {0};
  c.blocks = {{.band = {.q = {0, q_rows}, .k = {0, k_rows}, .lo = lo, .hi = hi}}};
  c.type = type;
  c.q = c.dout = Field({q_rows, 1, dim}, type);
  c.k = c.v = Field({k_rows, 1, dim}, type);
  c.o = c.dq = Field({q_rows, 1, dim}, DType::fp32);
  c.dk = c.dv = Field({k_rows, 1, dim}, DType::fp32);
  c.lse = c.bundle_lse = c.delta = Field({q_rows, 1, 1}, DType::fp32);
  // Gradients are added to random values: their error is then measured on the scale of these, not
  // of a dp - delta that happens to cancel.
  for (Field* f : {&c.q, &c.k, &c.v, &c.dout, &c.delta, &c.dq, &c.dk, &c.dv}) f->randomize(random);
  c.lse.fill([](int64_t, int64_t, int64_t) { return kNoKeys; });
  return c;
}

TEST_P(AttentionPath, TileEdges) {
  constexpr int64_t kLow = kUnboundedBelow, kHigh = kUnboundedAbove;
  for (int64_t q : {1, 15, 16, 17, 33, 127, 129, 193}) {
    for (int64_t k : {1, 5, 6, 7, 12, 95, 97, 192, 193}) {
      const std::pair<int64_t, int64_t> bands[] = {{kLow, kHigh}, {kLow, 0},      {-3, 3},
                                                   {0, 0},        {k - q, kHigh}, {-q / 2, -1}};
      for (auto [lo, hi] : bands) {
        for (DType type : types()) {
          AttentionCase c = single_block(q, k, lo, hi, 8, type);
          expect_forward(kernels(), c, "edges");
          make_bundle_consistent(c, 3);
          expect_backward(kernels(), c, "edges");
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_P(AttentionPath, ManyKeys) {
  for (DType type : types()) {
    AttentionCase causal = single_block(400, 3500, kUnboundedBelow, 3100, 16, type);
    expect_forward(kernels(), causal, "many keys");
    make_bundle_consistent(causal, 3);
    expect_backward(kernels(), causal, "many keys");
    AttentionCase window = single_block(2000, 2100, -37, 64, 16, type);
    expect_forward(kernels(), window, "window");
    make_bundle_consistent(window, 3);
    expect_backward(kernels(), window, "window");
  }
}

// Around the sizes at which paths begin to cut blocks into tiles.
TEST_P(AttentionPath, LongShortBlocks) {
  constexpr int64_t kLow = kUnboundedBelow;
  constexpr struct {
    int64_t q, k, lo, hi;
  } kCases[] = {
      {257, 385, kLow, 128}, {512, 511, -37, 300}, {513, 512, kLow, 0}, {640, 639, -500, 3}, {641, 640, kLow, 0}};
  for (const auto& size : kCases) {
    for (DType type : types()) {
      AttentionCase c = single_block(size.q, size.k, size.lo, size.hi, 24, type);
      expect_forward(kernels(), c, "long");
      make_bundle_consistent(c, 3);
      expect_backward(kernels(), c, "long");
    }
  }
}

TEST_P(AttentionPath, ScalesThatAreNotPositive) {
  for (DType type : types()) {
    for (double scale : {-0.5, 0.0}) {
      AttentionCase c = single_block(70, 90, -30, 20, 8, type);
      c.scale = scale;
      expect_forward(kernels(), c, "scale");
      make_bundle_consistent(c, 3);
      expect_backward(kernels(), c, "scale");
    }
  }
}

// Largest scores that rise from tile to tile: what was summed up to then is rescaled.
TEST_P(AttentionPath, ScoresThatRise) {
  for (DType type : types()) {
    AttentionCase c = single_block(40, 2500, kUnboundedBelow, kUnboundedAbove, 8, type);
    c.k.fill([](int64_t row, int64_t, int64_t column) { return column ? 0.25 : 0.05 * static_cast<double>(row); });
    expect_forward(kernels(), c, "rising");
  }
}

// Scores around 1e4 are known to about 1e-3 in fp32 (their own rounding), and so are the weights
// made of them.
TEST_P(AttentionPath, HugeLogits) {
  for (uint64_t seed = 300; seed < 312; ++seed) {
    const AttentionCase c = random_case(seed, {.dim = 16, .max_rows = 120, .logit_deviation = 3000});
    expect_forward(kernels(), c, "huge logits", 2e-2);
    if (HasFailure()) return;
  }
  // Exact scores of +-1e4 leave no such error: the winner takes all, ties share.
  AttentionCase c = single_block(20, 40, kUnboundedBelow, kUnboundedAbove);
  c.scale = 1;
  c.q.fill([](int64_t row, int64_t, int64_t column) { return column ? 0 : row % 2 ? 100 : -100; });
  c.k.fill([](int64_t row, int64_t, int64_t column) { return column ? 0 : row % 2 ? 100 : -100; });
  expect_forward(kernels(), c, "exact logits");
}

TEST_P(AttentionPath, RowsWithoutKeysKeepTheirBits) {
  AttentionCase c = single_block(50, 50, kUnboundedBelow, -20);  // the first 20 rows see nothing
  Random random(1);
  c.o.randomize(random);
  const Field before = c.o;
  kernels().attend(c.forward());
  for (int64_t row = 0; row < 20; ++row) {
    EXPECT_EQ(c.lse.at(row, 0, 0), kNoKeys);
    for (int64_t d = 0; d < c.dim; ++d) EXPECT_EQ(c.o.at(row, 0, d), before.at(row, 0, d));
  }
}

// What an empty accumulator holds beside lse = -inf is never read, not even NaN.
TEST_P(AttentionPath, EmptyAccumulatorMayHoldAnything) {
  AttentionCase c = single_block(40, 30, kUnboundedBelow, kUnboundedAbove);
  const auto has_seen = [](int64_t row) { return row % 3 == 0; };  // beside rows that are empty
  c.lse.fill([&](int64_t row, int64_t, int64_t) { return has_seen(row) ? 0.5 : kNoKeys; });
  AttentionCase clean = c;
  c.o.fill([&](int64_t row, int64_t, int64_t) { return has_seen(row) ? 0 : std::numeric_limits<double>::quiet_NaN(); });
  kernels().attend(c.forward());
  kernels().attend(clean.forward());
  EXPECT_EQ(c.o.bytes, clean.o.bytes);
}

TEST_P(AttentionPath, NotANumberIsNotHidden) {
  for (int64_t k_rows = 25; k_rows <= 37; ++k_rows) {  // with and without masked rows in the last panel
    AttentionCase c = single_block(40, k_rows, kUnboundedBelow, kUnboundedAbove);
    c.q.set(3, 0, 2, std::numeric_limits<double>::quiet_NaN());
    kernels().attend(c.forward());
    EXPECT_TRUE(std::isnan(c.o.at(3, 0, 0))) << c.o.at(3, 0, 0);
    EXPECT_TRUE(std::isnan(c.lse.at(3, 0, 0))) << c.lse.at(3, 0, 0);
    EXPECT_TRUE(std::isfinite(c.o.at(4, 0, 0)));
  }
}

TEST_P(AttentionPath, GradientsThatAreNotWantedAreNotComputed) {
  AttentionCase c = random_case(400, {.dim = 40, .max_rows = 90});
  make_bundle_consistent(c, 400);
  AttentionCase all = c;
  kernels().attend_backward(all.backward());
  for (int wanted = 0; wanted < 8; ++wanted) {
    AttentionCase some = c;
    AttendBackwardArgs args = some.backward();
    if (!(wanted & 1)) args.dq = {};
    if (!(wanted & 2)) args.dk = {};
    if (!(wanted & 4)) args.dv = {};
    kernels().attend_backward(args);
    EXPECT_EQ(some.dq.bytes, wanted & 1 ? all.dq.bytes : c.dq.bytes);
    EXPECT_EQ(some.dk.bytes, wanted & 2 ? all.dk.bytes : c.dk.bytes);
    EXPECT_EQ(some.dv.bytes, wanted & 4 ? all.dv.bytes : c.dv.bytes);
  }
}

TEST_P(AttentionPath, SameInputSameBits) {
  AttentionCase a = random_case(500), b = random_case(500);
  make_bundle_consistent(a, 1);
  make_bundle_consistent(b, 1);
  kernels().attend(a.forward());
  // Something else in between, so that no scratch memory is left as it was.
  AttentionCase other = random_case(501);
  kernels().attend(other.forward());
  kernels().attend(b.forward());
  EXPECT_EQ(a.o.bytes, b.o.bytes);
  EXPECT_EQ(a.lse.bytes, b.lse.bytes);
  kernels().attend_backward(a.backward());
  make_bundle_consistent(other, 1);
  kernels().attend_backward(other.backward());
  kernels().attend_backward(b.backward());
  EXPECT_EQ(a.dq.bytes, b.dq.bytes);
  EXPECT_EQ(a.dk.bytes, b.dk.bytes);
  EXPECT_EQ(a.dv.bytes, b.dv.bytes);
}

TEST_P(AttentionPath, RaisedFlagStops) {
  AttentionCase c = single_block(40, 30, kUnboundedBelow, kUnboundedAbove);
  StopFlag stop;
  AttendArgs forward = c.forward();
  AttendBackwardArgs backward = c.backward();
  forward.stop = backward.stop = &stop;
  kernels().attend(forward);
  stop.raise();
  EXPECT_THROW(kernels().attend(forward), Error);
  EXPECT_THROW(kernels().attend_backward(backward), Error);
}

TEST_P(AttentionPath, RefusesFp64) {
  AttentionCase c = random_case(1, {.type = DType::fp64, .dim = 8, .max_rows = 8});
  EXPECT_FALSE(kernels().supports(DType::fp64));
  EXPECT_THROW(kernels().attend(c.forward()), Error);
}

}  // namespace
}  // namespace weft::kernels
