// Runs one function per rank, each on its own thread, and reports the first error once.
//
//   run_threads(4, [](Endpoint& endpoint) { ... });
//
// More ranks than processor cores are fine: ranks that wait do not use the processor.
#pragma once

#include <functional>

#include "weft/transport/thread_transport.h"

namespace weft {

// Returns when all threads have ended. If one throws, all ranks are stopped, and the first
// exception is thrown again here; what the others threw because they were stopped is not.
void run_threads(ThreadTransport& transport, const std::function<void(int rank)>& body);

// The same over a transport of its own.
void run_threads(int ranks, const std::function<void(Endpoint& endpoint)>& body);

}  // namespace weft
