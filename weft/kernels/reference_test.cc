// The reference kernels against a dense softmax written here, and their backward against finite
// differences.
#include <gtest/gtest.h>

#include "weft/kernels/testing.h"

namespace weft::kernels {
namespace {

AttentionCase small_case(uint64_t seed) {
  Random random(seed, 7);
  return random_case(
      seed, {.type = DType::fp64, .dim = 1 + random.uniform(5), .dim_v = 1 + random.uniform(5), .max_rows = 14});
}

int64_t out_offset(const AttentionCase& c) { return c.o.shape.rows - c.q_rows; }
int64_t bundle_offset(const AttentionCase& c) { return c.dout.shape.rows - c.q_rows; }
int64_t kv_offset(const AttentionCase& c) { return c.dk.shape.rows - c.k_rows; }

// exp(scale * q.k) of every pair that some block allows, 0 elsewhere: no maximum, no tiles, no
// merging.
std::vector<double> weights_of_row(const AttentionCase& c, int64_t q, int64_t head) {
  std::vector<double> weights(c.k_rows, 0.0);
  for (const Block& block : c.blocks) {
    for (int64_t k = 0; k < c.k_rows; ++k) {
      if (!block.band.contains(q, k)) continue;
      double logit = 0;
      for (int64_t d = 0; d < c.dim; ++d) logit += c.q.at(q, head, d) * c.k.at(k, c.kv_head[head], d);
      EXPECT_EQ(weights[k], 0) << "blocks overlap";
      weights[k] = std::exp(c.scale * logit);
    }
  }
  return weights;
}

TEST(ReferenceKernels, AttendIsDenseSoftmax) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    AttentionCase c = small_case(seed);
    const AttentionCase before = c;
    reference_kernels().attend(c.forward());
    for (int64_t q = 0; q < c.q_rows; ++q) {
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t row = q + out_offset(c);
        // What the accumulator held is one more key of weight exp(lse) and value o.
        const double held = std::exp(before.lse.at(row, h, 0));
        const std::vector<double> weights = weights_of_row(c, q, h);
        double sum = held;
        for (double w : weights) sum += w;
        for (int64_t d = 0; d < c.dim_v; ++d) {
          double value = held * before.o.at(row, h, d);
          for (int64_t k = 0; k < c.k_rows; ++k) value += weights[k] * c.v.at(k, c.kv_head[h], d);
          // A row that has seen nothing keeps whatever it held.
          const double expected = sum > 0 ? value / sum : before.o.at(row, h, d);
          ASSERT_NEAR(c.o.at(row, h, d), expected, 1e-12) << "seed " << seed << ": " << c.describe();
        }
        if (sum > 0) {
          ASSERT_NEAR(c.lse.at(row, h, 0), std::log(sum), 1e-12) << "seed " << seed;
        } else {
          ASSERT_EQ(c.lse.at(row, h, 0), kNoKeys) << "seed " << seed;
        }
      }
    }
  }
}

// sum over rows of dout . out + dlse * lse, with the attention started from empty accumulators.
double loss(AttentionCase& c, const Field& dlse) {
  c.lse.fill([](int64_t, int64_t, int64_t) { return kNoKeys; });
  c.o.fill([](int64_t, int64_t, int64_t) { return 0.0; });
  reference_kernels().attend(c.forward());
  double sum = 0;
  for (int64_t q = 0; q < c.q_rows; ++q) {
    for (int64_t h = 0; h < c.heads; ++h) {
      const int64_t row = q + out_offset(c), bundle_row = q + bundle_offset(c);
      if (c.lse.at(row, h, 0) == kNoKeys) continue;
      sum += dlse.at(bundle_row, h, 0) * c.lse.at(row, h, 0);
      for (int64_t d = 0; d < c.dim_v; ++d) sum += c.dout.at(bundle_row, h, d) * c.o.at(row, h, d);
    }
  }
  return sum;
}

TEST(ReferenceKernels, BackwardMatchesFiniteDifferences) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    AttentionCase c = small_case(seed);
    Random random(seed, 9);
    Field dlse = c.delta;
    dlse.randomize(random);
    loss(c, dlse);
    // The bundle's rows lie at their own offset.
    Field out_in_bundle(c.dout.shape, DType::fp64);
    for (int64_t q = 0; q < c.q_rows; ++q) {
      for (int64_t h = 0; h < c.heads; ++h) {
        c.bundle_lse.set(q + bundle_offset(c), h, 0, c.lse.at(q + out_offset(c), h, 0));
        for (int64_t d = 0; d < c.dim_v; ++d) {
          out_in_bundle.set(q + bundle_offset(c), h, d, c.o.at(q + out_offset(c), h, d));
        }
      }
    }
    const KernelSet& reference = reference_kernels();
    reference.prepare_backward(c.delta.view(), out_in_bundle.view(), c.dout.view(), dlse.view(), c.dout.shape);
    for (Field* g : {&c.dq, &c.dk, &c.dv}) g->fill([](int64_t, int64_t, int64_t) { return 0.0; });
    reference.attend_backward(c.backward());

    struct Pair {
      Field* input;
      const Field* gradient;
      int64_t offset;
      const char* name;
    };
    for (const Pair& pair : {Pair{&c.q, &c.dq, out_offset(c), "dq"}, Pair{&c.k, &c.dk, kv_offset(c), "dk"},
                             Pair{&c.v, &c.dv, kv_offset(c), "dv"}}) {
      const Shape shape = pair.input->shape;
      for (int sample = 0; sample < 12; ++sample) {
        const int64_t r = random.uniform(shape.rows), h = random.uniform(shape.heads),
                      d = random.uniform(shape.columns);
        const double x = pair.input->at(r, h, d), step = 1e-5;
        pair.input->set(r, h, d, x + step);
        const double above = loss(c, dlse);
        pair.input->set(r, h, d, x - step);
        const double below = loss(c, dlse);
        pair.input->set(r, h, d, x);
        ASSERT_NEAR(pair.gradient->at(r + pair.offset, h, d), (above - below) / (2 * step), 1e-7)
            << pair.name << " seed " << seed << ": " << c.describe();
      }
    }
  }
}

TEST(ReferenceKernels, OutputsOfNarrowInputsAreFp32AndRoundedOnce) {
  for (DType type : {DType::fp32, DType::bf16, DType::fp16}) {
    AttentionCase c = random_case(5, {.type = type, .dim = 16, .max_rows = 40});
    AttentionCase exact = c.in_fp64();
    exact.o = exact.o.as(DType::fp64);
    c.lse.fill([](int64_t, int64_t, int64_t) { return kNoKeys; });
    exact.lse.fill([](int64_t, int64_t, int64_t) { return kNoKeys; });
    reference_kernels().attend(c.forward());
    reference_kernels().attend(exact.forward());
    EXPECT_EQ(c.o.type, DType::fp32);
    EXPECT_LT(relative_error(c.o, exact.o), 4e-7);  // one rounding per merged block
  }
}

}  // namespace
}  // namespace weft::kernels
