// Passes Ctrl-C on to ranks that run, wherever they are: in a kernel, or blocked for a message.
//
//   ThreadTransport transport(4);
//   const StopWatcher watcher(&stop, transport);
//   run_threads(transport, ...);   // throws Error(stopped) soon after stop is raised
#pragma once

#include <optional>
#include <thread>

#include "weft/base/stop.h"
#include "weft/transport/thread_transport.h"

namespace weft {

// Watches from its birth to its end. Null: nothing to watch.
class StopWatcher {
 public:
  StopWatcher(const StopFlag* stop, ThreadTransport& transport);
  ~StopWatcher();
  StopWatcher(const StopWatcher&) = delete;
  StopWatcher& operator=(const StopWatcher&) = delete;

 private:
  StopFlag over_;
  std::optional<std::thread> thread_;
};

}  // namespace weft
