// Linear layers as they run: every method, layer and cut of the sequence against the recurrence token by token in fp64.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/linear_check.h"
#include "weft/base/test_level.h"
#include "weft/execute/dense_recurrence.h"

namespace weft {
namespace {

TEST(ExecuteLinear, EveryMethodLayerAndRankCount) {
  for (const Method* method : linear_methods()) {
    for (const Layer layer : kLinearLayers) {
      for (const int ranks : {1, 2, 3, 4, 5, 8}) {
        expect_right({.method = std::string(method->name), .layer = layer, .lengths = {41}, .ranks = ranks});
        expect_right({.method = std::string(method->name),
                      .layer = layer,
                      .lengths = {1, 17, 1, 1, 30, 5},
                      .ranks = ranks,
                      .layout = "zigzag"});
      }
    }
  }
}

// Cuts on rank edges, a document over three ranks, documents inside one rank, more of them than ranks.
TEST(ExecuteLinear, PackedDocuments) {
  const std::vector<std::vector<int64_t>> sets = {
      {30, 30},    {30, 40, 32},     {70, 32},    {10, 5, 9, 3, 8, 20, 6},
      {51, 1, 51}, {25, 26, 25, 26}, {64, 1, 64}, std::vector<int64_t>(20, 1)};
  for (const auto& lengths : sets) {
    for (const Method* method : linear_methods()) {
      for (const int ranks : {2, 4}) {
        expect_right({.method = std::string(method->name), .lengths = lengths, .ranks = ranks});
        expect_right({.method = std::string(method->name),
                      .layer = Layer::mamba2,
                      .lengths = lengths,
                      .ranks = ranks,
                      .dim_v = 2});
      }
    }
  }
}

// Gated DeltaProduct and its relatives: tokens that decay once and write several times.
TEST(ExecuteLinear, Householders) {
  for (const Method* method : linear_methods()) {
    for (const Layer layer : {Layer::deltanet, Layer::gdn, Layer::kda}) {
      for (const int64_t householders : {2, 3}) {
        LinearCase c{.method = std::string(method->name), .layer = layer, .lengths = {41}, .ranks = 3};
        c.householders = householders;
        expect_right(c);
        c.lengths = {1, 17, 1, 1, 30, 5}, c.layout = "zigzag", c.initial_states = c.final_states = true;
        expect_right(c);
      }
    }
  }
}

// With beta of 0 in all but one of its writes, whichever, a token writes once.
TEST(ExecuteLinear, WritesOfStrengthZeroAreNone) {
  LinearCase c{.method = "chain", .layer = Layer::kda, .lengths = {37}, .ranks = 2};
  const CheckOptions options{.compare = false};
  CheckTensors one = random_inputs(c.problem(), 4);
  for (const int64_t which : {0, 1, 2}) {
    LinearCase three = c;
    three.householders = 3;
    CheckTensors many = random_inputs(three.problem(), 5);
    many.q = one.q, many.g = one.g, many.dout = one.dout;
    for (const Field field : {Field::k, Field::v, Field::beta}) {
      const HostTensor& from = one.of(field);
      HostTensor& to = many.of(field);
      for (int64_t row = 0; row < from.rows * from.heads; ++row) {
        for (int64_t i = 0; i < to.columns; ++i) {
          const bool own = i / from.columns == which;
          if (own || field == Field::beta)
            to.set(row * to.columns + i, own ? from.at(row * from.columns + i % from.columns) : 0);
        }
      }
    }
    const CheckTensors want = check_schedule(c.schedule(), one, options).tensors,
                       got = check_schedule(three.schedule(), many, options).tensors;
    for (const Field field : {Field::out, Field::dq, Field::dg}) {
      for (int64_t i = 0; i < want.of(field).elements(); ++i)
        EXPECT_NEAR(got.of(field).at(i), want.of(field).at(i), 1e-12) << name_of(field);
    }
  }
}

// Documents that begin with given states, and states after them: inside a rank, across several, of one token.
TEST(ExecuteLinear, InitialAndFinalStates) {
  for (const Method* method : linear_methods()) {
    for (const Layer layer : kLinearLayers) {
      for (const auto& [initial, final] : {std::pair{true, false}, {false, true}, {true, true}}) {
        LinearCase c{.method = std::string(method->name), .layer = layer, .lengths = {45}, .ranks = 3};
        c.initial_states = initial, c.final_states = final;
        expect_right(c);
        c.lengths = {1, 17, 1, 40, 1, 30, 5}, c.ranks = 4, c.layout = "zigzag";
        expect_right(c);
        c.lengths = {20, 20, 20}, c.layout = "contiguous", c.shards = {20, 0, 19, 21};
        expect_right(c);
      }
    }
  }
}

// States after tokens anywhere: a document's first and last one, on rank edges, one after the other, in several chunks.
TEST(ExecuteLinear, StatesAtChosenPositions) {
  for (const Method* method : linear_methods()) {
    for (const Layer layer : kLinearLayers) {
      for (const bool final : {false, true}) {
        LinearCase c{.method = std::string(method->name), .layer = layer, .lengths = {45}, .ranks = 3};
        c.final_states = final;
        c.state_positions = {0, 14, 15, 16, 17, 29, 44};
        expect_right(c);
        c.lengths = {1, 17, 1, 40, 1, 30, 5}, c.ranks = 4, c.layout = "zigzag", c.initial_states = true;
        c.state_positions = {0, 1, 18, 20, 40, 57, 58, 59, 60, 80, 94};
        expect_right(c);
        c.lengths = {150, 130}, c.ranks = 2, c.state_positions = {3, 70, 135, 149, 152};
        expect_right(c);
      }
    }
  }
}

// Each is the final state of the sequence up to there.
TEST(ExecuteLinear, AStateAtAPositionIsTheFinalOneOfWhatIsBefore) {
  for (const Layer layer : kLinearLayers) {
    LinearCase c{.method = "log-step", .layer = layer, .lengths = {12, 30}, .ranks = 3};
    c.state_positions = {5, 11, 12, 33};
    const CheckOptions options{.compare = false};
    const CheckTensors inputs = random_inputs(c.problem(), 3);
    const HostTensor got = check_schedule(c.schedule(), inputs, options).tensors.final_state;
    ASSERT_EQ(got.rows, 4);
    for (size_t n = 0; n < c.state_positions.size(); ++n) {
      const int64_t end = c.state_positions[n] + 1;
      LinearCase before{.method = "chain", .layer = layer, .lengths = {end}, .ranks = 1};
      if (end > 12) before.lengths = {12, end - 12};
      before.final_states = true;
      CheckTensors some = random_inputs(before.problem(), 3);
      (Field::q | c.problem().key_inputs() | Field::dout).for_each([&](Field field) {
        for (int64_t i = 0; i < some.of(field).elements(); ++i) some.of(field).set(i, inputs.of(field).at(i));
      });
      some.u = inputs.u;
      const HostTensor want = check_schedule(before.schedule(), some, options).tensors.final_state;
      const int64_t width = want.heads * want.columns, last = want.rows - 1, row = static_cast<int64_t>(n);
      for (int64_t i = 0; i < width; ++i)
        EXPECT_NEAR(got.at(row * width + i), want.at(last * width + i), 1e-12) << name_of(layer) << " after " << end;
    }
  }
}

// Tokens that read all of their document, against pairs one by one: inside a rank, over several, on both layouts.
TEST(ExecuteLinear, FullMask) {
  for (const Method* method : linear_methods()) {
    if (!method->both_ways) continue;
    for (const int ranks : {1, 2, 3, 4, 5, 8}) {
      LinearCase c{.method = std::string(method->name), .layer = Layer::linear, .lengths = {41}, .ranks = ranks};
      c.both_ways = true;
      expect_right(c);
      c.lengths = {1, 17, 1, 1, 30, 5}, c.layout = "zigzag", c.heads = 3;
      expect_right(c);
      c.lengths = {70, 64, 66}, c.layout = "contiguous", c.heads = 6;
      expect_right(c);
    }
    LinearCase c{.method = std::string(method->name), .layer = Layer::linear, .lengths = {20, 3, 90}, .ranks = 5};
    c.both_ways = true, c.shards = {20, 0, 1, 80, 12};
    expect_right(c);
  }
}

// A sequence in two calls, the second begun with the final state of the first, and back: the same as in one.
TEST(ExecuteLinear, StatesCarryASequenceOn) {
  for (const Layer layer : kLinearLayers) {
    LinearCase c{.method = "log-step", .layer = layer, .lengths = {40}, .ranks = 3};
    SCOPED_TRACE(c.describe());
    const CheckOptions options{.compare = false};
    const CheckTensors inputs = random_inputs(c.problem(), 9);
    const CheckTensors whole = check_schedule(c.schedule(), inputs, options).tensors;
    const auto part = [&](Range tokens, bool initial) {
      LinearCase of = c;
      of.lengths = {tokens.size()};
      of.initial_states = initial, of.final_states = !initial;
      CheckTensors some = random_inputs(of.problem(), 9);
      (Field::q | of.problem().key_inputs() | Field::dout).for_each([&](Field field) {
        const int64_t width = some.of(field).heads * some.of(field).columns;
        for (int64_t i = 0; i < some.of(field).elements(); ++i)
          some.of(field).set(i, inputs.of(field).at(tokens.begin * width + i));
      });
      return std::pair{of, some};
    };
    auto [first, first_inputs] = part({0, 23}, false);
    auto [second, second_inputs] = part({23, 40}, true);
    second_inputs.initial_state = check_schedule(first.schedule(), first_inputs, options).tensors.final_state;
    const CheckTensors later = check_schedule(second.schedule(), second_inputs, options).tensors;
    first_inputs.dfinal_state = later.dinitial_state;
    const CheckTensors earlier = check_schedule(first.schedule(), first_inputs, options).tensors;
    (Fields(Field::out) | Field::dq | c.problem().key_gradients()).for_each([&](Field field) {
      const HostTensor &all = whole.of(field), &left = earlier.of(field), &right = later.of(field);
      for (int64_t i = 0; i < all.elements(); ++i) {
        const double got = i < left.elements() ? left.at(i) : right.at(i - left.elements());
        EXPECT_NEAR(got, all.at(i), 1e-12 * (1 + std::abs(all.at(i)))) << name_of(field) << " " << i;
      }
    });
  }
}

// Longer than a chunk of either kind, with shards that end inside one.
TEST(ExecuteLinear, ManyChunks) {
  for (const Layer layer : kLinearLayers) {
    expect_right({.layer = layer, .lengths = {333}, .ranks = 2, .dim = 5, .dim_v = 7});
    expect_right({.method = "all-scan", .layer = layer, .lengths = {333}, .ranks = 3, .heads = 5, .layout = "zigzag"});
    expect_right({.method = "log-step", .layer = layer, .lengths = {150, 200}, .ranks = 3, .dim = 4, .dim_v = 3});
  }
}

TEST(ExecuteLinear, AnyCut) {
  Random random(20251121, 0);
  for (int n = 0; n < (test_level() == 0 ? 150 : 3000); ++n) {
    expect_right(random_linear_case(random), static_cast<uint64_t>(n));
    if (HasFailure()) return;
  }
}

TEST(ExecuteLinear, LowerPrecisions) {
  for (const DType element : {DType::fp32, DType::bf16, DType::fp16}) {
    for (const Layer layer : kLinearLayers) {
      for (const char* method : {"all-scan", "log-step"}) {
        LinearCase c{.method = method, .layer = layer, .lengths = {100, 156}, .ranks = 3, .heads = 3, .dim = 16};
        c.dim_v = 8, c.element = element;
        expect_right(c);
        c.both_ways = layer == Layer::linear && find_method(method).both_ways;
        if (c.both_ways) expect_right(c);
      }
    }
  }
}

// ---- the reference itself

// d loss / d input by central differences, loss = <out, dout> + <final state, dfinal_state>.
TEST(DenseRecurrence, GradientsAreFiniteDifferences) {
  for (const Layer layer : kLinearLayers) {
    LinearCase c{.layer = layer, .lengths = {6, 4}, .ranks = 1, .heads = 2, .dim = 2, .dim_v = 3};
    c.initial_states = c.final_states = true, c.state_positions = {2, 5, 7};
    const Problem problem = c.problem();
    const CheckTensors t = random_inputs(problem, 3);
    RecurrenceInputs in;
    in.q = t.q.to_fp64(), in.k = t.k.to_fp64(), in.v = t.v.to_fp64(), in.dout = t.dout.to_fp64();
    in.g = t.g.to_fp64(), in.beta = t.beta.to_fp64(), in.a = t.a.to_fp64(), in.b = t.b.to_fp64();
    in.u = t.u.to_fp64(), in.initial_state = t.initial_state.to_fp64(), in.dfinal_state = t.dfinal_state.to_fp64();
    for (double& x : in.k) x *= 1.3;  // the formulas do not need rows of length 1, nor b along a
    for (size_t i = 0; i < in.b.size(); ++i) in.b[i] += 0.2 * std::sin(static_cast<double>(i));
    const DenseRecurrence exact = dense_recurrence(problem, in, DType::fp64);
    const auto loss = [&] {
      const DenseRecurrence at = dense_recurrence(problem, in, DType::fp64);
      double sum = 0;
      for (size_t i = 0; i < at.out.size(); ++i) sum += at.out[i] * in.dout[i];
      for (size_t i = 0; i < at.final_state.size(); ++i) sum += at.final_state[i] * in.dfinal_state[i];
      return sum;
    };
    const auto compare = [&](std::vector<double> RecurrenceInputs::*input, const std::vector<double>& gradient,
                             const char* name) {
      ASSERT_EQ((in.*input).size(), gradient.size()) << name;
      for (size_t i = 0; i < gradient.size(); ++i) {
        double& x = (in.*input)[i];
        const double kept = x, step = 1e-5;
        x = kept + step;
        const double above = loss();
        x = kept - step;
        const double below = loss();
        x = kept;
        EXPECT_NEAR(gradient[i], (above - below) / (2 * step), 1e-7) << name_of(layer) << " d" << name << " " << i;
      }
    };
    compare(&RecurrenceInputs::q, exact.dq, "q");
    compare(&RecurrenceInputs::k, exact.dk, "k");
    compare(&RecurrenceInputs::v, exact.dv, "v");
    compare(&RecurrenceInputs::g, exact.dg, "g");
    compare(&RecurrenceInputs::beta, exact.dbeta, "beta");
    compare(&RecurrenceInputs::a, exact.da, "a");
    compare(&RecurrenceInputs::b, exact.db, "b");
    compare(&RecurrenceInputs::u, exact.du, "u");
    compare(&RecurrenceInputs::initial_state, exact.dinitial_state, "initial_state");
  }
}

// ---- what must not reach what

void set_rows(HostTensor& tensor, Range rows, double value) {
  const int64_t width = tensor.heads * tensor.columns;
  for (int64_t i = rows.begin * width; i < rows.end * width; ++i) tensor.set(i, value);
}
void set_inputs(CheckTensors& t, Range rows, double value) {
  for (HostTensor* tensor : {&t.q, &t.k, &t.v, &t.g, &t.beta, &t.a, &t.b, &t.dout}) {
    if (!tensor->empty()) set_rows(*tensor, rows, value);
  }
}

bool equal_rows(const HostTensor& a, const HostTensor& b, Range rows) {
  const int64_t width = a.heads * a.columns;
  for (int64_t i = rows.begin * width; i < rows.end * width; ++i) {
    if (!(a.at(i) == b.at(i))) return false;
  }
  return true;
}

// NaN in one document, forward and backward, changes no bit of the others'.
TEST(ExecuteLinear, DocumentsStayApart) {
  for (const Method* method : linear_methods()) {
    for (const Layer layer : kLinearLayers) {
      LinearCase c{.method = std::string(method->name), .layer = layer, .lengths = {11, 18, 9}, .ranks = 4};
      c.both_ways = layer == Layer::linear && method->both_ways;
      SCOPED_TRACE(c.describe());
      CheckTensors inputs = random_inputs(c.problem(), 5);
      const CheckOptions options{.compare = false};
      const CheckTensors clean = check_schedule(c.schedule(), inputs, options).tensors;
      set_inputs(inputs, {11, 29}, std::nan(""));
      const CheckTensors poisoned = check_schedule(c.schedule(), inputs, options).tensors;
      for (const Range rows : {Range{0, 11}, Range{29, 38}}) {
        for (HostTensor CheckTensors::*member :
             {&CheckTensors::out, &CheckTensors::dq, &CheckTensors::dk, &CheckTensors::dv, &CheckTensors::dg,
              &CheckTensors::dbeta, &CheckTensors::da, &CheckTensors::db}) {
          EXPECT_TRUE((clean.*member).empty() || equal_rows(clean.*member, poisoned.*member, rows));
        }
      }
      EXPECT_FALSE(equal_rows(clean.out, poisoned.out, {11, 29}));
    }
  }
}

// A token changes nothing before it.
TEST(ExecuteLinear, NothingFlowsBackInTime) {
  for (const Method* method : linear_methods()) {
    const LinearCase c{.method = std::string(method->name), .layer = Layer::gla, .lengths = {30}, .ranks = 3};
    CheckTensors inputs = random_inputs(c.problem(), 6);
    const CheckOptions options{.compare = false};
    const CheckTensors before = check_schedule(c.schedule(), inputs, options).tensors;
    for (HostTensor* tensor : {&inputs.q, &inputs.k, &inputs.v}) set_rows(*tensor, {14, 15}, 2.5);
    const CheckTensors after = check_schedule(c.schedule(), inputs, options).tensors;
    EXPECT_TRUE(equal_rows(before.out, after.out, {0, 14}));
    EXPECT_FALSE(equal_rows(before.out, after.out, {14, 15}));
    EXPECT_FALSE(equal_rows(before.out, after.out, {29, 30}));
  }
}

// A gate's gradient comes from queries and keys on both sides of it, here all of other ranks.
TEST(ExecuteLinear, GatesBetweenRanksHaveGradients) {
  const LinearCase c{.layer = Layer::gla, .lengths = {9}, .ranks = 3};
  CheckTensors inputs = random_inputs(c.problem(), 7);
  set_rows(inputs.k, {3, 9}, 0);     // keys only on rank 0
  set_rows(inputs.dout, {0, 6}, 0);  // gradients only on rank 2
  const CheckReport report = check_schedule(c.schedule(), inputs);
  EXPECT_TRUE(report.ok);
  const int64_t width = 2 * 3;
  for (int64_t i = 3 * width; i < 6 * width; ++i) EXPECT_GT(std::abs(report.tensors.dg.at(i)), 1e-6) << i;
}

// No decay at all, decays of e^-20, and such that nothing is left in any type.
TEST(ExecuteLinear, ExtremeGates) {
  for (const Layer layer : {Layer::mamba2, Layer::gla, Layer::gdn, Layer::kda, Layer::rwkv6, Layer::rwkv7}) {
    for (const double g : {0.0, -20.0, -1e30, -std::numeric_limits<double>::infinity()}) {
      const LinearCase c{.layer = layer, .lengths = {50}, .ranks = 3};
      CheckTensors inputs = random_inputs(c.problem(), 8);
      for (int64_t t = 0; t < 50; t += 3) set_rows(inputs.g, {t, t + 1}, g);
      const CheckReport report = check_schedule(c.schedule(), inputs);
      for (const TensorError& error : report.errors) EXPECT_TRUE(error.ok()) << name_of(layer) << g << error.name;
    }
  }
}

}  // namespace
}  // namespace weft
