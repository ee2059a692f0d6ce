#include "weft/transport/stop_watcher.h"

#include <chrono>

namespace weft {

StopWatcher::StopWatcher(const StopFlag* stop, ThreadTransport& transport) {
  if (!stop) return;
  thread_.emplace([this, stop, &transport] {
    while (!over_.raised() && !stop->raised()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (over_.raised()) return;
    transport.fail(-1, std::make_exception_ptr(Error(ErrorCode::stopped, "stopped")));
  });
}

StopWatcher::~StopWatcher() {
  over_.raise();
  if (thread_) thread_->join();
}

}  // namespace weft
