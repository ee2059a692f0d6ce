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
  IntervalSet(Range range) { append(range); }
  // Any order, overlaps allowed.
  explicit IntervalSet(std::span<const Range> ranges);
  IntervalSet(std::initializer_list<Range> ranges) : IntervalSet(std::span(ranges.begin(), ranges.size())) {}
  IntervalSet(const IntervalSet& other) { assign(other.ranges()); }
  IntervalSet(IntervalSet&& other) noexcept { take(other); }
  IntervalSet& operator=(const IntervalSet& other) {
    if (this != &other) assign(other.ranges());
    return *this;
  }
  IntervalSet& operator=(IntervalSet&& other) noexcept {
    if (this != &other) take(other);
    return *this;
  }

  // Sorted, disjoint, not touching, none empty.
  std::span<const Range> ranges() const { return {data(), count_}; }
  bool empty() const { return count_ == 0; }
  int64_t size() const;  // number of integers
  // Smallest range that holds the set; {} when empty.
  Range hull() const { return empty() ? Range{} : Range{data()[0].begin, data()[count_ - 1].end}; }
  bool contains(int64_t x) const;
  bool includes(const IntervalSet& other) const;
  bool intersects(const IntervalSet& other) const;
  // How many members are smaller than x: the row of x in a list of the members.
  int64_t rank_of(int64_t x) const;

  void clear() { count_ = 0; }
  // Adds a range that begins at or after the end of the last one: O(1). Empty ranges are ignored.
  void append(Range range);
  void unite(const IntervalSet& other);
  void unite(Range range);

  friend bool operator==(const IntervalSet& a, const IntervalSet& b);

 private:
  static constexpr uint32_t kInline = 4;

  const Range* data() const { return heap_ ? heap_.get() : inline_; }
  Range* data() { return heap_ ? heap_.get() : inline_; }
  void reserve(uint32_t capacity);
  void assign(std::span<const Range> ranges);
  void take(IntervalSet& other) noexcept;

  uint32_t count_ = 0;
  uint32_t capacity_ = kInline;
  Range inline_[kInline];
  std::unique_ptr<Range[]> heap_;
};

IntervalSet unite(const IntervalSet& a, const IntervalSet& b);
IntervalSet intersect(const IntervalSet& a, const IntervalSet& b);
IntervalSet subtract(const IntervalSet& a, const IntervalSet& b);

// "0..4, 8..12", half-open; "none" when empty; at most `limit` intervals, then how many more.
std::string to_string(const IntervalSet& set, int limit = 4);

}  // namespace weft
