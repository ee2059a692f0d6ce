// The closed forms of methods of linear layers, by the writer that they belong to.
#pragma once

#include "weft/methods/formula.h"

namespace weft::methods {

Formula chain_formula(const Configuration& c, int64_t blocks);
Formula gather_state_formula(const Configuration& c);
Formula log_step_formula(const Configuration& c);
Formula hierarchical_formula(const Configuration& c, int64_t node);
Formula trade_heads_formula(const Configuration& c);

}  // namespace weft::methods
