// A flag that one rank raises and all others see: how an error or Ctrl-C reaches every loop that may run long.
#pragma once

#include <atomic>

#include "weft/base/error.h"

namespace weft {

class StopFlag {
 public:
  void raise() { raised_.store(true, std::memory_order_relaxed); }
  bool raised() const { return raised_.load(std::memory_order_relaxed); }
  // Throws Error(stopped) when the flag is up: the one-line poll for loops.
  void poll() const {
    if (raised()) throw Error(ErrorCode::stopped, "stopped");
  }

 private:
  std::atomic<bool> raised_{false};
};

}  // namespace weft
