#include "weft/base/interval_set.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace weft {
namespace {

constexpr size_t kMany = 16;
constexpr size_t kSearch = 4;  // so many times as long a list is searched for each interval, not walked along

// The first of the intervals whose end lies behind x, or the end of the list.
const Range* first_ending_after(std::span<const Range> all, int64_t x) {
  return std::upper_bound(all.data(), all.data() + all.size(), x, [](int64_t v, const Range& r) { return v < r.end; });
}

}  // namespace

IntervalSet::IntervalSet(std::span<const Range> ranges) {
  bool ordered = true;
  int64_t end = std::numeric_limits<int64_t>::min();
  for (const Range& range : ranges) {
    if (range.empty()) continue;  // its bounds say nothing: {12, 2} is empty too
    ordered &= end <= range.begin;
    end = range.end;
  }
  if (ordered) {
    for (const Range& range : ranges) append(range);
    return;
  }
  std::vector<Range> sorted(ranges.begin(), ranges.end());
  std::erase_if(sorted, [](const Range& range) { return range.empty(); });
  std::sort(sorted.begin(), sorted.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  for (const Range& range : sorted) {
    if (count_ > 0 && range.begin <= data()[count_ - 1].end) {
      data()[count_ - 1].end = std::max(data()[count_ - 1].end, range.end);
    } else {
      append(range);
    }
  }
}

bool IntervalSet::contains(int64_t x) const {
  const auto all = ranges();
  const auto next = std::upper_bound(all.begin(), all.end(), x, [](int64_t v, const Range& r) { return v < r.begin; });
  return next != all.begin() && x < std::prev(next)->end;
}

bool IntervalSet::includes(const IntervalSet& other) const {
  const auto all = ranges();
  auto it = all.begin();
  for (const Range& range : other.ranges()) {
    while (it != all.end() && it->end < range.end) ++it;
    if (it == all.end() || it->begin > range.begin) return false;
  }
  return true;
}

bool IntervalSet::intersects(const IntervalSet& other) const {
  const auto a = ranges(), b = other.ranges();
  if (a.size() < b.size()) return other.intersects(*this);
  if (a.size() > kSearch * b.size()) {
    std::span<const Range> left = a;  // b ascends, and so do the places
    for (const Range& range : b) {
      const Range* const next = first_ending_after(left, range.begin);
      if (next == left.data() + left.size()) return false;
      if (next->begin < range.end) return true;
      left = left.subspan(static_cast<size_t>(next - left.data()));
    }
    return false;
  }
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    if (std::max(a[i].begin, b[j].begin) < std::min(a[i].end, b[j].end)) return true;
    a[i].end < b[j].end ? ++i : ++j;
  }
  return false;
}

int64_t IntervalSet::rank_of(int64_t x) const {
  int64_t rank = 0;
  for (const Range& range : ranges()) {
    if (range.begin >= x) break;
    rank += std::min(range.end, x) - range.begin;
  }
  return rank;
}

void IntervalSet::unite(const IntervalSet& other) {
  constexpr size_t kFew = 4;  // beyond, one pass over both beats an insertion each
  if (this == &other) return;
  const auto theirs = other.ranges();
  if (theirs.size() <= kFew || empty() || hull().end <= theirs[0].begin) {
    for (const Range& range : theirs) unite(range);
  } else {
    merge(theirs);
  }
}

// What lies between two of theirs moves as a whole, and what lies before all of them not at all.
void IntervalSet::merge(std::span<const Range> theirs) {
  thread_local std::vector<Range> joined;
  joined.clear();
  const auto mine = ranges();
  const auto first_touching = [&](size_t from, int64_t begin) {  // the first whose end reaches `begin`
    return static_cast<size_t>(first_ending_after(mine.subspan(from), begin - 1) - mine.data());
  };
  const size_t start = first_touching(0, theirs[0].begin);
  size_t next = start;
  for (size_t i = 0; i < theirs.size();) {
    const size_t touching = first_touching(next, theirs[i].begin);
    joined.insert(joined.end(), mine.data() + next, mine.data() + touching);
    next = touching;
    Range grown = theirs[i++];
    while (true) {  // all of both lists that the interval reaches by now
      if (next < mine.size() && mine[next].begin <= grown.end) {
        grown = {std::min(grown.begin, mine[next].begin), std::max(grown.end, mine[next].end)};
        ++next;
      } else if (i < theirs.size() && theirs[i].begin <= grown.end) {
        grown.end = std::max(grown.end, theirs[i++].end);
      } else {
        break;
      }
    }
    joined.push_back(grown);
  }
  joined.insert(joined.end(), mine.data() + next, mine.data() + mine.size());
  const auto all = static_cast<uint32_t>(start + joined.size());
  if (all > capacity_) reserve(std::max(all, 2 * capacity_));
  std::copy(joined.begin(), joined.end(), data() + start);
  count_ = all;
}

void IntervalSet::unite(Range range) {
  if (range.empty()) return;
  if (count_ == 0 || data()[count_ - 1].end < range.begin) return append(range);
  // [first, last): the intervals that overlap or touch the range. Looked for from the end, where sets mostly grow.
  Range* const all = data();
  uint32_t last = count_;
  if (count_ > kMany && all[count_ - kMany].begin > range.end) {
    last = static_cast<uint32_t>(first_ending_after(ranges(), range.end) - all);
    last += last < count_ && all[last].begin <= range.end ? 1 : 0;
  }
  while (last > 0 && all[last - 1].begin > range.end) --last;
  uint32_t first = last;
  while (first > 0 && all[first - 1].end >= range.begin) --first;
  if (first < last) {
    all[first] = {std::min(all[first].begin, range.begin), std::max(all[last - 1].end, range.end)};
    std::copy(all + last, all + count_, all + first + 1);
    count_ -= last - first - 1;
    return;
  }
  if (count_ == capacity_) reserve(2 * capacity_);
  Range* const moved = data();
  std::copy_backward(moved + first, moved + count_, moved + count_ + 1);
  moved[first] = range;
  ++count_;
}

void IntervalSet::reserve(uint32_t capacity) {
  if (capacity <= capacity_) return;
  auto larger = std::make_unique<Range[]>(capacity);
  std::copy(data(), data() + count_, larger.get());
  heap_ = std::move(larger);
  capacity_ = capacity;
}

bool operator==(const IntervalSet& a, const IntervalSet& b) {
  const auto x = a.ranges(), y = b.ranges();
  return std::equal(x.begin(), x.end(), y.begin(), y.end());
}

IntervalSet unite(const IntervalSet& a, const IntervalSet& b) {
  const auto x = a.ranges(), y = b.ranges();
  IntervalSet result;
  Range open{0, -1};  // the interval being grown; none while end < begin
  const auto add = [&](const Range& range) {
    if (open.end < open.begin) {
      open = range;
    } else if (range.begin <= open.end) {
      open.end = std::max(open.end, range.end);
    } else {
      result.append(open);
      open = range;
    }
  };
  size_t i = 0, j = 0;
  while (i < x.size() || j < y.size()) {
    const bool first = j == y.size() || (i < x.size() && x[i].begin <= y[j].begin);
    add(first ? x[i++] : y[j++]);
  }
  result.append(open);
  return result;
}

IntervalSet intersect(const IntervalSet& a, const IntervalSet& b) {
  const auto x = a.ranges(), y = b.ranges();
  IntervalSet result;
  for (size_t i = 0, j = 0; i < x.size() && j < y.size();) {
    result.append(intersect(x[i], y[j]));
    x[i].end < y[j].end ? ++i : ++j;
  }
  return result;
}

IntervalSet subtract(const IntervalSet& a, const IntervalSet& b) {
  const auto x = a.ranges(), y = b.ranges();
  IntervalSet result;
  size_t j = 0;
  for (Range range : x) {
    while (j < y.size() && y[j].end <= range.begin) ++j;
    for (size_t t = j; t < y.size() && y[t].begin < range.end; ++t) {
      result.append({range.begin, y[t].begin});
      range.begin = std::max(range.begin, y[t].end);
    }
    result.append(range);
  }
  return result;
}

std::string to_string(const IntervalSet& set, int limit) {
  if (set.empty()) return "none";
  std::string text;
  const auto ranges = set.ranges();
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (static_cast<int>(i) == limit) {
      return text + " and " + std::to_string(ranges.size() - i) + " more";
    }
    if (i > 0) text += ", ";
    text += std::to_string(ranges[i].begin) + ".." + std::to_string(ranges[i].end);
  }
  return text;
}

}  // namespace weft
