// Some rows of a run, as a run. Private to this folder.
#pragma once

#include "weft/kernels/element.h"
#include "weft/kernels/linear/recurrence.h"

namespace weft::kernels::recurrence_internal {

template <typename AnyView>
AnyView from_row(AnyView view, int64_t row) {
  if (view.data) view.data = address(view, row, 0);
  return view;
}

// Rows begin .. end of the inputs; which documents they are of is the caller's to say.
inline TokenRun rows_of(const TokenRun& run, int64_t begin, int64_t end) {
  TokenRun part = run;
  for (ConstView TokenRun::*input :
       {&TokenRun::q, &TokenRun::k, &TokenRun::v, &TokenRun::g, &TokenRun::beta, &TokenRun::a, &TokenRun::b})
    part.*input = from_row(run.*input, begin);
  part.rows = end - begin;
  part.starts = {}, part.asked = {};
  part.ends = false;
  return part;
}

// The sums of these rows; of initial states, from this one of the run's starts on.
inline RunGradients rows_of(const RunGradients& all, int64_t begin, int64_t start) {
  RunGradients part = all;
  for (View RunGradients::*sums : {&RunGradients::dq, &RunGradients::dk, &RunGradients::dv, &RunGradients::dg,
                                   &RunGradients::dbeta, &RunGradients::da, &RunGradients::db})
    part.*sums = from_row(all.*sums, begin);
  part.dinitial = from_row(all.dinitial, start);
  return part;
}

}  // namespace weft::kernels::recurrence_internal
