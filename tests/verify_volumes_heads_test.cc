// Bytes and messages of methods that trade heads, against formulas: see volumes.h.
#include "tests/volumes.h"

namespace weft::volumes {
namespace {

INSTANTIATE_TEST_SUITE_P(Shapes, Volumes, testing::ValuesIn(shapes()));

// The options that all of these methods share, and whether lse is a result.
struct Trade {
  bool whole = false;  // kv heads
  bool each = false;   // tensors have messages of their own
  bool return_lse = false;

  Options options() const { return {{"kv", whole ? "whole" : "replicate"}, {"exchange", each ? "each" : "together"}}; }
};
const std::vector<Trade> kTrades = {
    {}, {.return_lse = true}, {.whole = true}, {.each = true}, {.whole = true, .each = true, .return_lse = true}};

Options operator+(Options a, const Options& b) {
  a.insert(b.begin(), b.end());
  return a;
}

// The all-to-alls of u members with T tokens each. Where u > Hkv, kv=replicate sends each kv head to several members, hk
// = max(Hkv, u) in all; kv=whole sends it to one, so that min(Hkv, u) members work. What all members send:
//   forward   there: (u-1) T (H D + 2 hk D) e
//             back:  (u-1) T H D e, with lse + (u-1) T H 4
//   backward  there: (u-1) T (H D e + H 4)
//             home:  (u-1) T (H D e + 2 hk D x), x = w when kv heads are repeated and have to be
//             added, else e, since complete rows are finished first
// One message for each trade and pair of a member with heads and another one; exchange=each: one for each of q, k, v; out,
// lse; dout, delta; dq, dk, dv, but dk and dv stay together as long as they are sums.
struct HeadTraffic {
  Sent forward, backward;
  int64_t kv_heads;  // hk
  int64_t working;   // members with heads
};
HeadTraffic all_to_all(const Shape& s, int64_t u, Trade trade) {
  HeadTraffic all;
  all.kv_heads = trade.whole ? s.kv_heads : std::max(s.kv_heads, u);
  all.working = trade.whole ? std::min(s.kv_heads, u) : u;
  const bool repeated = all.kv_heads > s.kv_heads;
  const int64_t kv = Shape::kv_of(all.kv_heads), lse = trade.return_lse ? 1 : 0;
  const int64_t rows = (u - 1) * kT, pairs = all.working * (u - 1);
  all.forward = {rows * (s.q() + kv * s.e()) + rows * (s.q() + lse * s.stat()),
                 pairs * (trade.each ? 3 + 1 + lse : 1 + 1)};
  all.backward = {rows * (s.q() + s.stat()) + rows * (s.q() + kv * (repeated ? s.w() : s.e())),
                  pairs * (trade.each ? 2 + (repeated ? 2 : 3) : 1 + 1)};
  return all;
}

TEST_P(Volumes, Ulysses) {
  const Shape& s = GetParam();
  for (const Trade& trade : kTrades) {
    for (MaskRule rule : {MaskRule{}, MaskRule{.causal = true}, MaskRule{.causal = true, .window = 5}}) {
      Problem problem = s.problem("contiguous", rule);
      problem.return_lse = trade.return_lse;
      const HeadTraffic expected = all_to_all(s, s.P(), trade);
      EXPECT_EQ(forward("ulysses", problem, trade.options()), expected.forward);
      EXPECT_EQ(backward("ulysses", problem, trade.options()), expected.backward);
      if (expected.working == s.P()) expect_equal_ranks("ulysses", problem, trade.options());
    }
  }
}

// Both phases of the rings between places: rows of kv in forward, rows of kv and of its sums in backward, and messages, of
// one ring.
struct RingTraffic {
  int64_t forward_rows, forward_messages;
  int64_t kv_rows, sums_rows, backward_messages;
};

// Places of u members, rings of r = P/u places. A place has u T tokens and a ring hk/u heads of them, so a hop of a whole
// block moves T rows of hk kv heads.
void expect_volumes(const Shape& s, std::string_view method, const Options& options, const Trade& trade, int64_t u,
                    MaskRule rule, const RingTraffic& ring) {
  const Options all = options + trade.options();
  Problem problem = s.problem(layout_of(method, {s.tokens()}, s.ranks, all), rule);
  problem.return_lse = trade.return_lse;
  const HeadTraffic heads = all_to_all(s, u, trade);
  const int64_t places = s.P() / u, kv = u * kT * Shape::kv_of(heads.kv_heads) * s.e(),
                dkv = u * kT * Shape::kv_of(heads.kv_heads) * s.w();
  const auto blocks = [](int64_t rows, int64_t block) { return rows * block / kT; };
  EXPECT_EQ(
      forward(method, problem, all),
      times(heads.forward, places) + (Sent{blocks(ring.forward_rows, kv), ring.forward_messages * heads.working}));
  EXPECT_EQ(backward(method, problem, all),
            times(heads.backward, places) +
                (Sent{blocks(ring.kv_rows, kv) + blocks(ring.sums_rows, dkv), ring.backward_messages * heads.working}));
}

// The ring's formulas with r for P.
RingTraffic flat_ring(int64_t r, bool causal) {
  const int64_t hops = r * (r - 1), back = r > 1 ? r * (r - 2) : 0;
  if (!causal) return {hops * kT, hops, back * kT, hops * kT, back + hops};
  const int64_t out = 3 * r * (r - 1) * kT / 4;
  return {out, hops, r > 1 ? (r - 2) * (3 * r + 1) * kT / 4 : 0, out, back + (r > 1 ? r - 2 : 0) + hops};
}

TEST_P(Volumes, Usp) {
  const Shape& s = GetParam();
  for (int64_t u = 1; u <= s.P(); ++u) {
    if (s.P() % u != 0) continue;
    for (const char* placement : {"inner", "outer"}) {
      for (const Trade& trade : kTrades) {
        for (bool causal : {false, true}) {
          expect_volumes(s, "usp", {{"ulysses", std::to_string(u)}, {"placement", placement}}, trade, u,
                         {.causal = causal}, flat_ring(s.P() / u, causal));
        }
      }
    }
  }
}

// TransformerEngine's a2a+p2p: places of its layout hold what they hold in usp's, so as much is sent.
TEST_P(Volumes, UspOnDualChunks) {
  const Shape& s = GetParam();
  for (int64_t u = 1; u <= s.P(); ++u) {
    if (s.P() % u != 0) continue;
    const Options options = {{"ulysses", std::to_string(u)}, {"direction", "forward"}};
    const Problem own = s.problem(layout_of("usp", {s.tokens()}, s.ranks, options), {.causal = true});
    const Problem dual = s.problem("dual-chunk", {.causal = true});
    EXPECT_EQ(forward("usp", dual, options), forward("usp", own, options));
    EXPECT_EQ(backward("usp", dual, options), backward("usp", own, options));
  }
}

// N windows of W places. A block makes W-1 hops in each window and N-1 between them, r-1 in all; sums make W-1 in the first
// window, the last of them home, and in each later one W-1 inside and one home: r-1 too. Zigzag and direction reverse,
// causal: as in a ring, blocks are whole for places below their owner and half for those above, inside its window and
// between windows: 3/4 of the rows. Where the own window has places above and below, sums of the high half leave for home
// between them: one message more.
RingTraffic double_ring(int64_t r, int64_t W, bool causal) {
  const int64_t hops = r * (r - 1), rows = causal ? 3 * hops * kT / 4 : hops * kT;
  const int64_t parting = causal ? r / W * (W - 2) : 0;
  return {rows, hops, rows, rows, 2 * hops + parting};
}

TEST_P(Volumes, DoubleRing) {
  const Shape& s = GetParam();
  for (int64_t u = 1; u <= s.P(); ++u) {
    const int64_t r = s.P() / u;
    for (int64_t W = 1; W <= r; ++W) {
      if (u * r != s.P() || r % W != 0) continue;
      for (const char* placement : {"head-first", "context-first"}) {
        for (const Trade& trade : kTrades) {
          for (bool causal : {false, true}) {
            expect_volumes(s, "double-ring",
                           {{"ulysses", std::to_string(u)}, {"window", std::to_string(W)}, {"placement", placement}},
                           trade, u, {.causal = causal},
                           W > 1 && W < r ? double_ring(r, W, causal) : flat_ring(r, causal));
          }
        }
      }
    }
  }
}

// What the double ring is for: of the r-1 hops of a block N-1 leave a window, and of those of its sums as many.
TEST(DoubleRing, FewHopsLeaveAWindow) {
  const int64_t u = 2, W = 4, N = 3, r = W * N;
  const Shape s{static_cast<int>(u * r), 24, 8, DType::fp32, DType::fp32};
  const Options options = {{"ulysses", "2"}, {"window", "4"}};
  Problem problem = s.problem(layout_of("double-ring", {s.tokens()}, s.ranks, options), {});
  problem.backward = true;
  const StoredSchedule stored = make_schedule("double-ring", problem, options).store();
  std::map<uint32_t, int64_t> inside, outside;  // rows x heads sent, by fields
  for (size_t rank = 0; rank < stored.programs.size(); ++rank) {
    const Block block = stored.programs[rank].block();
    for (const Instruction& i : block.instructions) {
      if (i.op != Op::exchange) continue;
      for (const Part& part : block.outgoing(i)) {
        const int64_t from = static_cast<int64_t>(rank) / u, to = part.peer / u;  // places
        if (from == to) continue;
        (from / W == to / W ? inside : outside)[part.slice.fields.bits()] +=
            stored.pool->size(part.slice.tokens) * stored.pool->size(part.slice.heads);
      }
    }
  }
  const int64_t block = u * kT * s.kv_heads / u * s.P();  // of all ranks
  const Fields kv = Field::k | Field::v, dkv = Field::dk | Field::dv;
  EXPECT_EQ(inside[kv.bits()], 2 * N * (W - 1) * block);  // both phases
  EXPECT_EQ(outside[kv.bits()], 2 * (N - 1) * block);
  EXPECT_EQ(inside[dkv.bits()], N * (W - 1) * block);
  EXPECT_EQ(outside[dkv.bits()], (N - 1) * block);
}

}  // namespace
}  // namespace weft::volumes
