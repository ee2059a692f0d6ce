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

// What ranks need of the pieces that go round one ring, by the place of a piece's owner. Ranks ask in every step and in
// turn, so that all of a piece lies close together, and beside the pieces of its neighbours.
class RingNeeds {
 public:
  explicit RingNeeds(int ranks) : ranks_(ranks), sets_(1, NamedSet({})), pieces_(1) {}

  // Adds the piece of the owner at the next place. `wanted` are the sets of rows that ranks want of its whole shard,
  // nearest[k] and farthest[k] the distances, from the owner along the ring, of the first and the last rank that wants
  // the k-th: 1 to ranks - 1, or 0 where none does.
  void add(const IntervalSet& piece, const std::vector<IntervalSet>& wanted, const std::vector<int>& nearest,
           const std::vector<int>& farthest);

  // By the ranks at least `distance` places after the owner, 1 to ranks.
  const NamedSet& ahead(int owner, int distance) const {
    return latest(piece(owner).ahead, piece(owner).so_far, ranks_ - distance);
  }
  // By the ranks at most `distance` places after the owner, 0 to ranks - 1.
  const NamedSet& so_far(int owner, int distance) const {
    return latest(piece(owner).so_far, piece(owner + 1).ahead, distance);
  }
  // By a rank that wants the k-th set.
  const NamedSet& of_wanted(int owner, int k) const { return sets_[at(wanted_[at(piece(owner).wanted + k)])]; }

 private:
  // A set that grows with a number: `set` from `begin` on, up to the next entry.
  struct Entry {
    int begin;
    int set;
  };
  // Where the entries of a piece begin, by how many places before the owner and by how many after it, and what is wanted.
  struct Piece {
    int ahead = 0, so_far = 0;
    int wanted = 0;
  };

  static size_t at(int i) { return static_cast<size_t>(i); }
  const Piece& piece(int owner) const { return pieces_[at(owner)]; }
  const NamedSet& latest(int begin, int end, int number) const {
    for (int i = end; i-- > begin;) {
      if (entries_[at(i)].begin <= number) return sets_[at(entries_[at(i)].set)];
    }
    return sets_[0];
  }
  // Among the sets from `first` on, those of the piece that is being added. The empty set is 0.
  int number_of(const IntervalSet& rows, size_t first);
  // Adds entries: the growing unions of the sets `wanted`, each joining where its `begin` says; 0: nowhere.
  void grow(const std::vector<int>& wanted, const std::vector<int>& begin, size_t first);

  int ranks_;
  std::vector<NamedSet> sets_;
  std::vector<Entry> entries_;
  std::vector<int> wanted_;    // numbers of sets
  std::vector<Piece> pieces_;  // and one behind the last
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
  // What is needed of the piece that goes round ring i from the rank at the place `owner`: by the ranks at least and at
  // most `distance` places after it, and by one rank.
  const NamedSet& ahead(int i, int owner, int distance) const { return needs_[at(i)].ahead(owner, distance); }
  const NamedSet& so_far(int i, int owner, int distance) const { return needs_[at(i)].so_far(owner, distance); }
  const NamedSet& needed_by(int i, int owner, int rank) const {
    return needs_[at(i)].of_wanted(owner, wanted_by(rank_at(i, owner), rank));
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
  void add_needs(size_t i, int owner, const IntervalSet& piece);

  std::vector<Tour> rings_;
  std::vector<std::vector<int>> places_;  // of each ring: the place of every rank
  std::vector<Wanted> wanted_;            // of each owner
  std::vector<RingNeeds> needs_;          // of each ring
};

}  // namespace weft::methods
