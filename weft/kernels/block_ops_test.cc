// BlockOps of every path against plain loops in fp64, at sizes that are no multiple of anything.
#include "weft/kernels/block_ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "weft/base/random.h"
#include "weft/kernels/kernels.h"
#include "weft/kernels/linear/block_matrix.h"
#include "weft/kernels/linear/block_solve.h"

namespace weft::kernels {
namespace {

// The same numbers in both types.
struct Pair {
  BlockMatrix<float> narrow;
  BlockMatrix<double> wide;

  Pair(int64_t rows, int64_t columns, Random& random, double factor = 1) {
    narrow.shape(rows, columns), wide.shape(rows, columns);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        narrow.row(r)[c] = static_cast<float>(factor * random.normal());
        wide.row(r)[c] = double{narrow.row(r)[c]};
      }
    }
  }
  void lower(bool strictly) {
    for (int64_t r = 0; r < narrow.rows(); ++r) {
      for (int64_t c = r + (strictly ? 0 : 1); c < narrow.columns(); ++c) narrow.row(r)[c] = 0, wide.row(r)[c] = 0;
    }
  }
  void expect_equal(const char* what, bool only_lower = false) const {
    for (int64_t r = 0; r < narrow.rows(); ++r) {
      for (int64_t c = 0; c < (only_lower ? std::min(r + 1, narrow.columns()) : narrow.columns()); ++c)
        ASSERT_NEAR(double{narrow.row(r)[c]}, wide.row(r)[c], 3e-5 * (1 + std::abs(wide.row(r)[c])))
            << what << " " << r << " " << c;
    }
  }
};

// Calls f(Blocks<float> of a path) for all of them, and what runs for the reference.
template <typename F>
void for_each_path(F&& f) {
  for (const std::string_view path : available_cpu_paths()) {
    SCOPED_TRACE(path);
    f(Blocks<float>(cpu_kernels(path).blocks()));
  }
  SCOPED_TRACE("reference");
  f(Blocks<float>(reference_kernels().blocks()));
}

const Blocks<double>& exact() {
  static const Blocks<double> blocks(plain_block_ops<double>());
  return blocks;
}

constexpr int64_t kProductSizes[][3] = {{1, 1, 1},   {5, 3, 7},    {6, 16, 4},  {7, 17, 9},
                                        {16, 33, 5}, {64, 64, 64}, {65, 40, 31}};

TEST(BlockOps, Products) {
  using Part = Blocks<float>::Part;
  for_each_path([](const Blocks<float>& blocks) {
    Random random(1, 0);
    for (const auto& [m, n, k] : kProductSizes) {
      Pair a(m, k, random), b(k, n, random), at(k, m, random), to(m, n, random), kept(1, m, random);
      blocks.product(a.narrow, b.narrow, to.narrow, 0.5f);
      exact().product(a.wide, b.wide, to.wide, 0.5);
      to.expect_equal("product");
      blocks.add_product(a.narrow, b.narrow, to.narrow);
      exact().add_product(a.wide, b.wide, to.wide);
      to.expect_equal("added");
      blocks.add_transposed_product(at.narrow, b.narrow, to.narrow, 2);
      exact().add_transposed_product(at.wide, b.wide, to.wide, 2);
      to.expect_equal("transposed");
      blocks.decay_and_add(kept.narrow.row(0), at.narrow, b.narrow, to.narrow);
      exact().decay_and_add(kept.wide.row(0), at.wide, b.wide, to.wide);
      to.expect_equal("decayed");
      Pair square(m, m, random), right(m, n, random);
      square.lower(false);
      blocks.product(square.narrow, right.narrow, to.narrow, 1, Part::lower_a);
      exact().product(square.wide, right.wide, to.wide, 1, Blocks<double>::Part::lower_a);
      to.expect_equal("lower");
      blocks.transposed_product(square.narrow, right.narrow, to.narrow, 1, Part::upper_a);
      exact().transposed_product(square.wide, right.wide, to.wide, 1, Blocks<double>::Part::upper_a);
      to.expect_equal("upper");
      Pair scores(m, m, random), wide(k, m, random);
      blocks.product(a.narrow, wide.narrow, scores.narrow, 1, Part::lower_result);
      exact().product(a.wide, wide.wide, scores.wide, 1, Blocks<double>::Part::lower_result);
      scores.expect_equal("lower result", true);
    }
  });
}

TEST(BlockOps, Rows) {
  for_each_path([](const Blocks<float>& blocks) {
    Random random(2, 0);
    for (const auto& [m, n, k] : kProductSizes) {
      Pair a(m, n, random), b(m, n, random), factors(1, m, random), row(1, n, random), turned(n, m, random),
          sums(1, m, random), square(m, m, random), decays(m, m, random), logs(m, n, random, -5);
      blocks.transpose(a.narrow, turned.narrow);
      exact().transpose(a.wide, turned.wide);
      turned.expect_equal("transpose");
      blocks.times_in_place(a.narrow, {row.narrow.row(0), 0});
      exact().times_in_place(a.wide, {row.wide.row(0), 0});
      blocks.scale_rows(a.narrow, factors.narrow.row(0), a.narrow);
      exact().scale_rows(a.wide, factors.wide.row(0), a.wide);
      blocks.add(b.narrow, a.narrow, -2);
      exact().add(b.wide, a.wide, -2);
      blocks.ops.add_times(b.narrow, b.narrow, 3, m, n, a.narrow);
      exact().ops.add_times(b.wide, b.wide, 3, m, n, a.wide);
      a.expect_equal("rows");
      blocks.ops.dots(a.narrow, b.narrow, m, n, sums.narrow.row(0));
      exact().ops.dots(a.wide, b.wide, m, n, sums.wide.row(0));
      sums.expect_equal("dots");
      blocks.ops.times_lower(square.narrow, decays.narrow, m, square.narrow);
      exact().ops.times_lower(square.wide, decays.wide, m, square.wide);
      square.expect_equal("lower");
      for (int64_t r = 0; r < m; ++r) {
        for (int64_t c = 0; c < n; ++c) {
          logs.narrow.row(r)[c] = -std::abs(logs.narrow.row(r)[c]);
          logs.wide.row(r)[c] = double{logs.narrow.row(r)[c]};
        }
      }
      logs.narrow.row(0)[0] = -1000, logs.wide.row(0)[0] = -std::numeric_limits<double>::infinity();
      blocks.ops.exponentials(logs.narrow, m, n, logs.narrow);
      exact().ops.exponentials(logs.wide, m, n, logs.wide);
      EXPECT_EQ(logs.narrow.row(0)[0], 0);
      logs.expect_equal("exp");
    }
  });
}

TEST(BlockOps, PairsOfDecayedTokens) {
  for_each_path([](const Blocks<float>& blocks) {
    Random random(3, 0);
    for (const int64_t tokens : {1, 2, 7, 16}) {
      for (const int64_t columns : {1, 5, 16, 37}) {
        for (const bool before : {false, true}) {
          Pair x(tokens, columns, random), y(tokens, columns, random), decay(tokens, columns, random, 0.5),
              scratch(1, columns, random), scores(tokens, tokens, random), dx(tokens, columns, random),
              dy(tokens, columns, random);
          scores.lower(true);
          const DecayedPairs<float> narrow{
              tokens, columns, x.narrow, y.narrow, decay.narrow, before, scratch.narrow.row(0)};
          const DecayedPairs<double> wide{tokens, columns, x.wide, y.wide, decay.wide, before, scratch.wide.row(0)};
          blocks.ops.pair_scores(narrow, scores.narrow);
          exact().ops.pair_scores(wide, scores.wide);
          scores.expect_equal("scores");
          // Gradients are linear in these scores as in any.
          for (int64_t i = 0; i < tokens; ++i) {
            for (int64_t j = 0; j < tokens; ++j) scores.narrow.row(i)[j] = 0.1f, scores.wide.row(i)[j] = double{0.1f};
          }
          blocks.ops.pair_gradients(narrow, scores.narrow, dx.narrow, dy.narrow);
          exact().ops.pair_gradients(wide, scores.wide, dx.wide, dy.wide);
          dx.expect_equal("dx"), dy.expect_equal("dy");
        }
      }
    }
  });
}

// (I - l) x = b and its transpose, put back.
TEST(BlockOps, TriangularSystems) {
  for_each_path([](const Blocks<float>& blocks) {
    Random random(4, 0);
    for (const int64_t rows : {1, 15, 16, 17, 40, 64}) {
      Pair l(rows, rows, random, 0.2), b(rows, 9, random), x(rows, 9, random);
      l.lower(true);
      UnitLower<float> solver(blocks);
      solver.load(l.narrow);
      for (const bool transposed : {false, true}) {
        BlockMatrix<float> rhs, back;
        rhs.copy(b.narrow);
        transposed ? solver.solve_transposed(rhs, x.narrow) : solver.solve(rhs, x.narrow);
        back.copy(x.narrow);
        transposed ? blocks.add_transposed_product(l.narrow, x.narrow, back, -1)
                   : blocks.add_product(l.narrow, x.narrow, back, -1);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < 9; ++c) ASSERT_NEAR(back.row(r)[c], b.narrow.row(r)[c], 1e-3) << rows << " " << r;
        }
      }
    }
  });
}

// In place and not, one and two parts, with and without what is written, against single numbers.
TEST(BlockOps, StepsOfColumns) {
  std::vector<const BlockOps<float>*> all = {&plain_block_ops<float>()};
  for (const std::string_view path : available_cpu_paths()) all.push_back(&cpu_kernels(path).blocks());
  Random random(5);
  for (const int64_t parts : {1, 2}) {
    for (const int64_t width : {1, 7, 8, 16, 19, 33}) {
      for (const int mode : {0, 1, 2, 3}) {
        const bool transposed = mode & 1, written = mode & 2;
        const int64_t rows = 3, columns = parts * width;
        const Pair a(1, parts * columns, random), state(rows, columns, random), added(1, columns, random),
            factors(1, rows, random);
        BlockMatrix<double> want;
        want.shape(rows, columns);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t i = 0; i < columns; ++i) {
            const int64_t part = i / width, c = i % width;
            double sum = written ? factors.wide.row(0)[r] * added.wide.row(0)[i] : 0;
            for (int64_t j = 0; j < parts; ++j) {
              const int64_t diagonal = transposed ? j * parts + part : part * parts + j;
              sum += a.wide.row(0)[diagonal * width + c] * state.wide.row(r)[j * width + c];
            }
            want.row(r)[i] = sum;
          }
        }
        const auto check = [&](const auto& got, const char* what) {
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t i = 0; i < columns; ++i) ASSERT_NEAR(double{got.row(r)[i]}, want.row(r)[i], 1e-5) << what;
          }
        };
        const auto step = [&](const auto& ops, const auto& in, const auto& from, auto& to) {
          ops.step_columns({in(a).row(0), parts, rows, columns, transposed, from,
                            written ? in(factors).row(0) : nullptr, in(added).row(0), to});
        };
        const auto narrow = [](const Pair& p) -> const BlockMatrix<float>& { return p.narrow; };
        const auto wide = [](const Pair& p) -> const BlockMatrix<double>& { return p.wide; };
        for (const BlockOps<float>* ops : all) {
          BlockMatrix<float> apart, place;
          apart.shape(rows, columns), place.copy(state.narrow);
          step(*ops, narrow, state.narrow, apart), check(apart, "apart");
          step(*ops, narrow, place, place), check(place, "in place");
        }
        BlockMatrix<double> exact;
        exact.copy(state.wide);
        step(plain_block_ops<double>(), wide, exact, exact), check(exact, "fp64");
      }
    }
  }
}

}  // namespace
}  // namespace weft::kernels
