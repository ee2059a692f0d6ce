// Threads that intern the same sets at the same time must get the same ids.
#include "weft/schedule/set_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "weft/base/random.h"

namespace weft {
namespace {

IntervalSet set_of(int64_t number) {
  std::vector<Range> ranges;
  for (int64_t i = 0; i <= number % 7; ++i) ranges.push_back({10 * i + number, 10 * i + number + 1 + number % 5});
  return IntervalSet(ranges);
}

TEST(SetTable, EqualSetsHaveEqualIdsWhoeverNamesThemFirst) {
  constexpr int kThreads = 4, kSets = 20'000;
  SetTable table;
  std::vector<std::vector<SetId>> ids(kThreads, std::vector<SetId>(kSets));
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        Random random(3, static_cast<uint64_t>(t));
        std::vector<int> order(kSets);
        for (int i = 0; i < kSets; ++i) order[static_cast<size_t>(i)] = i;
        random.shuffle(std::span(order));
        for (int i : order) {
          const SetId id = table.intern(set_of(i));
          ids[static_cast<size_t>(t)][static_cast<size_t>(i)] = id;
          if (!(table[id] == set_of(i)) || table.size(id) != set_of(i).size()) ADD_FAILURE() << "set " << i;
        }
      });
    }
  }
  for (int t = 1; t < kThreads; ++t) EXPECT_EQ(ids[static_cast<size_t>(t)], ids[0]) << t;
  EXPECT_EQ(table.intern({}), SetId::empty);
  // Ids are dense, and as many as there are different sets.
  std::vector<char> seen(table.count(), 0);
  for (SetId id : ids[0]) seen[static_cast<size_t>(id)] = 1;
  EXPECT_EQ(static_cast<size_t>(std::count(seen.begin(), seen.end(), 1)) + 1, table.count());
}

TEST(SetTable, SetsStayWhereTheyAreAsTheTableGrows) {
  SetTable table;
  const SetId first = table.intern(Range{5, 9});
  const IntervalSet* where = &table[first];
  for (int64_t i = 0; i < 100'000; ++i) table.intern(Range{i, 2 * i + 11});
  EXPECT_EQ(&table[first], where);
  EXPECT_EQ(table[first], IntervalSet(Range{5, 9}));
  EXPECT_EQ(table.intern(Range{5, 9}), first);
}

}  // namespace
}  // namespace weft
