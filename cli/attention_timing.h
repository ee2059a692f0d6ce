// Times a schedule on threads of this process or on several processes, against one rank with the same kernels in the same call.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "cli/command.h"
#include "weft/kernels/kernels.h"
#include "weft/schedule/schedule.h"

namespace weft::cli {

struct AttentionTiming {
  double forward_seconds = 0;    // medians
  double backward_seconds = 0;   // 0 without a backward phase
  double waiting_seconds = 0;    // mean of the ranks, both phases: blocked for a message with nothing else to do
  double idle_seconds = 0;       // the same: done with a phase, while others still work
  double efficiency = 0;         // median over pairs of: one rank's seconds / (ranks x all ranks' seconds)
  double flops_per_second = 0;   // of softmax, over the exact area: forward 4, backward 10 per pair, head and column
  double tokens_per_second = 0;  // of the sequence, both phases
  int64_t peak_bytes = 0;        // largest of any rank, inputs and results included
  double idle_share = 0;         // speed of a compute loop on all threads at once against one alone
  std::string not_valid;         // why the times mean little: the machine is busy, or has too few processors; else ""
};

// How long to measure: at least so many pairs of runs, and until so many seconds are spent.
struct TimingLength {
  int64_t pairs = 3;
  double seconds = 0;
};

// What times are taken with: the reference for fp64, else the processor's best or what WEFT_KERNEL names.
const kernels::KernelSet& timed_kernels(DType element);

// Runs pairs of (all ranks, one rank), after one that does not count. `alone` is the same problem on one rank. On processes,
// only rank 0 has the result and calls `progress`.
AttentionTiming time_attention(const Schedule& schedule, const Schedule& alone, TimingLength length,
                               const Context& context, const std::function<void(int64_t pairs)>& progress);

}  // namespace weft::cli
