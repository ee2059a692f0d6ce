// The order in which a tile of mesh.cc gets its blocks: what its writer and its closed form share.
#pragma once

#include <vector>

#include "weft/schedule/problem.h"

namespace weft::methods {

// Counted from the own block on, which is there from the first step.
struct MeshSteps {
  std::vector<int> query_steps;  // [width] the step from which the i-th block of queries of a row is there
  std::vector<int> key_steps;    // [height] the same for the j-th block of keys of a column
};
// Queries unlock as many blocks as there are keys, and the other way round; the more work per byte goes first.
MeshSteps make_mesh_steps(const AttentionShape& shape, int width, int height);

// The width that sends the least, forward and backward together: arXiv 2512.20968 leaves it to the user.
int best_mesh_width(const AttentionShape& shape, int ranks);

}  // namespace weft::methods
