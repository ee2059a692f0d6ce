// A rank's memory: buffers that are used again and again.
//
//   BufferPool pool;
//   std::shared_ptr<std::byte> buffer = pool.take(bytes);   // contents undefined
//
// A training step takes the same buffers as the step before; fresh ones from the system would cost
// a page fault every 4 KB. A buffer goes back when its last owner lets go, on whatever thread, and
// may outlive the pool object. Safe to use from several threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "weft/base/memory.h"

namespace weft {

class BufferPool {
 public:
  // With `poison`, buffers are filled with NaN when they come back. Where the memory caches by itself, nothing is kept here.
  explicit BufferPool(bool poison = false, const Memory& memory = host_memory());

  // At least `bytes` bytes, aligned to 64.
  std::shared_ptr<std::byte> take(int64_t bytes);
  const Memory& memory() const;

  int64_t bytes_in_use() const;  // as asked for
  int64_t peak_bytes() const;    // largest bytes_in_use() so far
  int64_t bytes_held() const;    // in use or free, as taken from the system
  // Gives what is free back to the system.
  void trim();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// Every byte 0xff: a NaN in each element type.
inline void fill_with_nan(const Memory& memory, std::byte* data, int64_t bytes) { memory.set(data, bytes, 0xff); }

}  // namespace weft
