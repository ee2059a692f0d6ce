// Closed forms against what the verifier counts: every method and option, every number, exactly.
#include <gtest/gtest.h>

#include <numeric>

#include "weft/base/test_level.h"
#include "weft/methods/passes/hamilton.h"
#include "weft/methods/registry.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

// One way to call a method.
struct Way {
  const char* method;
  std::map<std::string, std::string> options;
  const char* layout = "";  // empty: the method's own
};

std::string text_of(const Way& way) {
  std::string text = std::string(way.method) + (*way.layout ? " on " : "") + way.layout;
  for (const auto& [key, value] : way.options) text += " " + key + "=" + value;
  return text;
}

std::string text_of(const Way& way, const Configuration& c) {
  return text_of(way) + ", " + std::to_string(c.ranks) + " ranks, " + std::to_string(c.tokens) + " tokens, " +
         to_string(c.mask) + (c.backward ? ", backward" : "") + (c.return_lse ? ", lse" : "") + ", heads " +
         std::to_string(c.heads) + "/" + std::to_string(c.kv_heads) + ", " + std::string(name_of(c.element)) +
         " on the wire " + std::string(name_of(c.wire));
}

Formula formula_for(const Way& way, const Configuration& c) {
  const Method& method = find_method(way.method);
  return formula_of(method, c, MethodOptions(method.name, method.options, way.options));
}

Problem problem_of(const Way& way, const Configuration& c) {
  const Layout layout = choose_layout(way.layout, way.method, {c.tokens}, c.ranks, way.options);
  Problem problem(Mask::of(c.tokens, c.mask), layout, layout);
  static_cast<AttentionShape&>(problem) = c;
  return problem;
}

Cost counted(const Way& way, const Configuration& c) {
  const Report report = verify(make_schedule(way.method, problem_of(way, c), way.options));
  EXPECT_TRUE(report.ok()) << text_of(way, c);
  return cost_of(report);
}

// Every number; false after a difference.
bool expect_exact(const Way& way, const Configuration& c, const Formula& formula) {
  const auto claimed = numbers_of(formula), real = numbers_of(counted(way, c));
  bool same = true;
  for (size_t i = 0; i < real.size(); ++i) {
    EXPECT_EQ(claimed[i].second, real[i].second) << real[i].first << " of " << text_of(way, c);
    same &= claimed[i].second == real[i].second;
  }
  return same;
}

std::vector<int> divisors_of(int n) {
  std::vector<int> divisors;
  for (int d = 1; d <= n; ++d) {
    if (n % d == 0) divisors.push_back(d);
  }
  return divisors;
}

// Every method on its own layout with each of its options.
std::vector<Way> own_ways(int ranks) {
  std::vector<Way> list;
  for (const char* method :
       {"token-ring", "lightseq", "mesh", "burst", "usp", "double-ring", "rsa", "mercury-team", "tasp"})
    list.push_back({method, {}});
  for (const char* direction : {"forward", "reverse"}) {
    for (const char* method : {"ring", "zigzag", "striped"}) list.push_back({method, {{"direction", direction}}});
  }
  for (const char* method : {"all-gather", "lss"}) {
    for (const char* backward : {"keep", "refetch"}) {
      for (const char* chunks : {"1", "2", "3"}) list.push_back({method, {{"chunks", chunks}, {"backward", backward}}});
    }
  }
  for (const char* block : {"2", "3"}) list.push_back({"striped", {{"block", block}}});
  for (const char* stride : {"1", "2", "5"}) list.push_back({"llama3", {{"stride", stride}}});
  for (const char* fan_in : {"2", "3", "5", "100"}) list.push_back({"tree", {{"fan-in", fan_in}}});
  for (const char* stages : {"auto", "1", "2", "3", "7"}) {
    list.push_back({"group-cast", {{"stages", stages}}});
    list.push_back({"group-cast", {{"stages", stages}, {"placement", "work"}}});
  }
  for (const char* kv : {"replicate", "whole"}) {
    for (const char* exchange : {"together", "each"}) {
      list.push_back({"ulysses", {{"kv", kv}, {"exchange", exchange}}});
    }
  }
  for (int divisor : divisors_of(ranks)) {
    const std::string degree = std::to_string(divisor);
    for (const char* order : {"zigzag", "contiguous", "striped"}) {
      list.push_back({"usp", {{"ulysses", degree}, {"order", order}, {"direction", "forward"}}});
      list.push_back({"usp", {{"ulysses", degree}, {"order", order}}});
    }
    list.push_back({"usp", {{"ulysses", degree}, {"placement", "outer"}, {"kv", "whole"}, {"exchange", "each"}}});
    list.push_back({"double-ring", {{"ulysses", degree}, {"exchange", "each"}, {"direction", "forward"}}});
    for (int window : divisors_of(ranks / divisor)) {
      list.push_back({"double-ring", {{"ulysses", degree}, {"window", std::to_string(window)}}});
    }
    list.push_back({"mesh", {{"width", degree}}});
    for (int rings = 1; rings <= std::min(3, methods::most_rings(divisor, ranks / divisor)); ++rings)
      list.push_back({"tasp", {{"nodes", degree}, {"rings", std::to_string(rings)}}});
    for (const char* placement : {"inner", "outer"}) {
      for (const char* direction : {"forward", "reverse"})
        list.push_back({"mercury-team", {{"team", degree}, {"placement", placement}, {"direction", direction}}});
    }
    for (const char* backward : {"queries", "keys"}) {
      list.push_back({"burst", {{"nodes", degree}, {"backward", backward}}});
    }
  }
  return list;
}

// Methods on layouts that are not theirs.
std::vector<Way> other_ways() {
  std::vector<Way> list;
  for (const char* layout : {"contiguous", "zigzag", "striped"}) {
    for (const Method* method : all_methods()) list.push_back({method->name.data(), {}, layout});
    list.push_back({"zigzag", {{"direction", "forward"}}, layout});
    list.push_back({"group-cast", {{"stages", "3"}}, layout});
    list.push_back({"all-gather", {{"chunks", "2"}}, layout});
  }
  return list;
}

// What is not known, and where: everything else on a method's own layout is.
bool is_unknown(const Way& way, const Configuration& c) {
  const auto is = [&](const char* option, const char* value) {
    const auto found = way.options.find(option);
    return found != way.options.end() && found->second == value;
  };
  const std::string_view method = way.method;
  if (c.ranks == 1) return false;
  if (method == "group-cast")
    return (c.mask.causal && is("placement", "work")) || (is("stages", "3") && c.ranks < 3) ||
           (is("stages", "7") && c.ranks < 7);
  if (method == "ring") return c.mask.causal && is("direction", "reverse");
  const bool rings = !is("ulysses", std::to_string(c.ranks).c_str());
  return method == "usp" && c.mask.causal && rings && is("order", "contiguous") && !is("direction", "forward");
}

// How many equal parts the rows of a rank must have: a zigzag has no half tokens, and blocks and pieces may not divide.
int64_t parts_of_rows(const Way& way, int ranks) {
  const auto number = [&](const char* option) {
    const auto found = way.options.find(option);
    return found == way.options.end() ? 1 : std::stoi(found->second);
  };
  const bool all_rings = std::string_view(way.method) == "tasp" && !way.options.contains("rings");
  const int64_t pieces = number("chunks") * (all_rings ? methods::most_rings(1, ranks) : number("rings"));
  return std::lcm(number("block"), ranks == 1 ? 1 : 2 * pieces);
}

bool is_uneven(const Way& way, const Configuration& c) { return c.tokens / c.ranks % parts_of_rows(way, c.ranks) != 0; }

struct Heads {
  int64_t heads, kv_heads;
};
struct Types {
  DType element, wire;
};
constexpr Heads kHeads[] = {{6, 6}, {12, 4}, {4, 1}};
constexpr Types kTypes[] = {{DType::fp32, DType::fp32}, {DType::bf16, DType::fp32}, {DType::bf16, DType::bf16}};

// Tokens that divide; masks, phases, heads and types.
std::vector<Configuration> configurations(int ranks, bool all) {
  std::vector<Configuration> list;
  for (int64_t rows : {4, 6, 1}) {
    for (const Heads& heads : kHeads) {
      for (const Types& types : kTypes) {
        for (int bits = 0; bits < 8; ++bits) {
          Configuration c;
          c.ranks = ranks, c.tokens = rows * ranks, c.dim = 6, c.dim_v = 4;
          c.heads = heads.heads, c.kv_heads = heads.kv_heads;
          c.element = types.element, c.wire = types.wire;
          c.mask.causal = bits & 1, c.backward = bits & 2, c.return_lse = bits & 4;
          const bool usual = heads.heads == 12 && types.element != types.wire;
          if ((rows != 4 || c.return_lse || !all) && !usual) continue;
          list.push_back(c);
        }
      }
    }
  }
  return list;
}

class Formulas : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Formulas, testing::Values(1, 2, 3, 4, 5, 8, 12, 16));

TEST_P(Formulas, AreWhatTheVerifierCounts) {
  if (test_level() == 0 && GetParam() > 5) GTEST_SKIP() << "many schedules";
  for (const Way& way : own_ways(GetParam())) {
    for (const Configuration& c : configurations(GetParam(), GetParam() <= 8 || test_level() == 2)) {
      const Formula formula = formula_for(way, c);
      ASSERT_TRUE(is_uneven(way, c) || formula.known() != is_unknown(way, c)) << text_of(way, c) << formula.reason;
      ASSERT_TRUE(is_uneven(way, c) || formula.exact) << text_of(way, c);
      ASSERT_TRUE(!formula.known() || !formula.exact || expect_exact(way, c, formula));
    }
  }
}

TEST_P(Formulas, AreExactOnOtherLayoutsWhereTheyAreKnown) {
  if (test_level() == 0 && GetParam() > 5) GTEST_SKIP() << "many schedules";
  int known = 0;
  for (const Way& way : other_ways()) {
    for (Configuration c : configurations(GetParam(), GetParam() <= 5)) {
      c.layout = way.layout;
      const Formula formula = formula_for(way, c);
      if (!formula.known() || !formula.exact) continue;
      ++known;
      ASSERT_TRUE(expect_exact(way, c, formula));
    }
  }
  EXPECT_GT(known, 100);
}

// Formulas look at a few ranks and steps where the others are alike: so they must be in large grids too.
TEST(Formula, IsExactForManyRanks) {
  if (test_level() == 0) GTEST_SKIP() << "many schedules";
  for (int ranks : {27, 33, 64}) {
    Configuration c;
    c.ranks = ranks, c.tokens = 12 * ranks, c.heads = 12, c.kv_heads = 4, c.dim = 6, c.dim_v = 4;
    c.element = DType::bf16, c.backward = true;
    for (const Way& way : own_ways(ranks)) {
      for (bool causal : {false, true}) {
        c.mask.causal = causal;
        const Formula formula = formula_for(way, c);
        ASSERT_TRUE(!formula.known() || formula.exact || is_uneven(way, c)) << text_of(way, c);
        ASSERT_TRUE(!formula.known() || !formula.exact || expect_exact(way, c, formula));
      }
    }
  }
}

// Every number of rings, in shards that as many pieces divide.
TEST(Formula, IsExactForPiecesOnAllRings) {
  for (int ranks : {4, 5, 8, 9, 12, 66}) {
    if (test_level() == 0 && ranks > 9) break;
    for (int nodes : divisors_of(ranks)) {
      if (ranks > 64 && nodes > 6) break;
      const int most = std::min(methods::most_rings(nodes, ranks / nodes), ranks > 64 ? 3 : 8);
      for (int rings = 1; rings <= most; ++rings) {
        for (int bits = 0; bits < 4; ++bits) {
          const Way way{"tasp",
                        {{"nodes", std::to_string(nodes)}, {"rings", std::to_string(rings)}},
                        bits == 0 || bits == 3 ? "contiguous" : ""};
          Configuration c;
          c.ranks = ranks, c.tokens = 2 * ranks * rings * (1 + bits % 2), c.heads = 4, c.kv_heads = 2, c.dim = 6,
          c.dim_v = 4;
          c.element = DType::bf16, c.wire = bits < 2 ? DType::bf16 : DType::fp32;
          c.mask.causal = bits != 2, c.backward = true;
          c.layout = way.layout;
          const Formula formula = formula_for(way, c);
          ASSERT_TRUE(formula.known() && formula.exact) << text_of(way, c) << formula.reason;
          ASSERT_TRUE(expect_exact(way, c, formula));
        }
      }
    }
  }
}

// Where tokens do not divide, the numbers are those of fewer than P x parts_of_rows tokens more. Work grows with their square.
TEST(Formula, IsNearWhereTokensDoNotDivide) {
  for (int ranks : {2, 3, 4, 8}) {
    for (int64_t tokens : {16 * ranks + 1, 40 * ranks + ranks + 1, 100 * ranks - 1}) {
      Configuration c;
      c.ranks = ranks, c.tokens = tokens, c.heads = 12, c.kv_heads = 4, c.dim = 6, c.dim_v = 4, c.backward = true;
      for (const Way& way : own_ways(ranks)) {
        const double bound = 3.0 * static_cast<double>(std::max<int64_t>(3, parts_of_rows(way, ranks)) * ranks) /
                             static_cast<double>(tokens);
        for (bool causal : {false, true}) {
          c.mask.causal = causal;
          const Formula formula = formula_for(way, c);
          if (!formula.known()) continue;
          EXPECT_FALSE(formula.exact) << text_of(way, c);
          const auto claimed = numbers_of(formula), real = numbers_of(counted(way, c));
          for (size_t i = 0; i < real.size(); ++i) {
            const auto apart = static_cast<double>(std::abs(claimed[i].second - real[i].second));
            EXPECT_LE(apart, bound * static_cast<double>(real[i].second))
                << real[i].first << " " << claimed[i].second << " and " << real[i].second << " of " << text_of(way, c);
          }
        }
      }
    }
  }
}

TEST(Formula, OfAProblemIsThatOfItsSizesAndLayout) {
  Configuration c;
  c.ranks = 6, c.tokens = 96, c.heads = 12, c.kv_heads = 4, c.mask.causal = true, c.backward = true;
  std::vector<Way> list = own_ways(c.ranks);
  for (const Way& way : other_ways()) list.push_back(way);
  for (const Way& way : list) {
    const Method& method = find_method(way.method);
    const MethodOptions options(method.name, method.options, way.options);
    c.layout = way.layout;
    const Formula sizes = formula_for(way, c), problem = formula_of(method, problem_of(way, c), options);
    EXPECT_TRUE(!sizes.known() || static_cast<const Cost&>(problem) == static_cast<const Cost&>(sizes)) << text_of(way);
  }
  const Problem dual_chunk = problem_of({"zigzag", {}, "dual-chunk"}, c);
  c.layout = "";
  const Method& zigzag = find_method("zigzag");
  const MethodOptions none(zigzag.name, zigzag.options, {});
  EXPECT_EQ(formula_of(zigzag, dual_chunk, none).forward, formula_of(zigzag, c, none).forward);
}

TEST(Formula, SaysWhatItDoesNotKnow) {
  const auto reason = [](const Way& way, auto&& change) {
    Configuration c;
    c.ranks = 4, c.tokens = 96, c.heads = 12, c.kv_heads = 4;
    change(c);
    const Formula formula = formula_for(way, c);
    EXPECT_FALSE(formula.known()) << text_of(way);
    EXPECT_EQ(static_cast<const Cost&>(formula), Cost{}) << text_of(way);
    return formula.reason;
  };
  EXPECT_EQ(reason({"ring", {}}, [](Configuration& c) { c.mask.window = 7; }), "no closed form for a sliding window");
  EXPECT_EQ(reason({"ring", {}}, [](Configuration& c) { c.tokens = 3; }), "no closed form for fewer tokens than ranks");
  EXPECT_EQ(reason({"usp", {{"ulysses", "3"}}}, [](Configuration&) {}),
            "usp: ulysses 3 does not divide 4 ranks; use one of 1, 2, 4");
  EXPECT_EQ(reason({"mesh", {}}, [](Configuration& c) { c.tokens = int64_t{1} << 50; }),
            "too large: the counts of all ranks together do not fit into 64 bits");
  const auto striped = [](Configuration& c) { c.layout = "striped", c.mask.causal = true; };
  EXPECT_EQ(reason({"all-gather", {{"chunks", "2"}}}, striped),
            "no closed form for pieces of striped shards under a causal mask");
  EXPECT_EQ(reason({"lss", {{"chunks", "32"}}}, [](Configuration&) {}), "no closed form for fewer tokens than pieces");
  EXPECT_EQ(reason({"tree", {}}, [](Configuration& c) { c.ranks = 1 << 13, c.tokens = 1 << 15; }),
            "no closed form for so many ranks: too many steps to walk");
  // A window as long as the sequence is none.
  Configuration c;
  c.ranks = 4, c.tokens = 96, c.mask = {.causal = true, .window = 96};
  EXPECT_TRUE(formula_for({"ring", {}}, c).known());

  const Method& ring = find_method("ring");
  const MethodOptions options(ring.name, ring.options, {});
  const auto of_problem = [&](Mask mask, Layout queries, Layout keys) {
    return formula_of(ring, Problem(std::move(mask), std::move(queries), std::move(keys)), options).reason;
  };
  const Layout shards = Layout::contiguous(96, 4);
  EXPECT_EQ(of_problem(Mask::documents({40, 56}, {.causal = true}), shards, shards),
            "closed forms are for one document with a full or a causal mask");
  EXPECT_EQ(of_problem(Mask::cross(96, 48), shards, Layout::contiguous(48, 4)), "closed forms are for self-attention");
  const Layout uneven = Layout::from_runs(96, {{{0, 1, 90}}, {{90, 1, 2}}, {{92, 1, 2}}, {{94, 1, 2}}});
  EXPECT_EQ(of_problem(Mask::of(96, {}), uneven, uneven),
            "no closed form on this layout; known: contiguous, zigzag, striped");
}

}  // namespace
}  // namespace weft
