// The order of work in a chain: everything once, in an order that can run, and little time lost to waiting.
#include "weft/methods/linear/chain_plan.h"

#include <gtest/gtest.h>

#include <map>

#include "weft/base/random.h"
#include "weft/methods/method.h"

namespace weft::methods {
namespace {

using Kind = ChainWork::Kind;

Problem sequence(std::vector<int64_t> lengths, Layout layout, int64_t heads, Layer layer = Layer::gla) {
  Problem problem = self_attention(Mask::documents(lengths, {.causal = true}), std::move(layout), heads, heads, 4);
  problem.layer = layer;
  return problem;
}

// "s0> 1> .." with a letter for each kind, > for a pass, and the number of the block.
std::string text_of(const std::vector<ChainWork>& program) {
  std::string text;
  for (const ChainWork& work : program) {
    if (work.kind == Kind::pass) {
      text += ">";
    } else {
      const char* kind = work.kind == Kind::receive ? "r" : work.kind == Kind::summarise ? "s" : "";
      text += (text.empty() ? "" : " ") + std::string(kind) + std::to_string(work.block);
    }
  }
  return text;
}

TEST(ChainPlan, TwoRanksMakeOneStateAhead) {
  const Problem problem = sequence({64}, Layout::contiguous(64, 2), 4);
  const Fragments fragments(problem);
  const ChainPlan plan(problem, fragments, 4, 1);
  EXPECT_EQ(text_of(plan.of(0)), "s0> 1> 2> 3> 0");
  EXPECT_EQ(text_of(plan.of(1)), "r0 r1 0 r2 1 r3 2 3");
}

// What one rank would need alone, over the ranks and the time that they take.
double efficiency(const Problem& problem, int blocks, int towards) {
  const Fragments fragments(problem);
  const double work = static_cast<double>(problem.query_layout.tokens() * problem.heads);
  return work / problem.ranks() / ChainPlan(problem, fragments, blocks, towards).time();
}

TEST(ChainPlan, LittleIsLostToWaiting) {
  const auto expect = [](const Problem& problem, int blocks, double forward, double backward) {
    EXPECT_GT(efficiency(problem, blocks, 1), forward) << problem.ranks();
    EXPECT_GT(efficiency(problem, blocks, -1), backward) << problem.ranks();
  };
  expect(sequence({4096}, Layout::contiguous(4096, 2), 8), 8, 0.948, 0.97);
  expect(sequence({4096}, Layout::contiguous(4096, 2), 8, Layer::gdn), 8, 0.92, 0.96);
  expect(sequence({4096}, Layout::zigzag(4096, 2), 8), 8, 0.89, 0.95);
  expect(sequence({4096}, Layout::contiguous(4096, 8), 32), 32, 0.9, 0.95);
  expect(sequence({4096}, Layout::zigzag(4096, 8), 32), 32, 0.85, 0.9);
  // Of one block all states are made ahead.
  expect(sequence({4096}, Layout::contiguous(4096, 8), 8), 1, 0.69, 0.85);
  // A token more or less on some ranks changes next to nothing.
  expect(sequence({4091}, Layout::contiguous(4091, 2), 8), 8, 0.945, 0.97);
  expect(sequence({32003}, Layout::contiguous(32003, 8), 32), 32, 0.89, 0.94);
}

// On any cut: every block of every fragment is scanned once, after what enters it, and passed on once, after it was made.
TEST(ChainPlan, EverythingOnceAndInOrder) {
  Random random(3, 0);
  for (int n = 0; n < 300; ++n) {
    std::vector<int64_t> lengths;
    for (int64_t documents = 1 + random.uniform(6); documents > 0; --documents)
      lengths.push_back(1 + random.uniform(40));
    int64_t tokens = 0;
    for (const int64_t length : lengths) tokens += length;
    const int ranks = 1 + static_cast<int>(random.uniform(6)), blocks = 1 + static_cast<int>(random.uniform(5));
    Layout layout = random.uniform(2) == 0 ? Layout::contiguous(tokens, ranks) : zigzag_layout(lengths, ranks);
    const Problem problem = sequence(lengths, std::move(layout), 5);
    const Fragments fragments(problem);
    for (const int towards : {1, -1}) {
      const ChainPlan plan(problem, fragments, blocks, towards);
      for (int rank = 0; rank < ranks; ++rank) {
        std::map<std::pair<int, int>, std::map<Kind, int>> seen;
        for (const ChainWork& work : plan.of(rank)) {
          ASSERT_EQ(fragments[work.fragment].rank, rank);
          std::map<Kind, int>& so_far = seen[{work.fragment, work.block}];
          if (work.kind == Kind::pass) {
            EXPECT_EQ(so_far[Kind::summarise] + so_far[Kind::scan], 1);
          }
          ++so_far[work.kind];
        }
        for (const int f : fragments.of(rank)) {
          for (int block = 0; block < plan.blocks_of(f); ++block) {
            std::map<Kind, int>& all = seen[{f, block}];
            const int from = plan.enters(f) ? fragments[f - towards].rank : rank;
            EXPECT_EQ(all[Kind::scan], 1);
            EXPECT_EQ(all[Kind::pass], plan.leaves(f));
            EXPECT_EQ(all[Kind::summarise], plan.leaves(f) && plan.is_ahead(block));
            EXPECT_EQ(all[Kind::receive], from != rank);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace weft::methods
