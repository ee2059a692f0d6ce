#include "weft/kernels/band_pieces.h"

#include <algorithm>

namespace weft::kernels {
namespace {

void add(std::vector<BandPiece>& pieces, Range q, Range k, PieceShape shape) {
  if (!q.empty() && !k.empty()) pieces.push_back({q, k, shape});
}

// Keys are cut off above only. The band is shrunk, so the first query sees the first key.
void cut_above(const BandRectangle& b, std::vector<BandPiece>& pieces) {
  const int64_t square = b.q.begin + b.hi;            // the last key that the first query sees
  const int64_t last = b.q.begin + b.k.end - square;  // queries from here on see all keys
  add(pieces, {b.q.begin, last}, {b.k.begin, square}, PieceShape::full);
  add(pieces, {b.q.begin, last}, {square, b.k.end}, PieceShape::causal);
  add(pieces, {last, b.q.end}, b.k, PieceShape::full);
}

// Keys are cut off below only: the same from the other end.
void cut_below(const BandRectangle& b, std::vector<BandPiece>& pieces) {
  const int64_t square = b.q.end + b.lo;                 // one after the first key that the last query sees
  const int64_t first = b.q.end - (square - b.k.begin);  // queries before this one see all keys
  add(pieces, {b.q.begin, first}, b.k, PieceShape::full);
  add(pieces, {first, b.q.end}, {b.k.begin, square}, PieceShape::anti_causal);
  add(pieces, {first, b.q.end}, {square, b.k.end}, PieceShape::full);
}

void cut_all(const BandRectangle& band, std::vector<BandPiece>& pieces) {
  const BandRectangle b = shrink(band);
  if (b.q.empty()) return;
  const bool below = b.lo > b.k.begin - (b.q.end - 1), above = b.hi < b.k.end - 1 - b.q.begin;
  if (!below && !above) return add(pieces, b.q, b.k, PieceShape::full);
  if (!below) return cut_above(b, pieces);
  if (!above) return cut_below(b, pieces);
  // As many queries at once as the window has keys; then no key is near both ends of it.
  const int64_t window = b.hi - b.lo + 1;
  for (int64_t q = b.q.begin; q < b.q.end; q += window) {
    const Range strip{q, std::min(q + window, b.q.end)};
    const int64_t border = strip.end - 1 + b.lo;  // the first key that the last query sees
    cut_all(cut(b, strip, {b.k.begin, border}), pieces);
    cut_all(cut(b, strip, {border, b.k.end}), pieces);
  }
}

}  // namespace

std::vector<BandPiece> band_pieces(const BandRectangle& band) {
  std::vector<BandPiece> pieces;
  cut_all(band, pieces);
  return pieces;
}

}  // namespace weft::kernels
