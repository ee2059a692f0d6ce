// Linear attention without decay whose tokens read all of their document: out = scale * q R, R the sum of k v^T over it.
//
//   forward   the state of what the rank has of each document that it shares; the sum of those of all its ranks; out of that
//   backward  dq of the same sum and dout; the sum of the gradients of R likewise, and dk, dv of it
//
// Documents that lie on one rank are scanned meanwhile. Nothing waits for anything but the sum, and there are two ways to it.
#pragma once

#include "weft/methods/linear/fragments.h"

namespace weft::methods {

enum class Sum : uint8_t {
  gathered,  // every rank fetches all states of the document and adds them: (P-1) n bytes from each of P ranks, one exchange
  reduced,  // each adds a share of the heads, and fetches the others' sums: 2 (P-1)/P n from each, two exchanges
};

Steps write_both_ways(SharedFragments fragments, Sum sum, Builder& b);

}  // namespace weft::methods
