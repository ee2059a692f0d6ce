#include "weft/execute/buffer_pool.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

namespace weft {
namespace {

constexpr int64_t kAlignment = 64;

struct Free {
  void operator()(std::byte* data) const { std::free(data); }
};
using Memory = std::unique_ptr<std::byte, Free>;

}  // namespace

void fill_with_nan(void* data, int64_t bytes) {
  if (bytes > 0) std::memset(data, 0xff, static_cast<size_t>(bytes));
}

struct BufferPool::State {
  struct Block {
    Memory memory;
    uint64_t returned = 0;  // when: small numbers are long ago
  };

  mutable std::mutex mutex;
  bool poison = false;
  std::multimap<int64_t, Block> free;  // by capacity
  uint64_t returns = 0;
  int64_t in_use = 0;
  int64_t peak = 0;
  int64_t held = 0;

  // The smallest free block that fits without wasting more than a quarter.
  Memory reuse(int64_t bytes, int64_t& capacity) {
    const auto found = free.lower_bound(bytes);
    if (found == free.end() || found->first > bytes + bytes / 4 + 4096) return nullptr;
    capacity = found->first;
    Memory memory = std::move(found->second.memory);
    free.erase(found);
    return memory;
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
    if (poison) fill_with_nan(data, capacity);
    const std::lock_guard lock(mutex);
    in_use -= bytes;
    free.emplace(capacity, Block{Memory(data), ++returns});
  }
};

BufferPool::BufferPool(bool poison) : state_(std::make_shared<State>()) { state_->poison = poison; }

std::shared_ptr<std::byte> BufferPool::take(int64_t bytes) {
  Memory memory;
  int64_t capacity = std::max(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  {
    const std::lock_guard lock(state_->mutex);
    state_->in_use += bytes;
    state_->peak = std::max(state_->peak, state_->in_use);
    memory = state_->reuse(bytes, capacity);
    if (!memory) {
      state_->make_room(capacity);
      state_->held += capacity;
    }
  }
  if (!memory) {
    memory.reset(
        static_cast<std::byte*>(std::aligned_alloc(static_cast<size_t>(kAlignment), static_cast<size_t>(capacity))));
    if (!memory) {
      const std::lock_guard lock(state_->mutex);
      state_->in_use -= bytes;
      state_->held -= capacity;
      throw std::bad_alloc();
    }
  }
  return {memory.release(),
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
