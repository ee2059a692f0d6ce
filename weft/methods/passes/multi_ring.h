// Several rings at once: the keys of every rank are cut in as many pieces as there are rings, and piece i goes round
// ring i, so that in each step every rank sends to several others.
//
// What ranks need of one another's pieces is found once per schedule. Of what a rank owns others mostly need one of a few
// sets, "all" and "the first half" say; where on a ring each of them is met first and last tells what is needed ahead
// of any place and what was needed up to it.
#pragma once

#include <vector>

#include "weft/methods/passes/hamilton.h"
#include "weft/schedule/problem.h"
#include "weft/schedule/set_table.h"

namespace weft::methods {

// What ranks need of one piece: numbers of a few sets of rows. Number 0 is the empty set.
class PieceNeeds {
 public:
  PieceNeeds() = default;
  // `wanted` are the sets of rows that ranks want of the whole shard, nearest[k] and farthest[k] the distances, from the
  // owner along the ring, of the first and the last rank that wants the k-th: 1 to ranks - 1, or 0 where none does.
  PieceNeeds(const IntervalSet& piece, const std::vector<IntervalSet>& wanted, const std::vector<int>& nearest,
             const std::vector<int>& farthest, int ranks);

  const NamedSet& rows(int number) const { return sets_[static_cast<size_t>(number)]; }
  // By the ranks at least `distance` places after the owner, 1 to ranks.
  int ahead(int distance) const { return latest(ahead_, ranks_ - distance); }
  // By the ranks at most `distance` places after the owner, 0 to ranks - 1.
  int so_far(int distance) const { return latest(so_far_, distance); }
  // By a rank that wants the k-th set.
  int of_wanted(int k) const { return wanted_[static_cast<size_t>(k)]; }

 private:
  // A set that grows with a number: `set` from `begin` on, up to the next entry.
  struct Entry {
    int begin;
    int set;
  };
  static int latest(const std::vector<Entry>& entries, int number) {
    for (size_t i = entries.size(); i-- > 0;) {
      if (entries[i].begin <= number) return entries[i].set;
    }
    return 0;
  }
  int number_of(const IntervalSet& rows);
  // The growing unions of the wanted sets, each joining where its `begin` says; 0: nowhere.
  std::vector<Entry> grow(const std::vector<int>& begin);

  int ranks_ = 0;
  std::vector<NamedSet> sets_;
  std::vector<int> wanted_;
  std::vector<Entry> ahead_;   // by how many places before the owner
  std::vector<Entry> so_far_;  // by how many places after the owner
};

class MultiRing {
 public:
  // Each ring visits every rank of the problem once.
  MultiRing(const Problem& problem, std::vector<Tour> rings);

  int rings() const { return static_cast<int>(rings_.size()); }
  int ranks() const { return static_cast<int>(rings_[0].size()); }
  // Places on ring i: of a rank; `distance` after another one, negative: before it, no further than once round.
  int place_of(int i, int rank) const { return places_[at(i)][at(rank)]; }
  int place_after(int place, int distance) const {
    place += distance;
    return place < 0 ? place + ranks() : place >= ranks() ? place - ranks() : place;
  }
  int rank_at(int i, int place) const { return rings_[at(i)][at(place)]; }
  // What is needed of the piece that goes round ring i from the rank at a place on it, and by one rank.
  const PieceNeeds& needs(int i, int place) const { return needs_[at(i)][at(place)]; }
  int needed_by(int i, int place, int rank) const {
    return needs(i, place).of_wanted(wanted_by(rank_at(i, place), rank));
  }

 private:
  // What ranks want of an owner's whole shard: the sets, and which one up to a rank.
  struct Wanted {
    struct Ranks {
      int end;
      int set;
    };
    std::vector<IntervalSet> sets;
    std::vector<Ranks> ranks;
  };

  static size_t at(int i) { return static_cast<size_t>(i); }
  static Wanted find_wanted(const Problem& problem, int owner);
  int wanted_by(int owner, int rank) const;

  std::vector<Tour> rings_;
  std::vector<std::vector<int>> places_;        // of each ring: the place of every rank
  std::vector<Wanted> wanted_;                  // of each owner
  std::vector<std::vector<PieceNeeds>> needs_;  // of each ring, by the owner's place on it: what a step reads is near
};

}  // namespace weft::methods
