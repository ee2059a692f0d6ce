// Wrong schedules: every accepted mutant must compute the right numbers and must not be able to hang.
//
// Thousands of verified schedules, each with one random change. Two judges that know nothing of the verifier decide:
// execution on reference kernels against dense attention in fp64, and, up to three ranks, an exhaustive search of
// interleavings under rendezvous. A harmful mutant that the verifier accepts fails the test. Harmless ones may be accepted or
// refused; their share is printed.
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "tests/linear_case.h"
#include "tests/mutate.h"
#include "weft/base/test_level.h"
#include "weft/execute/check.h"
#include "weft/methods/registry.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

struct Case {
  Schedule schedule;
  std::string text;
};

// Random values for some of a method's options: of the numbers, divisors of the ranks, which every degree takes.
std::map<std::string, std::string> random_options(const Method& method, int ranks, Random& random) {
  std::map<std::string, std::string> options;
  for (const MethodOption& option : method.options) {
    if (random.uniform(2) == 0) continue;
    std::string value;
    if (option.kind == MethodOption::Kind::choice) {
      value = option.choices[static_cast<size_t>(random.uniform(static_cast<int64_t>(option.choices.size())))];
    } else {
      int64_t divisor = 1 + random.uniform(ranks);
      while (ranks % divisor != 0) --divisor;
      value = std::to_string(std::max(divisor, option.limits.min));
    }
    options.emplace(option.name, value);
  }
  return options;
}

// Of one method, or of any.
Case random_case(Random& random, std::string_view name) {
  const auto methods = all_methods();
  const size_t any = static_cast<size_t>(random.uniform(static_cast<int64_t>(methods.size())));
  const Method& method = name.empty() ? *methods[any] : find_method(name);
  const int ranks = 1 + static_cast<int>(random.uniform(4));
  std::vector<int64_t> lengths;
  for (int64_t documents = 1 + random.uniform(3) * random.uniform(2); documents > 0; --documents)
    lengths.push_back(1 + random.uniform(14));
  MaskRule rule{.causal = random.uniform(3) > 0, .window = random.uniform(3) == 0 ? 1 + random.uniform(6) : 0};
  static constexpr std::pair<int64_t, int64_t> kHeads[] = {{2, 2}, {4, 2}, {2, 1}, {3, 1}, {3, 3}};
  const auto [heads, kv_heads] = kHeads[random.uniform(5)];
  static constexpr std::string_view kLayouts[] = {"", "contiguous", "zigzag", "striped"};
  const std::string_view layout = kLayouts[random.uniform(4)];
  auto options = random_options(method, ranks, random);
  const auto problem_of = [&] {
    Layout where = choose_layout(layout, method.name, Documents(lengths, rule), ranks, options);
    return self_attention(Mask::documents(lengths, rule), std::move(where), heads, kv_heads, 2);
  };
  try {
    make_schedule(method.name, problem_of(), options);
  } catch (const Error& error) {  // two degrees that do not fit together, more rings than there are
    if (options.empty() || error.code() != ErrorCode::unsupported) throw;
    options.clear();
  }
  Problem problem = problem_of();
  problem.element = problem.wire = DType::fp64;
  problem.backward = true;
  problem.return_lse = random.uniform(2) == 0;
  std::string text =
      std::string(method.name) + ", " + std::to_string(ranks) + " ranks, " + to_string(rule) + ", documents";
  for (int64_t length : lengths) text += " " + std::to_string(length);
  text +=
      ", heads " + std::to_string(heads) + "/" + std::to_string(kv_heads) + ", layout '" + std::string(layout) + "'";
  for (const auto& [key, value] : options) text += ", " + key + "=" + value;
  return {make_schedule(method.name, std::move(problem), options), text};
}

Case random_linear_layer(Random& random) {
  LinearCase c = random_linear_case(random);
  c.ranks = std::min(c.ranks, 4);
  if (const auto inner = c.options.find("inner"); inner != c.options.end())
    c.ranks -= c.ranks % std::stoi(inner->second);
  c.shards.clear();
  return {c.schedule(), c.describe()};
}

// Whether execution gives the right numbers, and under disturbance too.
std::string execute(const Schedule& schedule, uint64_t seed) {
  try {
    CheckOptions options{.seed = seed, .kernels = &kernels::reference_kernels()};
    options.execute.poison = true;
    options.execute.overlap = seed % 4 != 0;
    const CheckReport report = check_schedule(schedule, options);
    // Inputs are about 1 in size: of a gradient that has all but decayed, the last digits are those of larger sums.
    constexpr double kRounding = 1e-14;
    for (const TensorError& e : report.errors) {
      if (!e.ok() && !(e.max_abs <= kRounding)) return e.name + " is wrong by " + std::to_string(e.max_abs);
    }
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

void expect_no_harmful_one_accepted(int wanted, const std::function<Case(Random&)>& make) {
  Random random(20240607, 0);
  std::map<std::string, int> counts;
  for (int made = 0; made < wanted;) {
    const Case original = make(random);
    ASSERT_TRUE(verify(original.schedule).ok()) << original.text;
    const StoredSchedule stored = original.schedule.store();
    const testing::LooseSchedule loose = testing::take_apart(stored);
    for (int n = 0; n < 5 && made < wanted; ++n) {
      testing::LooseSchedule changed = loose;
      const std::string change = testing::mutate(changed, *stored.pool, original.schedule.problem(), random);
      if (change.empty()) continue;
      ++made;
      const Schedule mutant(original.schedule.method(), original.schedule.shared_problem(),
                            testing::put_together(changed, *stored.pool));
      const Report report = verify(mutant, {.max_problems = 3, .explain = false});
      const bool may_hang = changed.programs.size() <= 3 && testing::can_hang(changed);
      const std::string fault = may_hang ? "can hang" : execute(mutant, static_cast<uint64_t>(made));
      const bool harmful = !fault.empty();
      ++counts[std::string(harmful ? "harmful" : "harmless") + (report.ok() ? " accepted" : " refused")];
      ASSERT_FALSE(harmful && report.ok()) << original.text << "; " << change << ": accepted, but " << fault;
      if (!report.ok()) {
        ASSERT_FALSE(report.problems[0].text.empty());
      }
    }
  }
  for (const auto& [what, count] : counts) std::printf("%-18s %6d of %d\n", what.c_str(), count, wanted);
}

TEST(Mutants, NoHarmfulOneIsAccepted) {
  expect_no_harmful_one_accepted(test_level() == 0 ? 500 : 10000,
                                 [](Random& random) { return random_case(random, ""); });
}

// The only method of attention with instructions of its own.
TEST(Mutants, NoHarmfulOneOfWholeScoresIsAccepted) {
  expect_no_harmful_one_accepted(test_level() == 0 ? 100 : 2000,
                                 [](Random& random) { return random_case(random, "rsa"); });
}

TEST(Mutants, NoHarmfulOneOfLinearLayersIsAccepted) {
  expect_no_harmful_one_accepted(test_level() == 0 ? 500 : 10000, random_linear_layer);
}

TEST(Mutants, TheSearchForHangsFindsThem) {
  // Two ranks that both send first and receive in a second exchange hang; in one exchange they do not.
  const auto message = [](std::vector<int> to, std::vector<int> from) {
    testing::LooseInstruction i;
    i.head.op = Op::exchange;
    for (int peer : to) i.outgoing.push_back({{}, peer, Combine::copy});
    for (int peer : from) i.incoming.push_back({{}, peer, Combine::copy});
    return i;
  };
  EXPECT_TRUE(testing::can_hang({{{message({1}, {}), message({}, {1})}, {message({0}, {}), message({}, {0})}}}));
  EXPECT_FALSE(testing::can_hang({{{message({1}, {1})}, {message({0}, {0})}}}));
  EXPECT_FALSE(testing::can_hang({{{message({1}, {}), message({}, {1})}, {message({}, {0}), message({0}, {})}}}));
  EXPECT_TRUE(testing::can_hang({{{message({1}, {}), message({}, {2})},
                                  {message({2}, {}), message({}, {0})},
                                  {message({0}, {}), message({}, {1})}}}));
}

}  // namespace
}  // namespace weft
