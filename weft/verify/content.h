// What a value holds, in the proof.
//
// A whole value is tracked by which of its elements are defined. An accumulating value holds contributions: rows
// (query head, own slot) each with the set of slots of the other axis that have been added. Rows of out and dq hold
// key slots; rows of dk and dv hold query slots, kept per *query* head, so that repeated or overlapping kv heads need
// no rule of their own. Rows that are not listed are still the identity.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "weft/schedule/instruction.h"

namespace weft::verify_internal {

// A product of heads and slots.
struct Box {
  SetId heads{};
  SetId own{};
};

// The defined part of a whole value `all`, as disjoint products. Most values become defined at once: such fields are
// remembered in one word. Also serves a collection of slices of no value in particular (`all` = {}).
class Defined {
 public:
  void clear() {
    complete_ = {};
    pieces_.reset();
  }
  // Adds a slice. False when some element of it was defined already.
  bool define(SetPool& pool, const Slice& slice, const Slice& all = {});
  // Whether these fields are defined for all rows and heads of the value. False proves nothing.
  bool is_complete(Fields fields) const { return complete_.includes(fields); }
  bool covers(SetPool& pool, const Slice& slice, const Slice& all = {}) const {
    return (complete_.includes(slice.fields) && is_inside(pool, slice, all)) || pieces_cover(pool, slice, all);
  }

 private:
  struct Piece {
    Fields fields;
    SetId heads{};
    IntervalSet tokens;
  };
  static bool is_inside(SetPool& pool, const Slice& slice, const Slice& all) {
    return pool.includes(all.tokens, slice.tokens) && pool.includes(all.heads, slice.heads);
  }
  std::span<const Piece> pieces() const {
    return pieces_ ? std::span<const Piece>(*pieces_) : std::span<const Piece>();
  }
  bool pieces_cover(SetPool& pool, const Slice& slice, const Slice& all) const;
  bool define_piece(SetPool& pool, const Slice& slice);
  // Moves what has become complete out of the pieces, and back before something is defined twice.
  void collect_complete(const SetPool& pool, const Slice& all);
  void spell_out_complete(const SetPool& pool, const Slice& all);

  Fields complete_;                             // defined for all rows and heads; in no piece
  std::unique_ptr<std::vector<Piece>> pieces_;  // null while there is none, as nearly always
};

// The contributions in an accumulating value.
class Contributions {
 public:
  void clear() { pieces_.clear(); }

  // Adds slots `other` to every row of the box. Calls twice(Box, IntervalSet) for rows that held some of them already.
  template <typename F>
  void add(SetPool& pool, Box box, const IntervalSet& other, F&& twice);

  // Calls f(Box, const IntervalSet& other) for the rows of the box that hold something.
  template <typename F>
  void for_each(SetPool& pool, Box box, F&& f) const;

  // Calls f(Box) for the rows of the box that hold nothing.
  template <typename F>
  void for_each_empty(SetPool& pool, Box box, F&& f) const;

 private:
  struct Piece {
    Box box;
    IntervalSet other;
  };
  // Puts a piece that overlaps no other, joined to an equal neighbour where there is one.
  void put(SetPool& pool, Box box, const IntervalSet& other);
  template <typename F>
  void add_from(SetPool& pool, size_t from, Box box, const IntervalSet& other, F&& twice);
  template <typename F>
  void empty_from(SetPool& pool, size_t from, Box box, F&& f) const;

  std::vector<Piece> pieces_;
};

inline bool is_empty(const Box& box) { return box.heads == SetId::empty || box.own == SetId::empty; }
inline Box meet(SetPool& pool, const Box& a, const Box& b) {
  return {pool.intersect(a.heads, b.heads), pool.intersect(a.own, b.own)};
}

template <typename F>
void Contributions::add(SetPool& pool, Box box, const IntervalSet& other, F&& twice) {
  if (!is_empty(box) && !other.empty()) add_from(pool, 0, box, other, twice);
}

template <typename F>
void Contributions::add_from(SetPool& pool, size_t from, Box box, const IntervalSet& other, F&& twice) {
  for (size_t i = from; i < pieces_.size(); ++i) {
    const Box both = meet(pool, pieces_[i].box, box);
    if (is_empty(both)) continue;
    if (pieces_[i].other.intersects(other)) twice(both, intersect(pieces_[i].other, other));
    const Box old = pieces_[i].box;
    if (both.heads != old.heads || both.own != old.own) {
      // Cut the old piece: what lies outside keeps its content.
      const IntervalSet kept = pieces_[i].other;
      const Box beside{pool.subtract(old.heads, both.heads), old.own};
      const Box above{both.heads, pool.subtract(old.own, both.own)};
      pieces_[i].box = both;
      if (!is_empty(beside)) pieces_.push_back({beside, kept});
      if (!is_empty(above)) pieces_.push_back({above, kept});
    }
    pieces_[i].other.unite(other);
    // What of the new box lies outside may meet later pieces.
    const Box beside{pool.subtract(box.heads, both.heads), box.own};
    const Box above{both.heads, pool.subtract(box.own, both.own)};
    if (!is_empty(beside)) add_from(pool, i + 1, beside, other, twice);
    if (!is_empty(above)) add_from(pool, i + 1, above, other, twice);
    return;
  }
  put(pool, box, other);
}

template <typename F>
void Contributions::for_each(SetPool& pool, Box box, F&& f) const {
  for (const Piece& piece : pieces_) {
    const Box both = meet(pool, piece.box, box);
    if (!is_empty(both)) f(both, piece.other);
  }
}

template <typename F>
void Contributions::for_each_empty(SetPool& pool, Box box, F&& f) const {
  if (!is_empty(box)) empty_from(pool, 0, box, f);
}

template <typename F>
void Contributions::empty_from(SetPool& pool, size_t from, Box box, F&& f) const {
  for (size_t i = from; i < pieces_.size(); ++i) {
    const Box both = meet(pool, pieces_[i].box, box);
    if (is_empty(both)) continue;
    const Box beside{pool.subtract(box.heads, both.heads), box.own};
    const Box above{both.heads, pool.subtract(box.own, both.own)};
    if (!is_empty(beside)) empty_from(pool, i + 1, beside, f);
    if (!is_empty(above)) empty_from(pool, i + 1, above, f);
    return;
  }
  f(box);
}

}  // namespace weft::verify_internal
