// A few threads that share the items of one loop at a time.
//
//   WorkerPool pool(4);                                        // three threads beside the caller's
//   pool.run(items, [&](int64_t item) { work_on(item); });     // in any order, on any thread; returns when all are done
//
// Threads sleep between loops. An item that throws stops the handing out of further items; the first exception is
// thrown to the caller once no item is running. One caller at a time; an item must not call run() of its own pool.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace weft {

class WorkerPool {
 public:
  // `threads` >= 1, the caller's included.
  explicit WorkerPool(int threads);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  void run(int64_t items, const std::function<void(int64_t)>& work);

 private:
  void work_until_destroyed();
  void take_items(std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  const std::function<void(int64_t)>* work_ = nullptr;
  int64_t next_ = 0, items_ = 0;  // items [next_, items_) are not handed out yet
  int running_ = 0;               // items being worked on
  bool end_ = false;
  std::exception_ptr error_;
  std::vector<std::thread> workers_;
};

}  // namespace weft
