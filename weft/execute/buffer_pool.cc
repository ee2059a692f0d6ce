#include "weft/execute/buffer_pool.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <new>

namespace weft {
namespace {

constexpr int64_t kAlignment = 64;

struct Free {
  const Memory* memory = nullptr;
  void operator()(std::byte* data) const { memory->free(data); }
};
using Buffer = std::unique_ptr<std::byte, Free>;

}  // namespace

struct BufferPool::State {
  struct Block {
    Buffer buffer;
    uint64_t returned = 0;  // when: small numbers are long ago
  };

  mutable std::mutex mutex;
  bool poison = false;
  const Memory* memory = nullptr;
  std::multimap<int64_t, Block> free;  // by capacity
  uint64_t returns = 0;
  int64_t in_use = 0;
  int64_t peak = 0;
  int64_t held = 0;

  // The smallest free block that fits without wasting more than a quarter.
  Buffer reuse(int64_t bytes, int64_t& capacity) {
    const auto found = free.lower_bound(bytes);
    if (found == free.end() || found->first > bytes + bytes / 4 + 4096) return Buffer(nullptr, Free{memory});
    capacity = found->first;
    Buffer buffer = std::move(found->second.buffer);
    free.erase(found);
    return buffer;
  }
  // Before more is taken from the system: lets the blocks go that have not been used for longest,
  // so that shapes that change from step to step do not pile up.
  void make_room(int64_t bytes) {
    while (!free.empty() && held + bytes > peak) {
      const auto oldest = std::min_element(
          free.begin(), free.end(), [](const auto& a, const auto& b) { return a.second.returned < b.second.returned; });
      held -= oldest->first;
      free.erase(oldest);
    }
  }
  void give_back(std::byte* data, int64_t capacity, int64_t bytes) {
    if (poison) fill_with_nan(*memory, data, capacity);
    Buffer buffer(data, Free{memory});
    const std::lock_guard lock(mutex);
    in_use -= bytes;
    if (memory->caches()) {
      held -= capacity;
    } else {
      free.emplace(capacity, Block{std::move(buffer), ++returns});
    }
  }
};

BufferPool::BufferPool(bool poison, const Memory& memory) : state_(std::make_shared<State>()) {
  state_->poison = poison;
  state_->memory = &memory;
}

const Memory& BufferPool::memory() const { return *state_->memory; }

std::shared_ptr<std::byte> BufferPool::take(int64_t bytes) {
  Buffer buffer(nullptr, Free{state_->memory});
  int64_t capacity = std::max(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  {
    const std::lock_guard lock(state_->mutex);
    state_->in_use += bytes;
    state_->peak = std::max(state_->peak, state_->in_use);
    buffer = state_->reuse(bytes, capacity);
    if (!buffer) {
      state_->make_room(capacity);
      state_->held += capacity;
    }
  }
  if (!buffer) {
    try {
      buffer.reset(state_->memory->allocate(capacity));
    } catch (...) {
      const std::lock_guard lock(state_->mutex);
      state_->in_use -= bytes;
      state_->held -= capacity;
      throw;
    }
  }
  return {buffer.release(),
          [state = state_, capacity, bytes](std::byte* data) { state->give_back(data, capacity, bytes); }};
}

int64_t BufferPool::bytes_in_use() const {
  const std::lock_guard lock(state_->mutex);
  return state_->in_use;
}

int64_t BufferPool::peak_bytes() const {
  const std::lock_guard lock(state_->mutex);
  return state_->peak;
}

int64_t BufferPool::bytes_held() const {
  const std::lock_guard lock(state_->mutex);
  return state_->held;
}

void BufferPool::trim() {
  const std::lock_guard lock(state_->mutex);
  for (const auto& [capacity, block] : state_->free) state_->held -= capacity;
  state_->free.clear();
}

}  // namespace weft
