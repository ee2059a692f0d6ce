// The recurrence of a linear layer, token by token on one processor: the reference that checks compare with.
//
// No chunks, no runs, no ranks, no schedule: the recurrence of each layer as docs/linear.md states it, and the chain rule
// backwards over the same steps. With one document or packed ones.
#pragma once

#include <cstdint>
#include <vector>

#include "weft/base/dtype.h"
#include "weft/base/stop.h"
#include "weft/schedule/problem.h"

namespace weft {

// Row-major [tokens, heads, columns] in global token order, q and k of Problem::key_heads where these are fewer. What the layer
// does not have may be empty, dout for forward only.
struct RecurrenceInputs {
  std::vector<double> q, k, v, dout;
  std::vector<double> g, beta, a, b;
  std::vector<double> u;  // [heads, dim]
  // [documents, heads, dim, dim_v], and a row for each state that is asked for; empty: zero.
  std::vector<double> initial_state, dfinal_state;
};

struct DenseRecurrence {
  std::vector<double> out;
  std::vector<double> dq, dk, dv;         // empty without dout
  std::vector<double> dg, dbeta, da, db;  // of the inputs that the layer has
  std::vector<double> final_state, dinitial_state;
  std::vector<double> du;

  const std::vector<double>& of(Field field) const;
};

// fp64, or fp32 for the sums and states of a lower precision. A fp32 run tells what the precision costs by itself.
DenseRecurrence dense_recurrence(const Problem& problem, const RecurrenceInputs& inputs, DType precision,
                                 const StopFlag* stop = nullptr);

}  // namespace weft
