// Runs a function once for each rank of this process, each on a thread of its own, and ends all of them when one fails.
//
//   ThreadGroup group(4);
//   run_ranks(group, interrupt, [&] { plan->abort(); }, [&](int rank) { work(rank, group); });
//
// Torch uses one thread in each rank.
#pragma once

#include <functional>

#include "weft/base/stop.h"
#include "weft/transport/rank_group.h"

namespace weft {

// Returns when all ranks have. If a rank throws, or `interrupt` is raised, the group is aborted,
// `on_abort` is called (once, from another thread; it should make blocked ranks throw), and after all
// ranks ended the first exception is thrown again; for an interrupt it is Error(stopped).
void run_ranks(RankGroup& group, const StopFlag& interrupt, const std::function<void()>& on_abort,
               const std::function<void(int rank)>& body);

}  // namespace weft
