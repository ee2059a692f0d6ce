// Interned sets: equal sets of token slots or heads have equal ids.
//
// Schedules name the same few sets over and over, so an instruction holds ids, comparing two sets is comparing two
// integers, and the results of set algebra are remembered. A pool belongs to one thread; every reading of a schedule
// has its own.
//
//   SetPool pool;
//   SetId shard = pool.intern(layout.shard(3));
//   pool.intersect(shard, pool.intern(Range{0, 100}));
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "weft/base/interval_set.h"

namespace weft {

enum class SetId : uint32_t { empty = 0 };

class SetPool {
 public:
  SetPool();
  SetPool(const SetPool&) = delete;
  SetPool& operator=(const SetPool&) = delete;

  SetId intern(const IntervalSet& set);
  // The set of an id. The reference stays valid as long as the pool.
  const IntervalSet& operator[](SetId id) const { return sets_[static_cast<size_t>(id)].set; }
  // Number of members, kept beside the set.
  int64_t size(SetId id) const { return sets_[static_cast<size_t>(id)].size; }

  SetId unite(SetId a, SetId b);
  SetId intersect(SetId a, SetId b);
  SetId subtract(SetId a, SetId b);
  bool intersects(SetId a, SetId b) { return intersect(a, b) != SetId::empty; }
  bool includes(SetId a, SetId b) { return intersect(a, b) == b; }
  // Heads: every member h becomes the `group` members h * group .. h * group + group - 1. kv heads to query heads.
  SetId expand(SetId heads, int64_t group);
  // The inverse, rounded outwards: every member h becomes h / group. Query heads to the kv heads they read.
  SetId contract(SetId heads, int64_t group);

  size_t count() const { return sets_.size(); }

 private:
  struct Entry {
    IntervalSet set;
    int64_t size;
    uint64_t hash;
  };
  enum class Operation : uint8_t { none, unite, intersect, subtract, expand, contract };
  // A direct-mapped memory of recent results: misses only cost time.
  struct Remembered {
    Operation operation = Operation::none;
    SetId a{}, result{};
    int64_t b = 0;
  };
  static constexpr size_t kRemembered = 1 << 12;

  template <typename F>
  SetId remember(Operation operation, SetId a, int64_t b, F&& compute);
  void grow();

  std::deque<Entry> sets_;
  std::vector<uint32_t> index_;  // open addressing: id + 1, or 0 where free
  std::vector<Remembered> remembered_;
};

}  // namespace weft
