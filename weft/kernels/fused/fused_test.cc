// Every operation of FusedKernels, path and type of storage against the reference in fp64; odd sizes, strides, rows that
// are not finite. Buffers end where their last row does, so that a sanitizer sees a step beyond.
#include "weft/kernels/fused/fused.h"

#include <gtest/gtest.h>

#include "weft/kernels/kernels.h"
#include "weft/kernels/testing.h"

namespace weft::kernels {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr DType kStored[] = {DType::fp32, DType::bf16, DType::fp16};
constexpr int64_t kColumns[] = {1, 2, 7, 8, 9, 15, 16, 31, 33, 63, 64, 65, 127, 256, 1000};

std::vector<const FusedKernels*> every_path() {
  std::vector<const FusedKernels*> all = {&reference_fused_kernels()};
  for (std::string_view path : available_cpu_paths()) all.push_back(&fused_kernels(path));
  return all;
}

// Of one rounding to the type.
double unit_of(DType type) {
  switch (type) {
    case DType::bf16: return 1.0 / 256;
    case DType::fp16: return 1.0 / 2048;
    default: return 6e-8;
  }
}

Rows rows_of(Field& f) { return {f.bytes.data(), f.type, f.row_stride}; }
ConstRows rows_of(const Field& f) { return {f.bytes.data(), f.type, f.row_stride}; }

// rows x columns with a gap after each row but the last.
Field field(int64_t rows, int64_t columns, DType type, Random& random, double deviation = 1) {
  Field f({rows, 1, columns}, type, 0, random.uniform(4));
  f.randomize(random, deviation);
  f.bytes.resize(static_cast<size_t>(std::max<int64_t>(1, (rows - 1) * f.row_stride + columns) * size_of(type)));
  f.bytes.shrink_to_fit();
  return f;
}

// One row of numbers in the accumulator type.
Field line(int64_t columns, Random& random, double mean = 0) {
  Field f({1, 1, columns}, DType::fp32);
  f.fill([&](int64_t, int64_t, int64_t) { return mean + random.normal(); });
  return f;
}

void expect_close(const Field& got, const Field& want, double extra, const std::string& what) {
  EXPECT_LE(relative_error(got, want), 2 * unit_of(got.type) + extra) << what;
}

// Calls check(kernels, stored type, type of work, description) for all paths and the pairs of types that may meet.
template <typename Check>
void for_every(Check check) {
  for (const FusedKernels* kernels : every_path()) {
    for (const DType stored : kStored) {
      for (const DType work : kStored) {
        if (stored != DType::fp32 && work != DType::fp32 && stored != work) continue;
        for (const int64_t columns : kColumns) {
          check(*kernels, stored, work, columns,
                std::string(kernels->name()) + " " + std::string(name_of(stored)) + " " + std::string(name_of(work)) +
                    " columns=" + std::to_string(columns));
        }
      }
    }
  }
}

TEST(Fused, RmsNorm) {
  for_every([](const FusedKernels& kernels, DType stored, DType work, int64_t columns, const std::string& what) {
    Random random(columns);
    const Field x = field(5, columns, stored, random, 3), w = line(columns, random, 1);
    Field y = field(5, columns, work, random), inverse = line(5, random);
    kernels.rms_norm({rows_of(y), inverse.bytes.data(), rows_of(x), w.bytes.data(), 1e-5, 5, columns});
    const Field x64 = x.as(DType::fp64), w64 = w.as(DType::fp64);
    Field y64 = y.as(DType::fp64), inverse64 = inverse.as(DType::fp64);
    reference_fused_kernels().rms_norm(
        {rows_of(y64), inverse64.bytes.data(), rows_of(x64), w64.bytes.data(), 1e-5, 5, columns});
    expect_close(y, y64, 1e-6, what);
    expect_close(inverse, inverse64, 1e-6, what);
  });
}

TEST(Fused, RmsNormBackward) {
  for_every([](const FusedKernels& kernels, DType stored, DType work, int64_t columns, const std::string& what) {
    for (const bool with_residual : {false, true}) {
      Random random(columns);
      const int64_t rows = columns < 64 ? 300 : 9;
      const Field x = field(rows, columns, stored, random, 3), dy = field(rows, columns, work, random);
      const Field residual = field(rows, columns, stored, random), w = line(columns, random, 1);
      Field dx = field(rows, columns, stored, random), dw = line(columns, random), inverse = line(rows, random);
      inverse.fill([&](int64_t, int64_t, int64_t) { return 0.2 + random.uniform(100) / 100.0; });
      Field dx64 = dx.as(DType::fp64), dw64 = dw.as(DType::fp64);
      const Field x64 = x.as(DType::fp64), dy64 = dy.as(DType::fp64), residual64 = residual.as(DType::fp64);
      const Field w64 = w.as(DType::fp64), inverse64 = inverse.as(DType::fp64);
      kernels.rms_norm_backward({rows_of(dx), dw.bytes.data(), rows_of(dy), rows_of(x),
                                 with_residual ? rows_of(residual) : ConstRows{}, inverse.bytes.data(), w.bytes.data(),
                                 rows, columns});
      reference_fused_kernels().rms_norm_backward({rows_of(dx64), dw64.bytes.data(), rows_of(dy64), rows_of(x64),
                                                   with_residual ? rows_of(residual64) : ConstRows{},
                                                   inverse64.bytes.data(), w64.bytes.data(), rows, columns});
      expect_close(dx, dx64, 2e-6, what);
      expect_close(dw, dw64, 2e-6, what);
    }
  });
}

TEST(Fused, RotateThereAndBack) {
  for_every([](const FusedKernels& kernels, DType stored, DType work, int64_t half, const std::string& what) {
    if (half > 128) return;
    Random random(half);
    const int64_t rows = 4, heads = 3, from_head = 2 * half + 1, to_head = 2 * half + 2;
    const Field from = field(rows, heads * from_head, stored, random);
    Field to = field(rows, heads * to_head, work, random), back = field(rows, heads * from_head, stored, random);
    const Field cos = field(rows, half, DType::fp32, random), sin = field(rows, half, DType::fp32, random);
    Field to64 = to.as(DType::fp64), back64 = back.as(DType::fp64);
    const Field from64 = from.as(DType::fp64), cos64 = cos.as(DType::fp64), sin64 = sin.as(DType::fp64);
    kernels.rotate(
        {rows_of(to), rows_of(from), to_head, from_head, rows_of(cos), rows_of(sin), false, rows, heads, 2 * half});
    reference_fused_kernels().rotate({rows_of(to64), rows_of(from64), to_head, from_head, rows_of(cos64),
                                      rows_of(sin64), false, rows, heads, 2 * half});
    expect_close(to, to64, 1e-6, what);
    const Field turned = to, turned64 = to.as(DType::fp64);
    kernels.rotate(
        {rows_of(back), rows_of(turned), from_head, to_head, rows_of(cos), rows_of(sin), true, rows, heads, 2 * half});
    reference_fused_kernels().rotate({rows_of(back64), rows_of(turned64), from_head, to_head, rows_of(cos64),
                                      rows_of(sin64), true, rows, heads, 2 * half});
    expect_close(back, back64, 1e-6, what);
  });
}

TEST(Fused, Swiglu) {
  for_every([](const FusedKernels& kernels, DType stored, DType work, int64_t columns, const std::string& what) {
    Random random(columns);
    const Field gate = field(5, columns, stored, random, 4), up = field(5, columns, stored, random);
    const Field dout = field(5, columns, work, random);
    Field out = field(5, columns, work, random), dgate = out, dup = out, again = out;
    const Field gate64 = gate.as(DType::fp64), up64 = up.as(DType::fp64), dout64 = dout.as(DType::fp64);
    Field out64 = out.as(DType::fp64), dgate64 = out64, dup64 = out64, again64 = out64;
    kernels.swiglu({rows_of(out), rows_of(gate), rows_of(up), 5, columns});
    reference_fused_kernels().swiglu({rows_of(out64), rows_of(gate64), rows_of(up64), 5, columns});
    expect_close(out, out64, 1e-6, what);
    kernels.swiglu_backward(
        {rows_of(dgate), rows_of(dup), rows_of(again), rows_of(dout), rows_of(gate), rows_of(up), 5, columns});
    reference_fused_kernels().swiglu_backward({rows_of(dgate64), rows_of(dup64), rows_of(again64), rows_of(dout64),
                                               rows_of(gate64), rows_of(up64), 5, columns});
    expect_close(dgate, dgate64, 1e-6, what);
    expect_close(dup, dup64, 1e-6, what);
    EXPECT_EQ(again.bytes, out.bytes) << what;
  });
}

TEST(Fused, SwigluOfLargeGates) {
  for (const FusedKernels* kernels : every_path()) {
    Random random(1);
    Field gate = field(1, 5, DType::fp32, random), up = gate, out = gate;
    const double gates[] = {-1e4, -100, 0, 100, 1e4};
    gate.fill([&](int64_t, int64_t, int64_t c) { return gates[c]; });
    up.fill([](int64_t, int64_t, int64_t) { return 2.0; });
    kernels->swiglu({rows_of(out), rows_of(gate), rows_of(up), 1, 5});
    const double want[] = {0, 0, 0, 200, 2e4};
    for (int64_t c = 0; c < 5; ++c) EXPECT_NEAR(out.at(0, 0, c), want[c], 1e-30) << kernels->name();
  }
}

TEST(Fused, Add) {
  for_every([](const FusedKernels& kernels, DType stored, DType work, int64_t columns, const std::string& what) {
    if (stored == DType::fp32 && work != DType::fp32) return;  // b is of a's type or the accumulator
    Random random(columns);
    const Field a = field(3, columns, stored, random), b = field(3, columns, work, random);
    Field out = field(3, columns, stored, random);
    Field want = out.as(DType::fp64);
    want.fill([&](int64_t r, int64_t h, int64_t c) { return a.at(r, h, c) + b.at(r, h, c); });
    kernels.add({rows_of(out), rows_of(a), rows_of(b), 3, columns});
    expect_close(out, want, 0, what);
    Field in_place = a;
    kernels.add({rows_of(in_place), rows_of(in_place), rows_of(b), 3, columns});
    expect_close(in_place, want, 0, what);
  });
}

// A vocabulary in one piece and in pieces, labels in each of them, and rows without label.
void check_cross_entropy(const FusedKernels& kernels, DType to, int64_t vocabulary, int64_t piece) {
  SCOPED_TRACE(std::string(kernels.name()) + " " + std::string(name_of(to)) + " vocabulary " +
               std::to_string(vocabulary) + " in pieces of " + std::to_string(piece));
  Random random(vocabulary);
  const int64_t rows = 6;
  Field logits = field(rows, vocabulary, DType::fp32, random, 10);
  logits.set(1, 0, vocabulary / 2, 1e4);
  const std::vector<int64_t> labels = {0, vocabulary / 2, -100, vocabulary - 1, random.uniform(vocabulary), -1};
  std::vector<double> lse(rows, -kInfinity), picked(rows);
  Field d = field(rows, vocabulary, to, random);
  const auto view = [&](int64_t first) {
    ConstRows values = rows_of(logits);
    values.data = static_cast<const float*>(values.data) + first;
    return Logits{values, labels.data(), first, rows, std::min(piece, vocabulary - first)};
  };
  for (int64_t first = 0; first < vocabulary; first += piece) {
    kernels.log_sum_exp({view(first), lse.data(), picked.data()});
  }
  for (int64_t first = 0; first < vocabulary; first += piece) {
    Rows part = rows_of(d);
    part.data = static_cast<char*>(part.data) + first * size_of(to);
    kernels.cross_entropy_backward({view(first), part, lse.data(), 0.5});
  }
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t label = labels[static_cast<size_t>(r)];
    double largest = -kInfinity, sum = 0;
    for (int64_t c = 0; c < vocabulary; ++c) largest = std::max(largest, logits.at(r, 0, c));
    for (int64_t c = 0; c < vocabulary; ++c) sum += std::exp(logits.at(r, 0, c) - largest);
    const double exact = largest + std::log(sum);
    EXPECT_NEAR(lse[static_cast<size_t>(r)], exact, 5e-7);
    if (label >= 0) {
      EXPECT_EQ(picked[static_cast<size_t>(r)], logits.at(r, 0, label));
    }
    for (int64_t c = 0; c < vocabulary; ++c) {
      const double want = label < 0 ? 0 : 0.5 * (std::exp(logits.at(r, 0, c) - exact) - (label == c));
      ASSERT_NEAR(d.at(r, 0, c), want, unit_of(to) / 2 + 1e-6) << "row " << r << " column " << c;
    }
  }
}

TEST(Fused, CrossEntropy) {
  for (const FusedKernels* kernels : every_path()) {
    for (const DType to : kStored) {
      for (const int64_t vocabulary : {1, 7, 33, 257}) {
        for (const int64_t piece : {int64_t{1}, int64_t{16}, int64_t{100}, vocabulary}) {
          check_cross_entropy(*kernels, to, vocabulary, piece);
        }
      }
    }
  }
}

TEST(Fused, WhatIsNotFiniteStaysInItsRow) {
  for (const FusedKernels* kernels : every_path()) {
    for (const double bad : {kNan, kInfinity, -kInfinity}) {
      Random random(3);
      const int64_t columns = 43;
      Field x = field(3, columns, DType::fp32, random), other = field(3, columns, DType::fp32, random);
      x.set(1, 0, 40, bad);
      const Field w = line(columns, random);
      const std::vector<int64_t> labels = {1, 2, 3};
      std::vector<double> lse(3, -kInfinity), picked(3);
      Field inverse = line(3, random), dw = line(columns, random);
      Field norm = x, gradient = x, turned = x, swiglu = x, d = x, dgate = x, dup = x;
      const ConstRows in = rows_of(x), and_in = rows_of(other);
      kernels->rms_norm({rows_of(norm), inverse.bytes.data(), in, w.bytes.data(), 1e-5, 3, columns});
      kernels->rms_norm_backward(
          {rows_of(gradient), dw.bytes.data(), and_in, in, {}, inverse.bytes.data(), w.bytes.data(), 3, columns});
      kernels->rotate({rows_of(turned), in, 0, 0, and_in, and_in, false, 3, 1, 42});
      kernels->swiglu({rows_of(swiglu), in, and_in, 3, columns});
      const Logits logits = {in, labels.data(), 0, 3, columns};
      kernels->log_sum_exp({logits, lse.data(), picked.data()});
      kernels->cross_entropy_backward({logits, rows_of(d), lse.data(), 1});
      for (const Field* f : {&norm, &gradient, &turned, &swiglu, &d}) {
        bool finite[3] = {true, true, true};
        for (int64_t r = 0; r < 3; ++r) {
          for (int64_t c = 0; c < columns; ++c) finite[r] &= std::isfinite(f->at(r, 0, c));
        }
        EXPECT_TRUE(finite[0] && finite[2]) << kernels->name();
      }
      EXPECT_TRUE(std::isfinite(lse[0]) && std::isfinite(lse[2])) << kernels->name();
      if (std::isnan(bad)) {
        EXPECT_TRUE(std::isnan(norm.at(1, 0, 0)) && std::isnan(swiglu.at(1, 0, 40)) && std::isnan(lse[1]))
            << kernels->name();
      }
    }
  }
}

TEST(Fused, NoRowsAndNoColumns) {
  for (const FusedKernels* kernels : every_path()) {
    Random random(1);
    Field x = field(1, 8, DType::fp32, random), w = line(8, random);
    const Field before = x;
    const ConstRows in = rows_of(x);
    kernels->rms_norm({rows_of(x), nullptr, in, w.bytes.data(), 1e-5, 0, 8});
    kernels->swiglu({rows_of(x), in, in, 0, 8});
    kernels->add({rows_of(x), in, in, 1, 0});
    kernels->rotate({rows_of(x), in, 4, 4, in, in, false, 1, 0, 4});
    EXPECT_EQ(x.bytes, before.bytes);
  }
}

// The same bits for any split of the weights, and those of the formula but for rounding.
TEST(Fused, AdamW) {
  for (const FusedKernels* kernels : every_path()) {
    Random random(5);
    const int64_t n = 1003;
    const Field weights = line(n, random), gradients = line(n, random), first = line(n, random);
    Field second = line(n, random);
    second.fill([&](int64_t, int64_t, int64_t c) { return c % 5 ? std::abs(random.normal()) : 0.0; });
    const auto stepped = [&](const FusedKernels& by, const std::vector<int64_t>& cuts) {
      std::vector<Field> state = {weights, first, second};
      for (size_t i = 0; i + 1 < cuts.size(); ++i) {
        const auto at = [&](const Field& f) { return (float*)f.bytes.data() + cuts[i]; };
        by.adamw({at(state[0]), at(gradients), at(state[1]), at(state[2]), cuts[i + 1] - cuts[i], 0.9f, 0.95f, 1e-8f,
                  0.7f, 0.999f, 3e-3f, 1.5f});
      }
      return state;
    };
    const std::vector<Field> whole = stepped(*kernels, {0, n}), parts = stepped(*kernels, {0, 1, 10, 500, 777, n});
    const std::vector<Field> want = stepped(reference_fused_kernels(), {0, n});
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(whole[i].bytes, parts[i].bytes) << kernels->name();
      EXPECT_LT(relative_error(whole[i], want[i]), 2e-7) << kernels->name();
    }
  }
}

TEST(Fused, TypesThatDoNotMeetAreRefused) {
  Random random(1);
  Field x = field(1, 8, DType::bf16, random), y = field(1, 8, DType::fp16, random);
  Field wide = field(1, 8, DType::fp64, random);
  const ConstRows in = rows_of(x);
  EXPECT_THROW(fused_kernels("portable").add({rows_of(y), in, in, 1, 8}), Error);
  EXPECT_THROW(fused_kernels("portable").swiglu({rows_of(wide), in, in, 1, 8}), Error);
}

}  // namespace
}  // namespace weft::kernels
