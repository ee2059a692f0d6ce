// Sets of integers as sorted lists of half-open intervals: token slots, heads.
//
//   IntervalSet a({{0, 4}, {8, 12}});
//   a.unite({{4, 8}});                       // {0..12}
//   subtract(a, b), intersect(a, b), unite(a, b)
//
// Lists of up to four intervals live inside the object: schedules keep millions of them and rarely need more.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "weft/base/range.h"

namespace weft {

class IntervalSet {
 public:
  IntervalSet() = default;
  IntervalSet(Range range) : count_(range.empty() ? 0 : 1) { inline_[0] = range; }
  // Any order, overlaps allowed.
  explicit IntervalSet(std::span<const Range> ranges);
  IntervalSet(std::initializer_list<Range> ranges) : IntervalSet(std::span(ranges.begin(), ranges.size())) {}
  IntervalSet(const IntervalSet& other) { assign(other); }
  IntervalSet(IntervalSet&& other) noexcept { take(other); }
  IntervalSet& operator=(const IntervalSet& other) {
    if (this != &other) assign(other);
    return *this;
  }
  IntervalSet& operator=(IntervalSet&& other) noexcept {
    if (this != &other) take(other);
    return *this;
  }

  // Sorted, disjoint, not touching, none empty.
  std::span<const Range> ranges() const { return {data(), count_}; }
  bool empty() const { return count_ == 0; }
  int64_t size() const {  // number of integers
    int64_t sum = 0;
    for (const Range& range : ranges()) sum += range.end - range.begin;
    return sum;
  }
  // Smallest range that holds the set; {} when empty.
  Range hull() const { return empty() ? Range{} : Range{data()[0].begin, data()[count_ - 1].end}; }
  bool contains(int64_t x) const;
  bool includes(const IntervalSet& other) const;
  bool intersects(const IntervalSet& other) const;
  // How many members are smaller than x: the row of x in a list of the members.
  int64_t rank_of(int64_t x) const;

  void clear() { count_ = 0; }
  // Adds a range that begins at or after the end of the last one: O(1). Empty ranges are ignored.
  void append(Range range) {
    if (range.empty()) return;
    if (count_ > 0 && data()[count_ - 1].end == range.begin) {
      data()[count_ - 1].end = range.end;
      return;
    }
    if (count_ == capacity_) reserve(2 * capacity_);
    data()[count_++] = range;
  }
  // In place. Short sets, and ranges near the end of a long one, cost no more than a look at the list.
  void unite(const IntervalSet& other);
  void unite(Range range);

  friend bool operator==(const IntervalSet& a, const IntervalSet& b);

 private:
  static constexpr uint32_t kInline = 4;

  const Range* data() const { return heap_ ? heap_.get() : inline_; }
  Range* data() { return heap_ ? heap_.get() : inline_; }
  void reserve(uint32_t capacity);
  void merge(std::span<const Range> theirs);
  void assign(const IntervalSet& other);
  void take(IntervalSet& other) noexcept;

  uint32_t count_ = 0;
  uint32_t capacity_ = kInline;
  std::unique_ptr<Range[]> heap_;
  Range inline_[kInline];
};

inline void IntervalSet::assign(const IntervalSet& other) {
  if (other.count_ > capacity_) reserve(other.count_);
  const Range* from = other.data();
  Range* to = data();
  for (uint32_t i = 0; i < other.count_; ++i) to[i] = from[i];
  count_ = other.count_;
}

inline void IntervalSet::take(IntervalSet& other) noexcept {
  if (other.heap_) {
    heap_ = std::move(other.heap_);
    capacity_ = other.capacity_;
    count_ = other.count_;
    other.capacity_ = kInline;
  } else {
    assign(other);  // at most kInline, so it fits whatever this object holds
  }
  other.count_ = 0;
}

IntervalSet unite(const IntervalSet& a, const IntervalSet& b);
IntervalSet intersect(const IntervalSet& a, const IntervalSet& b);
IntervalSet subtract(const IntervalSet& a, const IntervalSet& b);

// "0..4, 8..12", half-open; "none" when empty; at most `limit` intervals, then how many more.
std::string to_string(const IntervalSet& set, int limit = 4);

}  // namespace weft
