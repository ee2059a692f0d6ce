#include "weft/kernels/band_pieces.h"

#include <gtest/gtest.h>

#include <map>

namespace weft::kernels {
namespace {

bool allows(const BandPiece& piece, int64_t q, int64_t k) {
  const int64_t i = q - piece.q.begin, j = k - piece.k.begin;
  return piece.shape == PieceShape::full || (piece.shape == PieceShape::causal ? j <= i : j >= i);
}

void expect_exact(const BandRectangle& band) {
  std::map<std::pair<int64_t, int64_t>, int> seen;
  for (const BandPiece& piece : band_pieces(band)) {
    ASSERT_FALSE(piece.q.empty() || piece.k.empty());
    if (piece.shape != PieceShape::full) {
      ASSERT_EQ(piece.q.size(), piece.k.size());
    }
    for (int64_t q = piece.q.begin; q < piece.q.end; ++q) {
      for (int64_t k = piece.k.begin; k < piece.k.end; ++k) {
        if (allows(piece, q, k)) ++seen[{q, k}];
      }
    }
  }
  int64_t area = 0;
  for (const auto& [pair, times] : seen) {
    ASSERT_EQ(times, 1);
    ASSERT_TRUE(band.contains(pair.first, pair.second));
    ++area;
  }
  ASSERT_EQ(area, band.area());
}

TEST(BandPieces, EverySmallBand) {
  for (int64_t rows = 0; rows <= 6; ++rows) {
    for (int64_t keys = 0; keys <= 6; ++keys) {
      for (const int64_t at : {0, 3}) {
        for (int64_t lo = -9; lo <= 9; ++lo) {
          for (int64_t hi = lo - 1; hi <= 9; ++hi) {
            expect_exact({.q = {2, 2 + rows}, .k = {at, at + keys}, .lo = lo, .hi = hi});
          }
          expect_exact({.q = {2, 2 + rows}, .k = {at, at + keys}, .lo = lo});
          expect_exact({.q = {2, 2 + rows}, .k = {at, at + keys}, .hi = lo});
        }
        expect_exact({.q = {2, 2 + rows}, .k = {at, at + keys}});
      }
    }
  }
}

TEST(BandPieces, AreFew) {
  EXPECT_EQ(band_pieces({.q = {0, 100}, .k = {0, 100}, .hi = 0}).size(), 1u);
  EXPECT_EQ(band_pieces({.q = {50, 100}, .k = {0, 90}, .hi = 0}).size(), 3u);
  // 1,000 queries, windows of 100 keys: for each 100 queries a triangle on either side.
  EXPECT_LE(band_pieces({.q = {0, 1000}, .k = {0, 1000}, .lo = -99, .hi = 0}).size(), 21u);
}

}  // namespace
}  // namespace weft::kernels
