// Bytes and messages of methods that pass blocks on or gather them, against formulas: see volumes.h.
#include "tests/volumes.h"

namespace weft::volumes {
namespace {

INSTANTIATE_TEST_SUITE_P(Shapes, Volumes, testing::ValuesIn(shapes()));

// ---- ring

// Forward: each block makes P-1 hops, 2 g (P-1) n per rank. Backward starts from the block held
// last and ends with the own one, which never left: P-2 hops of (k, v), P-1 of (dk, dv), nothing
// exposed at the end.
TEST_P(Volumes, RingFullMask) {
  const Shape& s = GetParam();
  const int64_t P = s.P();
  for (std::string_view method : {"ring", "zigzag", "striped"}) {
    for (const char* direction : {"forward", "reverse"}) {
      const Options options = {{"direction", direction}};
      const Problem problem = s.problem(layout_of(method, {s.tokens()}, s.ranks), {});
      EXPECT_EQ(forward(method, problem, options), (Sent{P * (P - 1) * kT * s.kv(), P * (P - 1)}));
      EXPECT_EQ(backward(method, problem, options),
                (Sent{P * (P - 2) * kT * s.kv() + P * (P - 1) * kT * s.dkv(), P * (P - 2) + P * (P - 1)}));
      expect_equal_ranks(method, problem, options);
    }
  }
}

// Block j is needed by ranks above j only: P-1-j hops, P (P-1) / 2 in all, so g (P-1) n per rank,
// half of a full mask. Backward: block 0 starts on rank P-1, where forward left it, and needs P-2
// hops down to rank 1. Blocks 1..P-2 go from their owner to rank P-1 directly and then down to rank
// j+1: P-1-j hops. (P-2) + (P-1)(P-2)/2 = (P-2)(P+1)/2 in all. (dk, dv) of block j come down from
// rank P-1 to j: P-1-j hops.
TEST_P(Volumes, RingContiguousCausal) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), up = P * (P - 1) / 2, down = (P - 2) * (P + 1) / 2;
  const Problem problem = s.problem("contiguous", {.causal = true});
  EXPECT_EQ(forward("ring", problem), (Sent{up * kT * s.kv(), up}));
  EXPECT_EQ(backward("ring", problem), (Sent{down * kT * s.kv() + up * kT * s.dkv(), down + up}));
}

// Ranks below j need all of block j, ranks above only its low half. Direction -1 visits j-1..0
// first, then P-1..j+1: j whole hops and P-1-j halves, (P-1+j) T/2 rows; 3 P (P-1) T/4 in all, so
// 1.5 g (P-1) n per rank. Backward goes j+1..P-1, 0..j-1, j. (k, v) of block j: P-2-j halves up to
// rank P-1; half a hop to rank 0, where the owner's high half joins (one message more); j-1 whole
// hops. For 0 < j < P-1 that is (P+j) T/2 rows, for j = 0, whose way ends at P-1, (P-2) T/2, for j
// = P-1, which rank 0 holds, (P-2) T. In all (P-2)(3P+1) T/4. (dk, dv) make P-1-j half hops out of
// j+1..P-1 and j whole ones: as in forward.
TEST_P(Volumes, ZigzagHalfDropAndRejoining) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), out = 3 * P * (P - 1) * kT / 4, back = (P - 2) * (3 * P + 1) * kT / 4;
  const Problem problem = s.problem("zigzag", {.causal = true});
  EXPECT_EQ(forward("zigzag", problem), (Sent{out * s.kv(), P * (P - 1)}));
  EXPECT_EQ(backward("zigzag", problem), (Sent{back * s.kv() + out * s.dkv(), P * (P - 2) + (P - 2) + P * (P - 1)}));
}

// Direction +1 visits ranks above j first, so a block stays whole as long as ranks below j are
// ahead: P-1 whole hops for j > 0, P-1 halves for j = 0, (P-1)(2P-1) T/2 rows in all. Backward the
// same way back, with P-2 hops of (k, v).
TEST_P(Volumes, ZigzagTheOtherWay) {
  const Shape& s = GetParam();
  const int64_t P = s.P();
  const Options options = {{"direction", "forward"}};
  const Problem problem = s.problem("zigzag", {.causal = true});
  const auto rows = [&](int64_t hops) { return hops * (2 * P - 1) * kT / 2; };
  EXPECT_EQ(forward("zigzag", problem, options), (Sent{rows(P - 1) * s.kv(), P * (P - 1)}));
  EXPECT_EQ(backward("zigzag", problem, options),
            (Sent{rows(P - 2) * s.kv() + rows(P - 1) * s.dkv(), P * (P - 2) + P * (P - 1)}));
}

// The volumes that the literature on this schedule quotes, in g n per rank.
TEST(QuotedVolumes, ZigzagInUnitsOfGN) {
  struct Quote {
    int ranks;
    double forward, kv_back, dkv;
  };
  for (const Quote& quote : {Quote{4, 4.5, 3.25, 4.5}, Quote{8, 10.5, 9.375, 10.5}}) {
    const Shape s{quote.ranks, 8, 2, DType::bf16, DType::fp32};
    const Problem problem = s.problem("zigzag", {.causal = true});
    const double gn = static_cast<double>(s.kv_heads * kT * kD), P = quote.ranks;
    EXPECT_EQ(static_cast<double>(forward("zigzag", problem).bytes), P * quote.forward * gn * 2);
    EXPECT_EQ(static_cast<double>(backward("zigzag", problem).bytes), P * gn * (quote.kv_back * 2 + quote.dkv * 4));
  }
}

// Token i P + r lives on rank r: ranks above j see all of block j, ranks below not its last row.
// Direction +1: P-1-j hops of T rows, then j of T-1: P (P-1) T - P (P-1)/2 rows in all. Backward
// goes j-1..0, P-1..j. Block j > 0 has T-1 rows until it reaches rank P-1, where the owner sends
// the last row (a message more for 0 < j < P-1): (P-2) T - (j-1) rows, for j = 0 (P-2) T. (dk, dv)
// as in forward.
TEST_P(Volumes, StripedCausal) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), out = P * (P - 1) * kT - P * (P - 1) / 2, back = P * (P - 2) * kT - (P - 1) * (P - 2) / 2;
  const Problem problem = s.problem("striped", {.causal = true});
  EXPECT_EQ(forward("striped", problem), (Sent{out * s.kv(), P * (P - 1)}));
  EXPECT_EQ(backward("striped", problem), (Sent{back * s.kv() + out * s.dkv(), P * (P - 2) + (P - 2) + P * (P - 1)}));
}

// Blocks of B tokens: ranks below j do not need the last B rows of block j, where one alone does not see its last row.
TEST_P(Volumes, BlockStripedCausal) {
  const Shape& s = GetParam();
  const int64_t P = s.P();
  for (int64_t B : {1, 2, 4, 12}) {
    const int64_t out = P * (P - 1) * kT - B * P * (P - 1) / 2, back = P * (P - 2) * kT - B * (P - 1) * (P - 2) / 2;
    const Options options = {{"block", std::to_string(B)}};
    const Problem problem = s.problem(layout_of("striped", {s.tokens()}, s.ranks, options), {.causal = true});
    EXPECT_EQ(forward("striped", problem, options), (Sent{out * s.kv(), B < kT ? P * (P - 1) : P * (P - 1) / 2}));
    EXPECT_EQ(backward("striped", problem, options).bytes, back * s.kv() + out * s.dkv());
    // Row j of block i of a rank sees all blocks before: r B rows more than those of rank 0.
    const int64_t blocks = kT / B, before = B * B * P * blocks * (blocks - 1) / 2, inside = kT * (B + 1) / 2;
    const std::vector<RankReport> ranks = proved("striped", problem, options).ranks;
    for (int64_t r = 0; r < P; ++r) {
      EXPECT_EQ(ranks[static_cast<size_t>(r)].work, (before + r * kT * B + inside) * s.heads);
    }
  }
}

// A window of W <= T tokens needs the last W-1 rows of the rank before: P-1 borders, one message
// each. Backward sends them again, unless forward left them there (P = 2: the block held last), and
// brings their gradients home.
TEST_P(Volumes, WindowMovesOnlyItsHalo) {
  const Shape& s = GetParam();
  const int64_t P = s.P();
  for (int64_t window : {int64_t{1}, int64_t{2}, int64_t{7}, kT}) {
    const Problem problem = s.problem("contiguous", {.causal = true, .window = window});
    const int64_t rows = (P - 1) * (window - 1), messages = window > 1 ? P - 1 : 0;
    EXPECT_EQ(forward("ring", problem), (Sent{rows * s.kv(), messages}));
    const int64_t again = P > 2 ? 1 : 0;
    EXPECT_EQ(backward("ring", problem), (Sent{rows * (again * s.kv() + s.dkv()), messages * (again + 1)}));
    EXPECT_EQ(forward("all-gather", problem), (Sent{rows * s.kv(), messages}));
    EXPECT_EQ(backward("all-gather", problem), (Sent{rows * (s.kv() + s.dkv()), messages * 2}));
  }
}

// ---- all-gather

// Each rank sends its rows to the P-1 others, 2 g (P-1) n, and again in backward; their gradients
// come straight back.
TEST_P(Volumes, AllGatherFullMask) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), rows = P * (P - 1) * kT;
  for (std::string_view layout : {"contiguous", "zigzag", "striped"}) {
    const Problem problem = s.problem(layout, {});
    EXPECT_EQ(forward("all-gather", problem), (Sent{rows * s.kv(), P * (P - 1)}));
    EXPECT_EQ(backward("all-gather", problem), (Sent{rows * (s.kv() + s.dkv()), 2 * P * (P - 1)}));
    expect_equal_ranks("all-gather", problem);
  }
}

// LSS: k and v of a rank are one message, once; forward's rows stay alive until backward, which sends gradients only.
TEST_P(Volumes, LssFullAndCausal) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), pairs = P * (P - 1);
  Problem full = s.problem("contiguous", {}), causal = s.problem("contiguous", {.causal = true});
  EXPECT_EQ(forward("lss", full), (Sent{pairs * kT * s.kv(), pairs}));
  EXPECT_EQ(backward("lss", full), (Sent{pairs * kT * s.dkv(), pairs}));
  EXPECT_EQ(forward("lss", causal), (Sent{pairs / 2 * kT * s.kv(), pairs / 2}));
  EXPECT_EQ(backward("lss", causal), (Sent{pairs / 2 * kT * s.dkv(), pairs / 2}));
  full.backward = causal.backward = true;
  for (const RankReport& rank : proved("lss", full).ranks) EXPECT_EQ(rank.saved_bytes, (P - 1) * kT * s.kv());
  const std::vector<RankReport> ranks = proved("lss", causal).ranks;
  for (int64_t r = 0; r < P; ++r) EXPECT_EQ(ranks[static_cast<size_t>(r)].saved_bytes, r * kT * s.kv());
}

// Rank j sends all its rows to the j ranks below, the low half to the P-1-j above: 3 P (P-1) T/4
// rows in all, each way. Contiguous: all rows to the P-1-j ranks above, nothing below.
TEST_P(Volumes, AllGatherCausal) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), rows = 3 * P * (P - 1) * kT / 4, above = P * (P - 1) / 2;
  const Problem zigzag = s.problem("zigzag", {.causal = true});
  EXPECT_EQ(forward("all-gather", zigzag), (Sent{rows * s.kv(), P * (P - 1)}));
  EXPECT_EQ(backward("all-gather", zigzag), (Sent{rows * (s.kv() + s.dkv()), 2 * P * (P - 1)}));
  const Problem contiguous = s.problem("contiguous", {.causal = true});
  EXPECT_EQ(forward("all-gather", contiguous), (Sent{above * kT * s.kv(), above}));
  EXPECT_EQ(backward("all-gather", contiguous), (Sent{above * kT * (s.kv() + s.dkv()), 2 * above}));
}

// ---- token-ring

// Queries make P-1 hops one way, partials go home the other way: P-1 messages each. Backward the
// same with the bundle (q, dout, lse, delta) and sums of dq. Causal zigzag: whole rows to the j
// ranks below, the high half to the P-1-j above: 0.75 (P-1) n per rank instead of (P-1) n. The
// number of kv heads does not matter.
TEST_P(Volumes, TokenRing) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), bundle = 2 * s.q() + 2 * s.stat();
  const auto check = [&](const Problem& problem, int64_t rows) {
    EXPECT_EQ(forward("token-ring", problem), (Sent{rows * (s.q() + s.partial()), 2 * P * (P - 1)}));
    EXPECT_EQ(backward("token-ring", problem), (Sent{rows * (bundle + s.dq()), 2 * P * (P - 1)}));
  };
  check(s.problem("zigzag", {}), P * (P - 1) * kT);
  check(s.problem("contiguous", {}), P * (P - 1) * kT);
  expect_equal_ranks("token-ring", s.problem("zigzag", {}));
  check(s.problem("zigzag", {.causal = true}), 3 * P * (P - 1) * kT / 4);
}

// ---- work

// Methods published with a layout in which ranks have as many causal pairs to within nothing at all.
bool balances(std::string_view method) {
  return method != "ring" && method != "striped" && method != "llama3" && method != "lightseq" &&
         method != "group-cast" && method != "lss" && method != "rsa";
}

// S (S+1) / 2 pairs, shared equally: rank r owns chunks r and 2P-1-r, whose rows see, and are seen
// by, as many tokens.
TEST_P(Volumes, CausalZigzagWorkIsEqual) {
  const Shape& s = GetParam();
  const int64_t pairs = s.tokens() * (s.tokens() + 1) / 2;
  for (const Method* method : all_methods()) {
    if (!balances(method->name)) continue;
    Problem problem = s.problem(layout_of(method->name, {s.tokens()}, s.ranks), {.causal = true});
    problem.backward = true;
    for (const RankReport& rank : proved(method->name, problem).ranks) {
      EXPECT_EQ(rank.work * s.P(), pairs * s.heads) << method->name;
      EXPECT_EQ(rank.work_backward * s.P(), pairs * s.heads) << method->name;
    }
  }
}

// Contiguous: rank r has T rows that see r T tokens before the shard, and T (T+1) / 2 pairs inside.
// Striped: rank r has one token more per row than rank r-1, balanced to within T.
TEST_P(Volumes, CausalWorkOfOtherLayouts) {
  const Shape& s = GetParam();
  const auto ring = proved("ring", s.problem("contiguous", {.causal = true})).ranks;
  const auto striped = proved("striped", s.problem("striped", {.causal = true})).ranks;
  for (int64_t r = 0; r < s.P(); ++r) {
    EXPECT_EQ(ring[static_cast<size_t>(r)].work, (r * kT * kT + kT * (kT + 1) / 2) * s.heads);
    EXPECT_EQ(striped[static_cast<size_t>(r)].work, (s.P() * kT * (kT - 1) / 2 + kT * (r + 1)) * s.heads);
  }
}

// ---- no traffic

TEST_P(Volumes, DocumentsThatLieOnOneRankMoveNothing) {
  const Shape& s = GetParam();
  for (const std::vector<int64_t>& shard : {std::vector<int64_t>{kT}, {5, 7}, {1, 1, 10}}) {
    std::vector<int64_t> lengths;
    for (int rank = 0; rank < s.ranks; ++rank) lengths.insert(lengths.end(), shard.begin(), shard.end());
    for (bool causal : {false, true}) {
      Problem problem = s.problem("contiguous", {});
      problem =
          self_attention(Mask::documents(lengths, {.causal = causal}), problem.query_layout, s.heads, s.kv_heads, kD);
      problem.backward = true;
      for (std::string_view method :
           {"ring", "zigzag", "striped", "all-gather", "lss", "token-ring", "tree", "mercury-team", "tasp"}) {
        EXPECT_EQ(total(proved(method, problem)), Sent{}) << method;
      }
      EXPECT_EQ(total(proved("usp", problem, {{"ulysses", "1"}})), Sent{});
    }
  }
}

TEST(NoTraffic, OneRankMovesNothing) {
  for (const Method* method : all_methods()) {
    Problem problem = self_attention(Mask::of(48, {.causal = true}), Layout::contiguous(48, 1), 6, 2, kD);
    problem.backward = true;
    EXPECT_EQ(total(proved(method->name, problem)), Sent{}) << method->name;
  }
}

}  // namespace
}  // namespace weft::volumes
