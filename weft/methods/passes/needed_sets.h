// What members of a ring need of one another, found once per schedule instead of once per question.
//
//   NeededSets ahead(ranks, Growing::yes, [&](int owner, int count) { ... });    // of `owner`, by `count` members
//   const Set rows = ahead.at(b, owner, count);
//
// Every rank of a ring asks for sets that belong to (owner, number), and neighbours ask the same. Along the numbers
// such sets rarely change (a causal ring: at the wrap), so a row is kept as its few runs of equal sets. Rows of more
// runs than that, as packed documents make them, are not kept: their sets are computed when they are asked for.
#pragma once

#include <functional>
#include <vector>

#include "weft/schedule/builder.h"

namespace weft::methods {

// Whether a row's sets only grow from one number to the next; then equal ends prove that all between are equal.
enum class Growing : bool { no, yes };

class NeededSets {
 public:
  using Query = std::function<IntervalSet(int owner, int number)>;

  NeededSets() = default;
  // Owners and numbers are 0 .. size - 1. `query` stays in use.
  NeededSets(int size, Growing growing, Query query);

  bool empty() const { return rows_.empty(); }
  // The set of an owner and a number: one that is kept, or else computed now.
  Set at(Builder& b, int owner, int number) const {
    for (const Run& run : rows_[static_cast<size_t>(owner)]) {
      if (number < run.end) return b.set(run.set);
    }
    return b.set(query_(owner, number));
  }

 private:
  struct Run {
    int end;  // of the numbers that have this set
    NamedSet set;
  };
  static constexpr size_t kMostRuns = 8;
  // The first number after `begin` whose set is not `set`, or size.
  int end_of_run(int owner, int begin, int size, Growing growing, const IntervalSet& set) const;

  Query query_;
  std::vector<std::vector<Run>> rows_;  // of each owner, in ascending order; empty where not kept
};

}  // namespace weft::methods
