#include "weft/base/worker_pool.h"

#include <utility>

#include "weft/base/error.h"

namespace weft {

WorkerPool::WorkerPool(int threads) {
  WEFT_CHECK(threads >= 1);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work_until_destroyed(); });
}

WorkerPool::~WorkerPool() {
  {
    const std::lock_guard lock(mutex_);
    end_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void WorkerPool::run(int64_t items, const std::function<void(int64_t)>& work) {
  std::unique_lock lock(mutex_);
  WEFT_CHECK(work_ == nullptr);
  work_ = &work;
  next_ = 0;
  items_ = items;
  if (items > 1) wake_.notify_all();
  take_items(lock);
  idle_.wait(lock, [this] { return running_ == 0; });
  work_ = nullptr;
  if (const std::exception_ptr error = std::exchange(error_, nullptr)) std::rethrow_exception(error);
}

void WorkerPool::work_until_destroyed() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return end_ || next_ < items_; });
    if (end_) return;
    take_items(lock);
    if (running_ == 0) idle_.notify_one();
  }
}

void WorkerPool::take_items(std::unique_lock<std::mutex>& lock) {
  while (next_ < items_) {
    const int64_t item = next_++;
    const std::function<void(int64_t)>& work = *work_;
    ++running_;
    lock.unlock();
    std::exception_ptr error;
    try {
      work(item);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    --running_;
    if (!error) continue;
    if (!error_) error_ = error;
    next_ = items_;
  }
}

}  // namespace weft
