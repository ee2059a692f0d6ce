// Bytes and messages of methods whose partial results meet on several ranks, trees and teams: see volumes.h.
#include "tests/volumes.h"

namespace weft::volumes {
namespace {

INSTANTIATE_TEST_SUITE_P(Shapes, Volumes, testing::ValuesIn(shapes()));

// ---- tree

Options fan_in(int64_t fan_in) { return {{"fan-in", std::to_string(fan_in)}}; }

// Every owner's rows go to the P-1 others, once each, and as many sums come back; nothing depends on the kv heads. In a
// round of span F^s a rank sends to the ranks j F^s after it, j < F: one message for all trees, and one back.
TEST_P(Volumes, TreeFullMask) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), rows = P * (P - 1) * kT, bundle = 2 * s.q() + 2 * s.stat();
  for (int64_t F : {2, 3, 4, 8}) {
    int64_t messages = 0;
    for (int64_t span = 1; span < P; span *= F) {
      for (int64_t j = 1; j < F; ++j) messages += j * span < P ? 2 * P : 0;
    }
    for (std::string_view layout : {"contiguous", "zigzag", "striped"}) {
      const Problem problem = s.problem(layout, {});
      EXPECT_EQ(forward("tree", problem, fan_in(F)), (Sent{rows * (s.q() + s.partial()), messages}));
      EXPECT_EQ(backward("tree", problem, fan_in(F)), (Sent{rows * (bundle + s.dq()), messages}));
      expect_equal_ranks("tree", problem, fan_in(F));
    }
  }
}

// Zigzag: ranks before the owner need all its rows, those after it the high half. A member m of the tree of owner i, rank
// i + m cyclically, also stands for those up to m + F^s, so it gets all when one of them has wrapped.
TEST_P(Volumes, TreeCausal) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), bundle = 2 * s.q() + 2 * s.stat();
  const Problem problem = s.problem("zigzag", {.causal = true});
  for (int64_t F : {2, 3, 8}) {
    int64_t rows = 0;
    for (int64_t i = 0; i < P; ++i) {
      for (int64_t m = 1; m < P; ++m) {
        int64_t span = 1;
        while (m % (span * F) == 0) span *= F;
        rows += i + std::min(m + span, P) - 1 >= P ? kT : kT / 2;
      }
    }
    if (F >= P) {
      EXPECT_EQ(rows, 3 * P * (P - 1) * kT / 4);
    }
    EXPECT_EQ(forward("tree", problem, fan_in(F)).bytes, rows * (s.q() + s.partial()));
    EXPECT_EQ(backward("tree", problem, fan_in(F)).bytes, rows * (bundle + s.dq()));
  }
}

// One query against any number of keys: what travels depends on the ranks that have keys, and not on the keys.
TEST(Tree, OneQueryAgainstManyKeys) {
  for (int ranks : {2, 5, 8, 64}) {
    for (int64_t keys : {3, 64, 4096}) {
      Problem problem(Mask::cross_documents({1}, {keys}), Layout::contiguous(1, ranks),
                      Layout::contiguous(keys, ranks));
      problem.heads = 6, problem.kv_heads = 2, problem.dim = problem.dim_v = kD;
      int64_t with_keys = 0;
      for (int r = 0; r < ranks; ++r) with_keys += problem.key_layout.tokens_of(r) > 0 ? 1 : 0;
      // Contiguous gives the last rank the only query, and keys too.
      const int64_t others = with_keys - 1, row = 6 * kD * 4, stat = 6 * 4;
      EXPECT_EQ(forward("tree", problem), (Sent{others * (row + row + stat), 2 * others}));
      EXPECT_EQ(backward("tree", problem), (Sent{others * (2 * row + 2 * stat + row), 2 * others}));
    }
  }
}

// ceil(log_F n) rounds each way, and a step before the first to work on the own rows.
TEST(Tree, RoundsAreLogarithmic) {
  struct Case {
    int ranks;
    int64_t fan_in, rounds;
  };
  for (const Case& c : {Case{64, 2, 6}, {64, 4, 3}, {65, 4, 4}, {17, 2, 5}, {9, 3, 2}, {7, 7, 1}, {7, 65536, 1}}) {
    const Shape s{c.ranks, 2, 2, DType::fp32, DType::fp32};
    const StoredSchedule stored = make_schedule("tree", s.problem("zigzag", {}), fan_in(c.fan_in)).store();
    for (const StoredProgram& program : stored.programs) {
      EXPECT_EQ(program.instructions.back().step, 2 * c.rounds + 1) << c.ranks << ", " << c.fan_in;
    }
  }
}

// ---- mercury-team

Options teams_of(int64_t size, const char* placement) {
  return {{"team", std::to_string(size)}, {"placement", placement}};
}

// n teams of m: every rank sends its queries to the m-1 others of its team and gets as many results, and its keys make n-1
// hops. Backward: the bundle, sums of dq, n-2 hops of keys and n-1 of their gradients, as in ring.
TEST_P(Volumes, MercuryTeamFullMask) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), bundle = 2 * s.q() + 2 * s.stat();
  const Problem problem = s.problem("zigzag", {});
  for (int64_t m = 1; m <= P; ++m) {
    if (P % m != 0) continue;
    const int64_t n = P / m, again = std::max<int64_t>(n - 2, 0);
    for (const char* placement : {"inner", "outer"}) {
      const Options options = teams_of(m, placement);
      EXPECT_EQ(forward("mercury-team", problem, options),
                (Sent{P * kT * ((m - 1) * (s.q() + s.partial()) + (n - 1) * s.kv()), P * (2 * (m - 1) + n - 1)}));
      EXPECT_EQ(backward("mercury-team", problem, options),
                (Sent{P * kT * ((m - 1) * (bundle + s.dq()) + again * s.kv() + (n - 1) * s.dkv()),
                      P * (2 * (m - 1) + again + n - 1)}));
      expect_equal_ranks("mercury-team", problem, options);
    }
  }
}

// Adjacent members, zigzag: keys as in a zigzag ring of n, once for each of the m rings. Every row of queries is needed by
// all of its team, but for the low half of team 0's: members after the owner have later keys only.
TEST_P(Volumes, MercuryTeamCausal) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), bundle = 2 * s.q() + 2 * s.stat();
  const Problem problem = s.problem("zigzag", {.causal = true});
  for (int64_t m = 1; m <= P; ++m) {
    if (P % m != 0) continue;
    const int64_t n = P / m, queries = P * (m - 1) * kT - m * (m - 1) * kT / 4, out = m * 3 * n * (n - 1) * kT / 4,
                  back = n > 1 ? m * (n - 2) * (3 * n + 1) * kT / 4 : 0;
    const Options options = teams_of(m, "inner");
    EXPECT_EQ(forward("mercury-team", problem, options).bytes, queries * (s.q() + s.partial()) + out * s.kv());
    EXPECT_EQ(backward("mercury-team", problem, options).bytes,
              queries * (bundle + s.dq()) + back * s.kv() + out * s.dkv());
  }
}

// Teams of one are the zigzag ring; auto is the size that sends least.
TEST_P(Volumes, MercuryTeamOfOneAndAuto) {
  const Shape& s = GetParam();
  const Problem problem = s.problem("zigzag", {.causal = true});
  const Options one = {{"team", "1"}};
  EXPECT_EQ(forward("mercury-team", problem, one), forward("zigzag", problem));
  EXPECT_EQ(backward("mercury-team", problem, one), backward("zigzag", problem));
  const Problem full = s.problem("zigzag", {});
  const auto bytes = [&](const Options& options) {
    return (forward("mercury-team", full, options) + backward("mercury-team", full, options)).bytes;
  };
  int64_t least = bytes(one);
  for (int64_t m = 2; m <= s.P(); ++m) {
    if (s.P() % m == 0) least = std::min(least, bytes({{"team", std::to_string(m)}}));
  }
  EXPECT_EQ(bytes({}), least);
}

}  // namespace
}  // namespace weft::volumes
