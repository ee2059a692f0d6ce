#include "weft/verify/content.h"

namespace weft::verify_internal {

bool Defined::define(SetPool& pool, const Slice& slice, const Slice& all) {
  if (!(complete_ & slice.fields).empty()) spell_out_complete(pool, all);  // defined twice, unless it lies outside
  const bool everything = slice.tokens == all.tokens && slice.heads == all.heads && all.tokens != SetId::empty;
  if (everything && pieces().empty()) {
    complete_ = complete_ | slice.fields;
    return true;
  }
  if (!pieces_) pieces_ = std::make_unique<std::vector<Piece>>();
  const bool once = define_piece(pool, slice);
  if (once && all.tokens != SetId::empty) collect_complete(pool, all);
  return once;
}

void Defined::collect_complete(const SetPool& pool, const Slice& all) {
  std::erase_if(*pieces_, [&](const Piece& piece) {
    if (piece.heads != all.heads || !(piece.tokens == pool[all.tokens])) return false;
    complete_ = complete_ | piece.fields;
    return true;
  });
}

void Defined::spell_out_complete(const SetPool& pool, const Slice& all) {
  if (!pieces_) pieces_ = std::make_unique<std::vector<Piece>>();
  pieces_->insert(pieces_->begin(), {complete_, all.heads, pool[all.tokens]});
  complete_ = {};
}

bool Defined::define_piece(SetPool& pool, const Slice& slice) {
  const IntervalSet& tokens = pool[slice.tokens];
  bool once = true;
  for (const Piece& piece : *pieces_) {
    if ((piece.fields & slice.fields).empty() || !pool.intersects(piece.heads, slice.heads)) continue;
    if (piece.tokens.hull().end <= tokens.hull().begin) continue;  // the usual case: slices come in order
    once &= !piece.tokens.intersects(tokens);
  }
  for (Piece& piece : *pieces_) {
    if (!(piece.fields == slice.fields)) continue;
    if (piece.heads == slice.heads) {
      piece.tokens.unite(tokens);
      return once;
    }
    if (piece.tokens == tokens) {
      piece.heads = pool.unite(piece.heads, slice.heads);
      return once;
    }
  }
  pieces_->push_back({slice.fields, slice.heads, tokens});
  return once;
}

bool Defined::pieces_cover(SetPool& pool, const Slice& slice, const Slice& all) const {
  const IntervalSet& tokens = pool[slice.tokens];
  for (const Piece& piece : pieces()) {
    if (piece.fields.includes(slice.fields) && pool.includes(piece.heads, slice.heads) &&
        piece.tokens.includes(tokens)) {
      return true;
    }
  }
  // Several pieces together: count elements, since pieces do not overlap.
  bool covered = true;
  slice.fields.for_each([&](Field field) {
    int64_t count = 0;
    if (complete_.has(field)) {
      count = pool.size(pool.intersect(all.tokens, slice.tokens)) * pool.size(pool.intersect(all.heads, slice.heads));
    }
    for (const Piece& piece : pieces()) {
      if (!piece.fields.has(field)) continue;
      count += intersect(piece.tokens, tokens).size() * pool.size(pool.intersect(piece.heads, slice.heads));
    }
    covered &= count >= tokens.size() * pool.size(slice.heads);
  });
  return covered;
}

void Contributions::put(SetPool& pool, Box box, const IntervalSet& other) {
  for (Piece& piece : pieces_) {
    if (!(piece.other == other)) continue;
    if (piece.box.heads == box.heads) {
      piece.box.own = pool.unite(piece.box.own, box.own);
      return;
    }
    if (piece.box.own == box.own) {
      piece.box.heads = pool.unite(piece.box.heads, box.heads);
      return;
    }
  }
  pieces_.push_back({box, other});
}

}  // namespace weft::verify_internal
