// Rings that share no link (tasp) and gathers in chunks: bytes, messages, and what each link carries in each step.
#include <map>

#include "tests/volumes.h"
#include "weft/base/error.h"
#include "weft/methods/passes/hamilton.h"

namespace weft::volumes {
namespace {

INSTANTIATE_TEST_SUITE_P(Shapes, Volumes, testing::ValuesIn(shapes()));

Options tasp_options(int nodes, int rings) {
  return {{"nodes", std::to_string(nodes)}, {"rings", std::to_string(rings)}};
}

// Calls f(nodes, rings) for every division of the ranks in nodes and some numbers of rings, the largest one too.
template <typename F>
void for_each_division(int ranks, F&& f) {
  for (int nodes = 1; nodes <= ranks; ++nodes) {
    if (ranks % nodes != 0) continue;
    const int most = methods::most_rings(nodes, ranks / nodes);
    for (int rings = 1; rings <= most; rings += rings < 3 ? 1 : std::max(1, most - rings)) f(nodes, rings);
  }
}

Problem zigzag_problem(int ranks, int64_t per_rank, MaskRule rule) {
  const int64_t tokens = ranks * per_rank;
  Problem problem = self_attention(Mask::of(tokens, rule), Layout::zigzag(tokens, ranks), 2, 1, kD);
  problem.backward = true;
  return problem;
}

// ---- volumes

// However many rings there are, every row makes P-1 hops: forward of (k, v), backward of (k, v) and of (dk, dv).
TEST_P(Volumes, TaspFullMask) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), rows = P * (P - 1) * kT;
  for (std::string_view layout : {"zigzag", "contiguous", "striped"}) {
    const Problem problem = s.problem(layout, {});
    for_each_division(s.ranks, [&](int nodes, int rings) {
      const Options options = tasp_options(nodes, rings);
      EXPECT_EQ(forward("tasp", problem, options), (Sent{rows * s.kv(), P * (P - 1) * rings}));
      EXPECT_EQ(backward("tasp", problem, options), (Sent{rows * (s.kv() + s.dkv()), 2 * P * (P - 1) * rings}));
      expect_equal_ranks("tasp", problem, options);
    });
  }
}

// Ranks below j need all of block j, ranks above its low half. On each ring (k, v) of j go on whole as long as a rank
// below j is ahead, and (dk, dv) come home whole from the first such rank on; else half a piece goes.
TEST(Tasp, CausalZigzagVolumes) {
  for (int ranks : {2, 3, 4, 5, 6, 8, 9, 12}) {
    for_each_division(ranks, [&](int nodes, int rings) {
      const int64_t half = 3 * rings;  // rows of half a block; each piece has 3 of them
      int64_t kv_halves = 0, dkv_halves = 0;
      for (const methods::Tour& ring : methods::rings_over_nodes(nodes, ranks / nodes, rings)) {
        for (int place = 0; place < ranks; ++place) {
          int nearest = ranks, farthest = 0;  // ranks below the owner
          for (int d = 1; d < ranks; ++d) {
            if (ring[static_cast<size_t>((place + d) % ranks)] > ring[static_cast<size_t>(place)]) continue;
            nearest = std::min(nearest, d);
            farthest = d;
          }
          // Hops to distance d, d = 1 .. P-1, and from distance d.
          for (int d = 1; d < ranks; ++d) kv_halves += d <= farthest ? 2 : 1, dkv_halves += d >= nearest ? 2 : 1;
        }
      }
      const Shape s{ranks, 2, 1, DType::fp32, DType::fp32};
      const Problem problem = zigzag_problem(ranks, 2 * half, {.causal = true});
      const int64_t hops = ranks * (ranks - 1) * rings;
      SCOPED_TRACE(std::to_string(ranks) + " ranks, " + std::to_string(nodes) + " nodes, " + std::to_string(rings));
      EXPECT_EQ(forward("tasp", problem, tasp_options(nodes, rings)), (Sent{3 * kv_halves * s.kv(), hops}));
      EXPECT_EQ(backward("tasp", problem, tasp_options(nodes, rings)),
                (Sent{3 * (kv_halves * s.kv() + dkv_halves * s.dkv()), 2 * hops}));
    });
  }
}

// The whole of every row goes to each rank that needs it, in as many messages as there are chunks.
TEST_P(Volumes, AllGatherChunks) {
  const Shape& s = GetParam();
  const int64_t P = s.P(), pairs = P * (P - 1);
  const Problem full = s.problem("zigzag", {}), causal = s.problem("zigzag", {.causal = true});
  EXPECT_EQ(forward("all-gather", full, {{"chunks", "1"}}), forward("all-gather", full));
  for (int64_t chunks : {1, 2, 3}) {
    const Options options = {{"chunks", std::to_string(chunks)}};
    for (const auto& [problem, rows] : {std::pair(full, pairs * kT), std::pair(causal, 3 * pairs * kT / 4)}) {
      EXPECT_EQ(forward("all-gather", problem, options), (Sent{rows * s.kv(), pairs * chunks}));
      EXPECT_EQ(backward("all-gather", problem, options), (Sent{rows * (s.kv() + s.dkv()), 2 * pairs * chunks}));
    }
  }
}

// ---- links

using Link = std::pair<int, int>;  // from, to
struct LinkStep {
  bool backward = false;
  Fields fields;                 // what crosses: one exchange per kind and step
  std::map<Link, int64_t> rows;  // of one message each
};

// What crosses in every step, by step and kind. Fails where an exchange uses a link twice.
std::vector<LinkStep> links_of(const Schedule& schedule) {
  std::map<std::tuple<uint32_t, bool, uint32_t>, LinkStep> steps;
  SetPool pool;
  for (int rank = 0; rank < schedule.ranks(); ++rank) {
    auto program = schedule.open(rank, pool);
    bool backward = false;
    for (Block block; program->next(block);) {
      for (const Instruction& i : block.instructions) {
        backward |= i.op == Op::begin_backward;
        if (i.op != Op::exchange) continue;
        for (const Part& part : block.outgoing(i)) {
          LinkStep& step = steps[{i.step, backward, part.slice.fields.bits()}];
          step.backward = backward, step.fields = part.slice.fields;
          EXPECT_TRUE(step.rows.emplace(Link(rank, part.peer), pool.size(part.slice.tokens)).second)
              << "from " << rank << " to " << part.peer << " twice in step " << i.step;
        }
      }
    }
  }
  std::vector<LinkStep> result;
  for (auto& [key, step] : steps) result.push_back(std::move(step));
  return result;
}

// The rows that each link carries in all, forward and backward.
std::map<Link, int64_t> loads_of(const std::vector<LinkStep>& steps) {
  std::map<Link, int64_t> loads;
  for (const LinkStep& step : steps) {
    for (const auto& [link, rows] : step.rows) loads[link] += rows;
  }
  return loads;
}

// One node, all rings: in each of P-1 steps every link carries one piece, of keys or of sums. In all every link carries
// what it does when the owners send to every rank themselves, in chunks.
TEST(Tasp, EveryLinkCarriesOnePieceInEveryStep) {
  for (int ranks : {2, 3, 5, 7, 8, 9, 10, 11, 12, 16, 20}) {
    SCOPED_TRACE(ranks);
    const int64_t piece = 4, links = ranks * (ranks - 1);
    const Problem problem = zigzag_problem(ranks, piece * (ranks - 1), {});
    const std::vector<LinkStep> steps = links_of(make_schedule("tasp", problem));
    EXPECT_EQ(steps.size(), 3u * static_cast<size_t>(ranks - 1));
    for (const LinkStep& step : steps) {
      EXPECT_EQ(step.rows.size(), static_cast<size_t>(links));
      for (const auto& [link, rows] : step.rows) EXPECT_EQ(rows, piece);
    }
    const Options chunks = {{"chunks", std::to_string(ranks - 1)}};
    const std::vector<LinkStep> gather = links_of(make_schedule("all-gather", problem, chunks));
    EXPECT_EQ(gather.size(), steps.size());
    for (const LinkStep& step : gather) {
      for (const auto& [link, rows] : step.rows) EXPECT_EQ(rows, piece);
    }
    EXPECT_EQ(loads_of(steps), loads_of(gather));
  }
}

// Four and six ranks, fourteen, ...: all links but one out of each rank.
TEST(Tasp, AlmostEveryLink) {
  for (int ranks : {4, 6, 14}) {
    const Problem problem = zigzag_problem(ranks, 4 * (ranks - 2), {});
    for (const LinkStep& step : links_of(make_schedule("tasp", problem))) {
      EXPECT_EQ(step.rows.size(), static_cast<size_t>(ranks * (ranks - 2)));
    }
  }
}

// Over nodes, with any mask: no link twice, and in each step one message out of every rank's node and one into it.
TEST(Tasp, OverNodesEveryRankSendsOnePieceOut) {
  for (const auto& [nodes, local] : {std::pair(2, 4), {3, 4}, {2, 8}, {4, 2}, {3, 7}, {2, 5}}) {
    for (MaskRule rule : {MaskRule{}, MaskRule{.causal = true}, MaskRule{.causal = true, .window = 50}}) {
      const int ranks = nodes * local, rings = methods::most_rings(nodes, local);
      SCOPED_TRACE(std::to_string(nodes) + " nodes of " + std::to_string(local));
      const Problem problem = zigzag_problem(ranks, 2 * rings + 1, rule);
      for (const LinkStep& step : links_of(make_schedule("tasp", problem, {{"nodes", std::to_string(nodes)}}))) {
        std::vector<int> out(static_cast<size_t>(ranks)), in = out;
        int inside = 0;
        for (const auto& [link, rows] : step.rows) {
          const bool leaves = link.first / local != link.second / local;
          inside += leaves ? 0 : 1;
          out[static_cast<size_t>(link.first)] += leaves, in[static_cast<size_t>(link.second)] += leaves;
        }
        const bool complete = rings == local, all = rule.window == 0;
        for (int messages : out) EXPECT_TRUE(messages == 1 || (messages == 0 && !(complete && all)));
        for (int messages : in) EXPECT_TRUE(messages == 1 || (messages == 0 && !(complete && all)));
        EXPECT_TRUE(inside == ranks * (local - 1) || !(complete && all));
      }
    }
  }
}

// ---- work

// Causal, zigzag, pieces that divide: after the own block every step costs every rank the same, T T / 2 pairs.
TEST(Tasp, EveryStepCostsTheSame) {
  for (const auto& [ranks, nodes] : {std::pair(5, 1), {8, 1}, {8, 2}, {12, 3}, {6, 1}}) {
    const int rings = methods::most_rings(nodes, ranks / nodes);
    const int64_t T = 4 * rings;
    Problem problem = zigzag_problem(ranks, T, {.causal = true});
    problem.backward = false;
    const Schedule schedule = make_schedule("tasp", problem, tasp_options(nodes, rings));
    SetPool pool;
    for (int rank = 0; rank < ranks; ++rank) {
      auto program = schedule.open(rank, pool);
      std::map<uint32_t, int64_t> pairs;  // by step
      for (Block block; program->next(block);) {
        for (const Instruction& i : block.instructions) {
          if (i.op != Op::attend) continue;
          for (const Slice& q : block.queries(i)) {
            for (const Slice& k : block.keys(i)) pairs[i.step] += problem.pairs.area(pool[q.tokens], pool[k.tokens]);
          }
        }
      }
      ASSERT_EQ(pairs.size(), static_cast<size_t>(ranks));
      for (const auto& [step, area] : pairs) EXPECT_EQ(area, step == 0 ? T * (T + 1) / 2 : T * T / 2) << step;
    }
  }
}

// ---- memory

// Whatever the number of ranks, and where a rank sends sums and gets none.
TEST(Tasp, LiveMemoryIsTheSameForAnyNumberOfRanks) {
  const auto live = [](std::string_view layout, MaskRule rule, int ranks, int nodes, int rings) {
    Problem problem = Shape{ranks, 4, 4, DType::fp32, DType::fp32}.problem(layout, rule);
    problem.backward = true;
    int64_t most = 0;
    for (const RankReport& rank : proved("tasp", problem, tasp_options(nodes, rings)).ranks)
      most = std::max(most, rank.live_bytes);
    return most;
  };
  for (std::string_view layout : {"contiguous", "zigzag", "striped"}) {
    for (MaskRule rule : {MaskRule{}, MaskRule{.causal = true}}) {
      for (int rings : {1, 2, 4}) {
        const int64_t few = live(layout, rule, 16, 4, rings);
        for (int ranks : {32, 64}) EXPECT_LE(live(layout, rule, ranks, ranks / 4, rings), few) << layout << rings;
      }
    }
  }
}

// ---- every option, token counts that divide nothing

TEST(Tasp, AnyTokensNodesAndRings) {
  for (int ranks : {2, 3, 4, 6, 8, 9, 12, 14, 17}) {
    for_each_division(ranks, [&](int nodes, int rings) {
      for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{97}, {5}, {1, 40, 7, 30, 1, 18}}) {
        for (MaskRule rule : {MaskRule{}, MaskRule{.causal = true}, MaskRule{.causal = true, .window = 9}}) {
          for (std::string_view layout : {"zigzag", "striped", "document-zigzag"}) {
            Problem problem =
                self_attention(Mask::documents(lengths, rule), make_layout(layout, lengths, ranks), 4, 2, kD);
            problem.backward = true;
            SCOPED_TRACE(std::to_string(ranks) + " ranks, " + std::to_string(nodes) + " nodes, " +
                         std::to_string(rings) + " rings, " + std::string(layout));
            proved("tasp", problem, tasp_options(nodes, rings));
          }
        }
      }
    });
  }
}

// Above 64 ranks pieces lie in values of their own.
TEST(Tasp, ManyRanks) {
  for (const auto& [ranks, nodes, rings] : {std::tuple(72, 9, 8), {70, 10, 6}, {66, 1, 2}, {65, 1, 5}, {67, 67, 1}}) {
    for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{977}, {1, 40, 7, 300, 1, 18}}) {
      for (MaskRule rule : {MaskRule{}, MaskRule{.causal = true}, MaskRule{.causal = true, .window = 9}}) {
        for (std::string_view layout : {"zigzag", "document-zigzag"}) {
          Problem problem =
              self_attention(Mask::documents(lengths, rule), make_layout(layout, lengths, ranks), 4, 2, kD);
          problem.backward = true;
          proved("tasp", problem, tasp_options(nodes, rings));
        }
      }
    }
    const Shape s{ranks, 4, 2, DType::fp32, DType::fp32};
    const int64_t rows = s.P() * (s.P() - 1) * kT, hops = s.P() * (s.P() - 1) * rings;
    EXPECT_EQ(forward("tasp", s.problem("zigzag", {}), tasp_options(nodes, rings)), (Sent{rows * s.kv(), hops}));
    EXPECT_EQ(backward("tasp", s.problem("zigzag", {}), tasp_options(nodes, rings)),
              (Sent{rows * (s.kv() + s.dkv()), 2 * hops}));
  }
}

TEST(AllGatherChunks, AnyTokensAndChunks) {
  for (int ranks : {1, 2, 3, 5, 8}) {
    for (const char* chunks : {"2", "3", "7", "50"}) {
      for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{97}, {5}, {1, 40, 7, 30, 1, 18}}) {
        for (MaskRule rule : {MaskRule{}, MaskRule{.causal = true}, MaskRule{.causal = true, .window = 9}}) {
          for (std::string_view layout : {"zigzag", "striped", "document-zigzag"}) {
            Problem problem =
                self_attention(Mask::documents(lengths, rule), make_layout(layout, lengths, ranks), 4, 2, kD);
            problem.backward = true;
            proved("all-gather", problem, {{"chunks", chunks}});
          }
        }
      }
    }
  }
}

// ---- refusals

void expect_refused(int ranks, const Options& options, std::string_view reason) {
  try {
    make_schedule("tasp", zigzag_problem(ranks, 4, {}), options);
    ADD_FAILURE() << "not refused: " << reason;
  } catch (const Error& error) {
    EXPECT_NE(std::string_view(error.what()).find(reason), std::string_view::npos) << error.what();
  }
}

TEST(Tasp, RefusesRingsThatAreNotThere) {
  expect_refused(6, {{"rings", "5"}}, "at most 4 that share no link are known for 6 ranks; use 1 to 4");
  expect_refused(2, {{"rings", "2"}}, "for 2 ranks; use 1, or");
  expect_refused(1, {{"rings", "2"}}, "for 1 rank; use 1, or");
  expect_refused(12, {{"nodes", "4"}, {"rings", "3"}},
                 "at most 2 that share no link are known for 12 ranks on 4 nodes");
  expect_refused(12, {{"nodes", "5"}}, "nodes 5 does not divide 12 ranks");
  expect_refused(65, {{"rings", "17"}}, "above 64 ranks at most 16");
  expect_refused(64, {{"rings", "64"}}, "1 to 63");
  for (const auto& [ranks, rings] : {std::pair(64, "63"), {65, "16"}, {128, "16"}}) {
    EXPECT_EQ(make_schedule("tasp", zigzag_problem(ranks, 4, {}), {{"rings", rings}}).ranks(), ranks);
  }
}

}  // namespace
}  // namespace weft::volumes
