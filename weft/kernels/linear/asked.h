// Runs inside which states are asked for, TokenRun::asked. Private to this folder.
#pragma once

#include "weft/kernels/linear/chunk_math.h"

namespace weft::kernels::recurrence_internal {

// As the functions of these names in recurrence.h; `work` is that of the run's parts.
void scan_asked(const LocalWork& work, const TokenRun& run, const ConstView& entering, const View& out,
                const View& final, const View& leaving);
void apply_state_asked(const LocalWork& work, const TokenRun& run, const ConstView& state, const View& out,
                       const View& final);
void summarise_backward_asked(const LocalWork& work, const TokenRun& run, const ConstView& dout,
                              const ConstView& dfinal, const View& dstate);
void scan_backward_asked(const LocalWork& work, const TokenRun& run, const ConstView& dout, const ConstView& dfinal,
                         const RunEnds& ends, const RunGradients& gradients);

}  // namespace weft::kernels::recurrence_internal
