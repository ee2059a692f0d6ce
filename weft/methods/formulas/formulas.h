// The closed forms of methods, by the writer that they belong to. Parameters are what the writer takes besides a problem;
// `own_layout` is the one that the method is published with.
#pragma once

#include "weft/methods/formula.h"
#include "weft/methods/passes/gather_pass.h"
#include "weft/methods/passes/head_exchange.h"

namespace weft::methods {

// `block`: tokens dealt at a time, when the own layout is striped.
Formula ring_formula(const Configuration& c, std::string_view own_layout, int direction, int64_t block = 1);
Formula gather_formula(const Configuration& c, std::string_view own_layout, GatherPieces how);
// `order`: the layout of places.
Formula head_exchange_formula(const Configuration& c, const HeadGridShape& shape, std::string_view order);
Formula token_ring_formula(const Configuration& c);
Formula lightseq_formula(const Configuration& c);
Formula mesh_formula(const Configuration& c, int width);
Formula burst_formula(const Configuration& c, int nodes, bool moves_queries);
Formula rsa_formula(const Configuration& c);
// Teams of `size` ranks, adjacent or not.
Formula mercury_formula(const Configuration& c, int size, bool adjacent, int direction);
// `joined`: whether the pieces that a rank holds in a step lie in one value.
Formula tasp_formula(const Configuration& c, int nodes, int rings, bool joined);
Formula tree_formula(const Configuration& c, int64_t fan_in);

}  // namespace weft::methods
