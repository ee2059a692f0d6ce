// Interned sets: equal sets of token slots or heads have equal ids.
//
// Schedules name the same few sets over and over, so an instruction holds ids, comparing two sets is comparing two
// integers, and the results of set algebra are remembered. A pool belongs to one thread; every reading of a schedule
// has its own. Threads that read one schedule together have pools of one table.
//
//   SetPool pool;
//   SetId shard = pool.intern(layout.shard(3));
//   pool.intersect(shard, pool.intern(Range{0, 100}));
#pragma once

#include <bit>
#include <cstdint>
#include <memory>
#include <vector>

#include "weft/schedule/set_table.h"

namespace weft {

class SetPool {
 public:
  SetPool() : SetPool(std::make_shared<SetTable>()) {}
  explicit SetPool(std::shared_ptr<SetTable> table) : table_(std::move(table)), remembered_(kRemembered) {}
  SetPool(const SetPool&) = delete;
  SetPool& operator=(const SetPool&) = delete;

  SetId intern(const IntervalSet& set) { return table_->intern(set); }
  SetId intern(const NamedSet& set) { return set.id(*table_); }
  // The set of an id. The reference stays valid as long as the table.
  const IntervalSet& operator[](SetId id) const { return (*table_)[id]; }
  // Number of members, kept beside the set.
  int64_t size(SetId id) const { return table_->size(id); }

  SetId unite(SetId a, SetId b) {
    if (a == b || b == SetId::empty) return a;
    return a == SetId::empty ? b : remember(Operation::unite, a, static_cast<uint32_t>(b));
  }
  SetId intersect(SetId a, SetId b) {
    if (a == b) return a;
    if (a == SetId::empty || b == SetId::empty) return SetId::empty;
    return remember(Operation::intersect, a, static_cast<uint32_t>(b));
  }
  SetId subtract(SetId a, SetId b) {
    if (a == b || a == SetId::empty) return SetId::empty;
    return b == SetId::empty ? a : remember(Operation::subtract, a, static_cast<uint32_t>(b));
  }
  bool intersects(SetId a, SetId b) { return intersect(a, b) != SetId::empty; }
  bool includes(SetId a, SetId b) {
    if (a == b || b == SetId::empty) return true;
    return size(a) > size(b) && remember(Operation::includes, a, static_cast<uint32_t>(b)) != SetId::empty;
  }
  // Heads: every member h becomes the `group` members h * group .. h * group + group - 1. kv heads to query heads.
  SetId expand(SetId heads, int64_t group) {
    return group == 1 ? heads : remember(Operation::expand, heads, static_cast<uint32_t>(group));
  }
  // The inverse, rounded outwards: every member h becomes h / group. Query heads to the kv heads they read.
  SetId contract(SetId heads, int64_t group) {
    return group == 1 ? heads : remember(Operation::contract, heads, static_cast<uint32_t>(group));
  }

  size_t count() const { return table_->count(); }

 private:
  enum class Operation : uint8_t { none, unite, intersect, subtract, includes, expand, contract };
  // A direct-mapped memory of recent results: misses only cost time. `b` is a set or a group size.
  struct Remembered {
    Operation operation = Operation::none;
    SetId a{};
    uint32_t b = 0;
    SetId result{};
  };
  static constexpr size_t kRemembered = 1 << 13;

  SetId remember(Operation operation, SetId a, uint32_t b) {
    Remembered& known = remembered_[place_of(operation, a, b)];
    if (known.operation != operation || known.a != a || known.b != b) {
      known = {operation, a, b, compute(operation, a, b)};
    }
    return known.result;
  }
  static size_t place_of(Operation operation, SetId a, uint32_t b) {
    uint64_t key =
        (static_cast<uint64_t>(a) << 32) ^ (static_cast<uint64_t>(b) << 3) ^ static_cast<uint64_t>(operation);
    key *= 0x9e3779b97f4a7c15u;
    return key >> (64 - std::countr_zero(kRemembered));
  }
  // Of `includes`: b if it is so, else the empty set.
  SetId compute(Operation operation, SetId a, uint32_t b);

  std::shared_ptr<SetTable> table_;
  std::vector<Remembered> remembered_;
};

}  // namespace weft
