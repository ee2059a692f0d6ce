// Many ranks run in an order that suits the cache, and on several threads. Every order must prove the same and tell the
// same.
#include "tests/mutate.h"
#include "tests/verify_script.h"
#include "weft/base/test_level.h"
#include "weft/methods/registry.h"

namespace weft {
namespace {

constexpr int kAlways = 0, kNever = 1 << 20;  // VerifyOptions::few_ranks: in bands, or in turn

Schedule of(std::string_view method, int ranks, int64_t tokens, MaskRule rule = {.causal = true}) {
  Problem problem = self_attention(Mask::of(tokens, rule), layout_of(method, {tokens}, ranks), 4, 2, 4);
  problem.backward = true;
  return make_schedule(method, std::move(problem));
}

void expect_same(const Schedule& schedule, const VerifyOptions& options, const std::string& what) {
  VerifyOptions in_turn = options;
  in_turn.few_ranks = kNever;
  const Report a = verify(schedule, options), b = verify(schedule, in_turn);
  EXPECT_EQ(findings(a), findings(b)) << what;
  ASSERT_EQ(a.ranks.size(), b.ranks.size());
  if (!a.ok()) return;
  EXPECT_EQ(a.instructions, b.instructions) << what;
  for (size_t rank = 0; rank < a.ranks.size(); ++rank) {
    EXPECT_EQ(a.ranks[rank].work, b.ranks[rank].work) << what;
    EXPECT_EQ(a.ranks[rank].work_backward, b.ranks[rank].work_backward) << what;
    EXPECT_EQ(a.ranks[rank].bytes_sent, b.ranks[rank].bytes_sent) << what;
    EXPECT_EQ(a.ranks[rank].messages, b.ranks[rank].messages) << what;
    EXPECT_EQ(a.ranks[rank].live_bytes, b.ranks[rank].live_bytes) << what;
    EXPECT_EQ(a.ranks[rank].saved_bytes, b.ranks[rank].saved_bytes) << what;
  }
}

TEST(Order, ManyRanksAreProvedInBandsAsInTurn) {
  for (const Method* method : all_methods()) {
    for (int ranks : {65, 70}) {
      if (test_level() == 0 && (ranks > 65 || method->name != "zigzag")) continue;
      const Schedule schedule = of(method->name, ranks, 3 * ranks + 1);
      EXPECT_TRUE(verify(schedule).ok()) << method->name << "\n" << findings(verify(schedule));
      expect_same(schedule, {}, std::string(method->name));
    }
  }
}

// Random changes; returns how many were refused.
int refused_mutants(const Schedule& schedule, const VerifyOptions& options, int wanted, Random& random) {
  const StoredSchedule stored = schedule.store();
  const testing::LooseSchedule loose = testing::take_apart(stored);
  int refused = 0;
  for (int made = 0; made < wanted;) {
    testing::LooseSchedule changed = loose;
    const std::string change = testing::mutate(changed, *stored.pool, schedule.problem(), random);
    if (change.empty()) continue;
    ++made;
    const Schedule mutant("mutant", schedule.shared_problem(), testing::put_together(changed, *stored.pool));
    expect_same(mutant, options, schedule.method() + ": " + change);
    refused += !verify(mutant, options).ok();
  }
  return refused;
}

TEST(Order, AnyNumberOfThreadsProvesTheSame) {
  for (const Method* method : all_methods()) {
    for (int threads : {1, 2, 3, 7}) {
      for (int ranks : {1, 2, 7, 12}) {
        expect_same(of(method->name, ranks, 5 * ranks + 2), {.few_ranks = kAlways, .threads = threads},
                    std::string(method->name) + ", " + std::to_string(threads) + " threads");
      }
    }
  }
}

TEST(Order, AStopReachesAllThreads) {
  const Schedule schedule = of("zigzag", 65, 400);
  StopFlag stop;
  stop.raise();
  EXPECT_THROW(verify(schedule, {.threads = 3, .stop = &stop}), Error);
}

TEST(Order, WrongSchedulesOfManyRanksAreRefusedWithTheSameFindings) {
  if (test_level() == 0) GTEST_SKIP() << "minutes under sanitizers; few ranks run on threads below";
  Random random(66, 0);
  for (std::string_view method : {"ring", "zigzag", "token-ring", "all-gather"}) {
    EXPECT_GT(refused_mutants(of(method, 66, 200), {.max_problems = 3}, 6, random), 2) << method;
  }
}

TEST(Order, WrongSchedulesOfFewRanksToo) {
  Random random(5, 0);
  for (const Method* method : all_methods()) {
    for (int ranks : {2, 5}) {
      const Schedule schedule = of(method->name, ranks, 23, {.causal = true, .window = 9});
      EXPECT_GT(refused_mutants(schedule, {.few_ranks = kAlways, .threads = 2}, 20, random), 8) << method->name;
    }
  }
}

}  // namespace
}  // namespace weft
