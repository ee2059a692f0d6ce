#include "weft/base/interval_set.h"

#include <gtest/gtest.h>

#include <set>
#include <utility>
#include <vector>

#include "weft/base/random.h"

namespace weft {
namespace {

std::set<int> members(const IntervalSet& set) {
  std::set<int> result;
  for (const Range& range : set.ranges()) {
    for (int64_t x = range.begin; x < range.end; ++x) result.insert(static_cast<int>(x));
  }
  return result;
}

// Sorted, disjoint, not touching, none empty: what ranges() promises.
bool well_formed(const IntervalSet& set) {
  const auto ranges = set.ranges();
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (ranges[i].begin >= ranges[i].end) return false;
    if (i > 0 && ranges[i - 1].end >= ranges[i].begin) return false;
  }
  return true;
}

struct Sample {
  std::vector<Range> ranges;  // any order, overlaps, empty and inverted ones among them
  std::set<int> expected;
};

// Up to `most` ranges around 0, some of them empty or inverted.
Sample random_sample(Random& random, int64_t most) {
  Sample sample;
  const int64_t count = random.uniform(most + 1);
  const int64_t longest = random.uniform(1, 12);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = random.uniform(-30, 60);
    const Range range{begin, begin + random.uniform(-3, longest + 1)};
    sample.ranges.push_back(range);
    for (int64_t x = range.begin; x < range.end; ++x) sample.expected.insert(static_cast<int>(x));
  }
  if (random.uniform(2) == 0) {
    std::sort(sample.ranges.begin(), sample.ranges.end(),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });
  }
  return sample;
}

IntervalSet set_of(const std::vector<Range>& ranges) { return IntervalSet(std::span<const Range>(ranges)); }

TEST(IntervalSet, IsBuiltFromAnyRanges) {
  Random random(1);
  for (int trial = 0; trial < 5000; ++trial) {
    const Sample sample = random_sample(random, 12);
    const IntervalSet set = set_of(sample.ranges);
    ASSERT_TRUE(well_formed(set)) << to_string(set, 99);
    ASSERT_EQ(members(set), sample.expected) << to_string(set, 99);
    ASSERT_EQ(set.size(), static_cast<int64_t>(sample.expected.size()));
    ASSERT_EQ(set.empty(), sample.expected.empty());
    if (!set.empty()) {
      const Range hull{*sample.expected.begin(), *sample.expected.rbegin() + 1};
      ASSERT_EQ(set.hull(), hull);
    }
  }
}

// Long lists with short ones: what is searched instead of walked along, and joined in place.
TEST(IntervalSet, LongListsWithShortOnes) {
  Random random(7);
  for (int trial = 0; trial < 400; ++trial) {
    std::vector<Range> many, few;
    for (int64_t begin = random.uniform(-5, 5), n = random.uniform(20, 300); n > 0; --n) {
      many.push_back({begin, begin + random.uniform(1, 4)});
      begin = many.back().end + random.uniform(1, 5);
    }
    for (int64_t n = random.uniform(1, 12); n > 0; --n) {
      const int64_t begin = random.uniform(-10, many.back().end + 10);
      few.push_back({begin, begin + random.uniform(1, trial % 2 == 0 ? 3 : 40)});
    }
    const IntervalSet a = set_of(many), b = set_of(few);
    std::set<int> both = members(a), common;
    for (int x : members(b)) {
      if (!both.insert(x).second) common.insert(x);
    }
    ASSERT_EQ(a.intersects(b), !common.empty());
    ASSERT_EQ(b.intersects(a), !common.empty());
    IntervalSet one_by_one = a, at_once = a, other_way = b;
    for (const Range& range : b.ranges()) one_by_one.unite(range);
    at_once.unite(b);
    other_way.unite(a);
    for (const IntervalSet& set : {one_by_one, at_once, other_way}) {
      ASSERT_TRUE(well_formed(set)) << to_string(set, 999);
      ASSERT_EQ(members(set), both);
    }
  }
}

TEST(IntervalSet, InvertedRangesAreEmptyAndHideNothing) {
  const IntervalSet set({{0, 10}, {12, 2}, {5, 8}});
  EXPECT_EQ(to_string(set), "0..10");
  EXPECT_EQ(IntervalSet({{3, 3}, {9, 1}}), IntervalSet());
  EXPECT_EQ(IntervalSet(Range{4, 2}), IntervalSet());
  EXPECT_EQ(IntervalSet().hull(), Range{});
}

TEST(IntervalSet, AlgebraAgreesWithSetsOfIntegers) {
  Random random(2);
  for (int trial = 0; trial < 5000; ++trial) {
    const int64_t most = trial % 3 == 0 ? 2 : 14;
    const Sample x = random_sample(random, most);
    const Sample y = random_sample(random, most);
    const IntervalSet a = set_of(x.ranges);
    const IntervalSet b = set_of(y.ranges);
    std::set<int> both, either = x.expected, left;
    either.insert(y.expected.begin(), y.expected.end());
    for (int i : x.expected) (y.expected.count(i) ? both : left).insert(i);

    ASSERT_TRUE(well_formed(unite(a, b)) && well_formed(intersect(a, b)) && well_formed(subtract(a, b)));
    ASSERT_EQ(members(unite(a, b)), either);
    ASSERT_EQ(members(intersect(a, b)), both);
    ASSERT_EQ(members(subtract(a, b)), left);
    ASSERT_EQ(a.intersects(b), !both.empty());
    ASSERT_EQ(a.includes(b), both.size() == y.expected.size());
    ASSERT_EQ(a == b, x.expected == y.expected);
    ASSERT_TRUE(unite(a, b).includes(a) && a.includes(intersect(a, b)));

    IntervalSet in_place = a;
    in_place.unite(b);
    ASSERT_TRUE(well_formed(in_place));
    ASSERT_EQ(members(in_place), either);
    const int64_t begin = random.uniform(-40, 70);
    in_place.unite(Range{begin, begin + 5});
    for (int64_t i = begin; i < begin + 5; ++i) either.insert(static_cast<int>(i));
    ASSERT_EQ(members(in_place), either);

    int64_t rank = 0;
    for (int i = -45; i < 80; ++i) {
      ASSERT_EQ(a.rank_of(i), rank) << i << " in " << to_string(a, 99);
      ASSERT_EQ(a.contains(i), x.expected.count(i) > 0);
      rank += x.expected.count(i) > 0;
    }
  }
}

TEST(IntervalSet, AppendJoinsWhatTouches) {
  Random random(3);
  for (int trial = 0; trial < 1000; ++trial) {
    IntervalSet set;
    std::set<int> expected;
    int64_t at = random.uniform(-20, 20);
    for (int64_t n = random.uniform(20); n > 0; --n) {
      at += random.uniform(3);
      const int64_t size = random.uniform(4);
      set.append({at, at + size});
      for (int64_t x = at; x < at + size; ++x) expected.insert(static_cast<int>(x));
      at += size;
      set.append({-100, -100});  // empty: ignored wherever it is
      ASSERT_TRUE(well_formed(set)) << to_string(set, 99);
    }
    ASSERT_EQ(members(set), expected);
  }
}

IntervalSet every_third(int count, int from = 0) {
  IntervalSet set;
  for (int i = 0; i < count; ++i) set.append({from + 3 * i, from + 3 * i + 1});
  return set;
}

// Copies and moves between sets that fit inside the object and sets that do not.
TEST(IntervalSet, CopiesAndMovesKeepTheValue) {
  for (int from = 0; from < 12; ++from) {
    for (int to = 0; to < 12; ++to) {
      const IntervalSet value = every_third(from);
      IntervalSet copy = every_third(to, 1);
      copy = value;
      EXPECT_EQ(copy, value);

      IntervalSet source = value;
      IntervalSet moved = every_third(to, 1);
      moved = std::move(source);
      EXPECT_EQ(moved, value);
      EXPECT_TRUE(source.empty());  // NOLINT: an emptied set is usable again
      source.unite(every_third(7, 2));
      EXPECT_EQ(source, every_third(7, 2));
      EXPECT_EQ(moved, value);

      IntervalSet third(std::move(moved));
      EXPECT_EQ(third, value);
      moved = every_third(to, 1);  // NOLINT
      EXPECT_EQ(moved, every_third(to, 1));
      moved.append({100, 101});
      EXPECT_EQ(moved.size(), to + 1);
      EXPECT_EQ(third, value);

      copy.clear();
      EXPECT_TRUE(copy.empty());
      copy.unite(value);
      EXPECT_EQ(copy, value);
    }
  }
}

TEST(IntervalSet, ASetMayBeItsOwnOperand) {
  for (int count : {0, 1, 4, 5, 9}) {
    const IntervalSet value = every_third(count);
    IntervalSet set = value;
    IntervalSet& same = set;
    set = same;
    EXPECT_EQ(set, value);
    set = std::move(same);
    EXPECT_EQ(set, value);
    set.unite(same);
    EXPECT_EQ(set, value);
    set = unite(set, set);
    EXPECT_EQ(set, value);
    set = intersect(set, set);
    EXPECT_EQ(set, value);
    set = subtract(set, set);
    EXPECT_TRUE(set.empty());
  }
}

TEST(IntervalSet, LargeNumbers) {
  const int64_t big = int64_t{1} << 60;
  const IntervalSet set({{-big, -big + 5}, {0, 2'000'000'000}, {big, big + 1}});
  EXPECT_EQ(set.size(), 2'000'000'006);
  EXPECT_EQ(set.rank_of(big + 1), 2'000'000'006);
  EXPECT_TRUE(set.contains(1'999'999'999));
  EXPECT_FALSE(set.contains(2'000'000'000));
}

TEST(IntervalSet, IsPrintedShort) {
  EXPECT_EQ(to_string(IntervalSet()), "none");
  EXPECT_EQ(to_string(IntervalSet({{0, 4}, {8, 12}})), "0..4, 8..12");
  EXPECT_EQ(to_string(every_third(4)), "0..1, 3..4, 6..7, 9..10");
  EXPECT_EQ(to_string(every_third(6)), "0..1, 3..4, 6..7, 9..10 and 2 more");
  EXPECT_EQ(to_string(every_third(3), 1), "0..1 and 2 more");
}

TEST(IntervalSet, TheExampleOfTheHeader) {
  IntervalSet a({{0, 4}, {8, 12}});
  a.unite({{4, 8}});
  EXPECT_EQ(a, IntervalSet(Range{0, 12}));
}

}  // namespace
}  // namespace weft
