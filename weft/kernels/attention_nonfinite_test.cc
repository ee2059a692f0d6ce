// NaN and infinities in inputs stay in the rows that see them: a pair that the mask excludes carries nothing.
#include <gtest/gtest.h>

#include <functional>

#include "weft/kernels/testing.h"
#include "weft/kernels/testing_tiles.h"

namespace weft::kernels {
namespace {

constexpr double kNotANumber = std::numeric_limits<double>::quiet_NaN();

bool seen(const AttentionCase& c, int64_t q, int64_t k) {
  for (const Block& block : c.blocks) {
    if (block.band.contains(q, k)) return true;
  }
  return false;
}

// Two query heads on one kv head; documents, a window and a causal corner, so that most tiles have edges; of 120 rows, or
// `longer` times as many.
AttentionCase masked_case(DType type, int64_t longer) {
  AttentionCase c = random_case(900, {.type = type, .dim = 24, .dim_v = 40, .max_rows = 10});
  Random random(901);
  const int64_t rows = c.q_rows = c.k_rows = 120 * longer;
  c.heads = 2;
  c.kv_heads = 1;
  c.kv_head = {0, 0};
  const auto block = [](Range range, int64_t lo, int64_t hi) {
    return Block{.band = {.q = range, .k = range, .lo = lo, .hi = hi},
                 .out_row = range.begin,
                 .bundle_row = range.begin,
                 .kv_grad_row = range.begin};
  };
  c.blocks = {block({0, 50 * longer}, kUnboundedBelow, 0),
              block({50 * longer, 57 * longer}, kUnboundedBelow, kUnboundedAbove), block({57 * longer, rows}, -9, 3)};
  const auto make = [&](int64_t heads, int64_t columns, DType field_type) {
    Field field({rows, heads, columns}, field_type);
    field.randomize(random);
    return field;
  };
  const DType sum = accumulator_of(type);
  c.q = make(2, c.dim, type), c.k = make(1, c.dim, type), c.v = make(1, c.dim_v, type);
  c.dout = make(2, c.dim_v, type);
  c.o = make(2, c.dim_v, sum), c.lse = make(2, 1, sum), c.delta = make(2, 1, sum);
  c.bundle_lse = make(2, 1, sum);
  c.dq = make(2, c.dim, sum), c.dk = make(1, c.dim, sum), c.dv = make(1, c.dim_v, sum);
  c.lse.fill([](int64_t, int64_t, int64_t) { return kNoKeys; });
  make_bundle_consistent(c, 902);
  return c;
}

// Rows of `actual` that the poison may reach are not finite in its column where it is NaN; all others are as in `clean`, within
// `bound`.
struct Poison {
  double value;  // 0: reached rows are not looked at
  int64_t column;
  double bound;
};
void expect_contained(const Field& actual, const Field& clean, int64_t head, const Poison& poison,
                      const std::string& what, const std::function<bool(int64_t)>& reached, bool all_heads) {
  for (int64_t row = 0; row < clean.shape.rows; ++row) {
    for (int64_t h = 0; h < clean.shape.heads; ++h) {
      const bool reachable = (all_heads || h == head) && reached(row);
      for (int64_t column = 0; column < clean.shape.columns; ++column) {
        const double x = actual.at(row, h, column);
        if (!reachable) {
          ASSERT_NEAR(x, clean.at(row, h, column), poison.bound) << what << ", row " << row << ", head " << h;
        } else if (std::isnan(poison.value) && column == poison.column) {
          ASSERT_TRUE(std::isnan(x)) << what << ", row " << row << ", head " << h << ": " << x;
        }
      }
    }
  }
}

struct NonFiniteInputs {
  DType type;
  int64_t longer;
  bool in_tiles;  // whatever the path would do
  double bound;   // of bf16: where something is not finite some paths multiply in fp32 what they else do in bf16
};
constexpr NonFiniteInputs kNonFiniteInputs[] = {
    {DType::fp32, 1, false, 20 * kBound}, {DType::fp32, 3, true, 20 * kBound}, {DType::bf16, 3, false, 0x1p-4}};

class NonFinite : public testing::TestWithParam<std::tuple<std::string_view, NonFiniteInputs>> {
 protected:
  std::string_view path() const { return std::get<0>(GetParam()); }
  const NonFiniteInputs& inputs() const { return std::get<1>(GetParam()); }
  void attend(const AttendArgs& args) const {
    inputs().in_tiles ? attend_in_tiles(path(), args) : cpu_kernels(path()).attend(args);
  }
  void attend_backward(const AttendBackwardArgs& args) const {
    inputs().in_tiles ? attend_backward_in_tiles(path(), args) : cpu_kernels(path()).attend_backward(args);
  }
};
std::string name_of_case(const testing::TestParamInfo<NonFinite::ParamType>& param_info) {
  const auto& [path, in] = param_info.param;
  return std::string(path) + "_" + std::string(name_of(in.type)) + "_" + std::to_string(in.longer);
}
INSTANTIATE_TEST_SUITE_P(All, NonFinite,
                         testing::Combine(testing::ValuesIn(available_cpu_paths()),
                                          testing::ValuesIn(kNonFiniteInputs)),
                         name_of_case);

TEST_P(NonFinite, ForwardKeepsItInItsRows) {
  AttentionCase clean = masked_case(inputs().type, inputs().longer);
  const AttentionCase start = clean;
  attend(clean.forward());
  for (double poison : {kNotANumber, kInfinity, -kInfinity}) {
    for (int64_t place : {0, 7, 49, 50, 56, 57, 66, 119}) {
      const int64_t at = place * inputs().longer, column = place % start.dim;
      const Poison found = {poison, column, inputs().bound}, anything = {0, 0, inputs().bound};
      AttentionCase in_q = start, in_k = start, in_v = start;
      in_q.q.set(at, 1, column, poison);
      in_k.k.set(at, 0, column, poison);
      in_v.v.set(at, 0, column, poison);
      for (AttentionCase* c : {&in_q, &in_k, &in_v}) attend(c->forward());
      const std::string where = std::to_string(poison) + " at " + std::to_string(at);
      const auto own = [&](int64_t row) { return row == at; };
      const auto sees = [&](int64_t row) { return seen(start, row, at); };
      expect_contained(in_q.o, clean.o, 1, found, "o, q has " + where, own, false);
      expect_contained(in_k.o, clean.o, 0, found, "o, k has " + where, sees, true);
      expect_contained(in_v.o, clean.o, 0, found, "o, v has " + where, sees, true);
      expect_contained(
          in_v.lse, clean.lse, 0, anything, "lse, v has " + where, [](int64_t) { return false; }, true);
      if (HasFailure()) return;
    }
  }
}

TEST_P(NonFinite, BackwardKeepsItInItsRows) {
  AttentionCase clean = masked_case(inputs().type, inputs().longer);
  const AttentionCase start = clean;
  attend_backward(clean.backward());
  for (double poison : {kNotANumber, kInfinity}) {
    for (int64_t place : {1, 7, 49, 53, 57, 66, 119}) {
      const int64_t at = place * inputs().longer, column = place % start.dim;
      const Poison anything = {0, 0, inputs().bound};
      if (start.bundle_lse.at(at, 1, 0) == kNoKeys) continue;  // such a row has no part in anything
      AttentionCase in_q = start, in_dout = start, in_delta = start, in_k = start, in_v = start;
      in_q.q.set(at, 1, column, poison);
      in_dout.dout.set(at, 1, column, poison);
      in_delta.delta.set(at, 1, 0, poison);
      in_k.k.set(at, 0, column, poison);
      in_v.v.set(at, 0, column, poison);
      for (AttentionCase* c : {&in_q, &in_dout, &in_delta, &in_k, &in_v}) attend_backward(c->backward());
      const std::string where = std::to_string(poison) + " at " + std::to_string(at);
      const auto own = [&](int64_t row) { return row == at; };
      const auto seen_by = [&](int64_t key) { return seen(start, at, key); };
      for (const AttentionCase* c : {&in_q, &in_dout, &in_delta}) {
        expect_contained(c->dq, clean.dq, 1, anything, "dq, a query has " + where, own, false);
        expect_contained(c->dk, clean.dk, 0, anything, "dk, a query has " + where, seen_by, true);
        expect_contained(c->dv, clean.dv, 0, anything, "dv, a query has " + where, seen_by, true);
      }
      expect_contained(
          in_delta.dv, clean.dv, 0, anything, "dv, delta has " + where, [](int64_t) { return false; }, true);
      const auto sees = [&](int64_t row) { return seen(start, row, at); };
      for (const AttentionCase* c : {&in_k, &in_v}) {
        expect_contained(c->dq, clean.dq, 0, anything, "dq, a key has " + where, sees, true);
        // Gradients of other keys, by way of the queries that see this one too: of k only.
        const auto shared = [&](int64_t key) {
          for (int64_t q = 0; q < start.q_rows; ++q) {
            if (seen(start, q, at) && seen(start, q, key)) return true;
          }
          return false;
        };
        expect_contained(c->dk, clean.dk, 0, anything, "dk, a key has " + where, shared, true);
        expect_contained(c->dv, clean.dv, 0, anything, "dv, a key has " + where, own, true);
      }
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace weft::kernels
