// Bytes and messages of methods that send straight to where rows are needed, and of rings of rings: see volumes.h.
#include "tests/volumes.h"
#include "weft/layout/placement.h"

namespace weft::volumes {
namespace {

INSTANTIATE_TEST_SUITE_P(Shapes, Volumes, testing::ValuesIn(shapes()));

// ---- llama3

// All-gather's bytes in one message per group of kv heads; the last group may be smaller.
TEST_P(Volumes, Llama3GroupsOfHeads) {
  const Shape& s = GetParam();
  const int64_t above = s.P() * (s.P() - 1) / 2;
  const Problem problem = s.problem("contiguous", {.causal = true});
  for (int64_t stride : {1, 3, 24}) {
    const Options options = {{"stride", std::to_string(stride)}};
    const int64_t groups = (s.kv_heads + stride - 1) / stride;
    EXPECT_EQ(forward("llama3", problem, options), (Sent{above * kT * s.kv(), above * groups}));
    EXPECT_EQ(backward("llama3", problem, options), (Sent{above * kT * (s.kv() + s.dkv()), 2 * above * groups}));
  }
}

// ---- group-cast

// However many stages there are, each row goes once to each rank that needs it.
TEST_P(Volumes, GroupCastStages) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), rows = 3 * P * (P - 1) * kT / 4, pairs = P * (P - 1);
  const Problem problem = s.problem("zigzag", {.causal = true});
  for (const char* stages : {"1", "2", "3", "16"}) {
    const Options options = {{"stages", stages}};
    EXPECT_EQ(forward("group-cast", problem, options), (Sent{rows * s.kv(), pairs}));
    EXPECT_EQ(backward("group-cast", problem, options), (Sent{rows * (s.kv() + s.dkv()), 2 * pairs}));
  }
}

// The placement counts rows as the verifier counts bytes, and keeps within the imbalance.
TEST(GroupCast, SendsTheRowsThatThePlacementCounts) {
  const Shape s{4, 2, 2, DType::fp32, DType::fp32};
  const std::vector<int64_t> lengths = {300, 1, 2000, 37, 900, 5, 5, 1200, 64};
  for (const MaskRule& rule : {MaskRule{}, {.causal = true}, {.window = 50}, {.causal = true, .window = 300}}) {
    const Mask mask = Mask::documents(lengths, rule);
    for (int ranks : {3, 8}) {
      int64_t rows_by_work = 0;
      for (const char* placement : {"work", "traffic"}) {
        const Options options = {{"placement", placement}, {"imbalance", "10"}};
        Layout layout = layout_of("group-cast", Documents(lengths, rule), ranks, options);
        const PlacementCost cost = cost_of(mask, layout);
        const Problem problem = self_attention(mask, std::move(layout), s.heads, s.kv_heads, kD);
        EXPECT_EQ(forward("group-cast", problem, options).bytes, cost.rows * s.kv());
        int64_t busiest = 0;
        for (const RankReport& rank : proved("group-cast", problem, options).ranks) {
          busiest = std::max(busiest, rank.work);
        }
        EXPECT_EQ(busiest, cost.busiest * s.heads);
        EXPECT_LE(100 * ranks * cost.busiest, 110 * mask.area());
        if (rows_by_work == 0) rows_by_work = cost.rows;
      }
      EXPECT_LE(cost_of(mask, layout_of("group-cast", Documents(lengths, rule), ranks, {})).rows, rows_by_work);
    }
  }
}

// Dealt chunks: causal work is even to within one chunk's, documents or not.
TEST(GroupCast, DealsEvenWork) {
  for (const std::vector<int64_t>& lengths :
       {std::vector<int64_t>{4096}, {1, 4000, 37, 900}, {100, 200, 300, 2000, 5, 5, 5, 700, 1400}}) {
    for (int ranks : {2, 3, 8}) {
      const Options options = {{"placement", "work"}, {"chunk", "64"}};
      Layout layout = layout_of("group-cast", lengths, ranks, options);
      const Problem problem = self_attention(Mask::documents(lengths, {.causal = true}), std::move(layout), 2, 2, kD);
      const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
      int64_t most = 0, sum = 0;
      for (const RankReport& rank : proved("group-cast", problem, options).ranks) {
        most = std::max(most, rank.work);
        sum += rank.work;
      }
      EXPECT_LE(most - sum / ranks, 2 * 64 * longest) << ranks;
    }
  }
}

// ---- lightseq

// Causal block (i, j) of distance d = i - j, P - d blocks each. d <= P/2: (k, v) of j go to i. Farther: q of i goes to j
// and (out, lse) comes back. In backward (dk, dv) come back for the near ones, and for the far ones the bundle
// (q, dout, lse, delta) goes and dq comes back.
TEST_P(Volumes, LightSeqCausal) {
  const Shape& s = GetParam();
  const int64_t P = s.P();
  int64_t near = 0, far = 0;
  for (int64_t d = 1; d < P; ++d) (2 * d <= P ? near : far) += P - d;
  const Problem problem = s.problem("contiguous", {.causal = true});
  const int64_t bundle = 2 * s.q() + 2 * s.stat();
  EXPECT_EQ(forward("lightseq", problem).bytes, kT * (near * s.kv() + far * (s.q() + s.partial())));
  EXPECT_EQ(backward("lightseq", problem).bytes, kT * (near * (s.kv() + s.dkv()) + far * (bundle + s.dq())));
  EXPECT_LE(forward("lightseq", problem).messages, near + 2 * far);
}

// The volume that the paper's schedule has for an even number of ranks: P (3P/8 - 1/4) blocks of (k, v), P (P/8 - 1/4)
// of queries and of results.
TEST(QuotedVolumes, LightSeq) {
  const Shape s{8, 8, 8, DType::fp32, DType::fp32};
  const Problem problem = s.problem("contiguous", {.causal = true});
  EXPECT_EQ(forward("lightseq", problem).bytes, kT * (22 * s.kv() + 6 * (s.q() + s.partial())));
}

// An odd number of ranks is perfectly balanced: the diagonal and (P-1)/2 blocks each.
TEST(LightSeq, OddRanksShareCausalWorkEvenly) {
  for (int ranks : {3, 5, 7, 9}) {
    const Shape s{ranks, 4, 2, DType::fp32, DType::fp32};
    for (const RankReport& rank : proved("lightseq", s.problem("contiguous", {.causal = true})).ranks) {
      EXPECT_EQ(rank.work, 4 * (kT * (kT + 1) / 2 + (ranks - 1) / 2 * kT * kT));
    }
  }
}

// ---- mesh

// Tiles of a x b blocks: every rank sends its queries to the a-1 others of its row and gets as many results, its keys to
// the b-1 others of its column; in backward the bundle, sums of dq, keys, and sums of (dk, dv).
TEST_P(Volumes, MeshFullMask) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), bundle = 2 * s.q() + 2 * s.stat();
  for (int64_t a = 1; a <= P; ++a) {
    if (P % a != 0) continue;
    const int64_t b = P / a;
    const Options options = {{"width", std::to_string(a)}};
    const Problem problem = s.problem("zigzag", {});
    EXPECT_EQ(forward("mesh", problem, options).bytes, P * kT * ((a - 1) * (s.q() + s.partial()) + (b - 1) * s.kv()));
    EXPECT_EQ(backward("mesh", problem, options).bytes,
              P * kT * ((a - 1) * (bundle + s.dq()) + (b - 1) * (s.kv() + s.dkv())));
    expect_equal_ranks("mesh", problem, options);
  }
}

// ---- burst

// Flat: keys make P-1 hops forward. Backward with queries: the bundle makes P-1 hops, its sums P-1 (they start one place
// after the owner, and the last hop is home). With keys: the same of (k, v) and (dk, dv).
TEST_P(Volumes, BurstFullMask) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), rows = P * (P - 1) * kT, bundle = 2 * s.q() + 2 * s.stat();
  const Problem problem = s.problem("zigzag", {});
  const Options queries = {{"backward", "queries"}}, keys = {{"backward", "keys"}};
  EXPECT_EQ(forward("burst", problem), (Sent{rows * s.kv(), P * (P - 1)}));
  EXPECT_EQ(backward("burst", problem, queries), (Sent{rows * (bundle + s.dq()), 2 * P * (P - 1)}));
  EXPECT_EQ(backward("burst", problem, keys), (Sent{rows * (s.kv() + s.dkv()), 2 * P * (P - 1)}));
  const bool fewer = bundle + s.dq() < s.kv() + s.dkv();
  EXPECT_EQ(backward("burst", problem), backward("burst", problem, fewer ? queries : keys));
}

// M nodes of L ranks: every cycle has L-1 hops inside, M-1 hops go between nodes. Sums make L-1 hops in the first cycle,
// the last of them home; in each later one L-1 inside and one home.
TEST_P(Volumes, BurstRingOfRings) {
  const Shape& s = GetParam();
  const int64_t P = s.P();
  for (int64_t M = 1; M <= P; ++M) {
    if (P % M != 0) continue;
    const int64_t L = P / M, hops = M * (L - 1) + (M - 1), sums = (L - 1) + (M - 1) * L;
    const Options options = {{"nodes", std::to_string(M)}, {"backward", "keys"}};
    const Problem problem = s.problem("zigzag", {});
    EXPECT_EQ(forward("burst", problem, options), (Sent{P * hops * kT * s.kv(), P * hops}));
    EXPECT_EQ(backward("burst", problem, options).bytes, P * kT * (hops * s.kv() + sums * s.dkv()));
  }
}

// ---- rsa

// A ring of keys, then one of values, P-1 hops each; in backward one of values with dv behind it and one of keys with dk,
// as many hops each. A causal mask over contiguous shards halves everything.
TEST_P(Volumes, Rsa) {
  const Shape& s = GetParam();
  const int64_t P = s.P();
  for (bool causal : {false, true}) {
    const int64_t blocks = P * (P - 1) / (causal ? 2 : 1), rows = blocks * kT;
    const Problem problem = s.problem("contiguous", {.causal = causal});
    EXPECT_EQ(forward("rsa", problem), (Sent{rows * s.kv(), 2 * blocks}));
    EXPECT_EQ(backward("rsa", problem), (Sent{rows * (s.kv() + s.dkv()), 4 * blocks}));
  }
  expect_equal_ranks("rsa", s.problem("contiguous", {}));
}

// A window of W tokens: W-1 rows over each border, as with any ring.
TEST_P(Volumes, RsaSlidingWindow) {
  const Shape& s = GetParam();
  for (int64_t window : {int64_t{2}, kT / 2, kT}) {
    const int64_t rows = (s.P() - 1) * (window - 1);
    const Problem problem = s.problem("contiguous", {.causal = true, .window = window});
    EXPECT_EQ(forward("rsa", problem), (Sent{rows * s.kv(), 2 * (s.P() - 1)}));
    EXPECT_EQ(backward("rsa", problem), (Sent{rows * (s.kv() + s.dkv()), 4 * (s.P() - 1)}));
  }
}

// Own queries x keys that they may see x heads in fp32. Probabilities are kept from forward to backward.
TEST_P(Volumes, RsaKeepsProbabilities) {
  const Shape& s = GetParam();
  for (bool causal : {false, true}) {
    Problem problem = s.problem("contiguous", {.causal = causal});
    problem.backward = true;
    const Report report = proved("rsa", problem);
    for (int64_t r = 0; r < s.P(); ++r) {
      const int64_t keys = (causal ? r + 1 : s.P()) * kT;
      EXPECT_EQ(report.ranks[static_cast<size_t>(r)].saved_bytes, kT * keys * s.heads * 4);
    }
  }
}

// The peak is softmax: scores and probabilities, sums of out, lse, own values and those that arrive. In backward:
// probabilities, their gradient and that of the scores, dout, own values and those of the last step, dv, and the dv that
// is on its way home and the one that arrives, packed where the wire is narrower.
TEST_P(Volumes, RsaLiveBytes) {
  const Shape& s = GetParam();
  Problem problem = s.problem("contiguous", {});
  const int64_t scores = kT * s.tokens() * s.heads * 4, row_of_v = s.kv() / 2, row_of_dv = s.kv_heads * kD * 4;
  const int64_t forward = 2 * scores + kT * (s.heads * kD * 4 + s.stat() + 2 * row_of_v);
  const int64_t packed = s.w() < 4 ? s.dkv() / 2 : 0;
  const int64_t backward = 3 * scores + kT * (s.q() + 2 * row_of_v + 3 * row_of_dv + packed);
  for (const RankReport& rank : proved("rsa", problem).ranks) EXPECT_EQ(rank.live_bytes, forward);
  problem.backward = true;
  for (const RankReport& rank : proved("rsa", problem).ranks) EXPECT_EQ(rank.live_bytes, backward);
}

TEST(Rsa, RefusesMoreScoresThanCanBeCounted) {
  Problem problem = self_attention(Mask::of(1 << 24, {}), make_layout("contiguous", {1 << 24}, 2), 64, 1, 1);
  try {
    make_schedule("rsa", problem);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_NE(std::string(error.what()).find("use ring, which keeps none"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace weft::volumes
