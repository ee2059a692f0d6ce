// Band rectangles cut into shapes that any attention kernel has: everything allowed, or a square with a triangle.
//
//   q\k  .  .  .  .  .  .              full  causal       A kernel that knows only "causal" disagrees with another about
//    .   x  x  x  x                    [x x][x      ]     where the diagonal lies when queries and keys are not equally
//    .   x  x  x  x  x           =     [x x][x x    ]     many; in a square there is one answer. The other triangle, of
//    .   x  x  x  x  x  x              [...][x x x  ]     windows, is this one with queries and keys in reverse order.
#pragma once

#include <vector>

#include "weft/mask/band.h"

namespace weft::kernels {

enum class PieceShape : uint8_t {
  full,         // every query sees every key
  causal,       // a square: the i-th query sees the first i + 1 keys
  anti_causal,  // a square: the i-th query sees the keys from the i-th on
};

struct BandPiece {
  Range q, k;  // in every piece each query sees a key, and each key is seen
  PieceShape shape = PieceShape::full;
};

// Disjoint, and together exactly the pairs of the band. At most 3 without a window; with one of w keys, about 2 more for
// every w queries.
std::vector<BandPiece> band_pieces(const BandRectangle& band);

}  // namespace weft::kernels
