// Times a schedule on this machine's threads, against one rank with the same kernels in the same call.
#pragma once

#include <cstdint>
#include <functional>

#include "weft/base/stop.h"
#include "weft/kernels/kernels.h"
#include "weft/schedule/schedule.h"

namespace weft::cli {

struct AttentionTiming {
  double forward_seconds = 0;   // medians
  double backward_seconds = 0;  // 0 without a backward phase
  double efficiency = 0;        // median over pairs of: one rank's seconds / (ranks x all ranks' seconds)
  double flops_per_second = 0;  // over the exact area: forward 4, backward 10 per pair, head and column
  int64_t peak_bytes = 0;       // largest of any rank, inputs and results included
  double idle_share = 0;        // speed of a compute loop on all threads at once against one alone
  bool valid = false;           // idle_share of 0.95 or more: the machine had nothing else to do
};

// Runs pairs of (all ranks, one rank) until `seconds` are spent, at least three. `alone` is the same problem on one rank.
AttentionTiming time_attention(const Schedule& schedule, const Schedule& alone, double seconds, const StopFlag& stop,
                               const std::function<void(int pairs)>& progress);

}  // namespace weft::cli
