#include "weft/train/ranks.h"

#include <ATen/Parallel.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "weft/base/error.h"

namespace weft {

namespace {

// Torch's messages have many lines, and a stack of calls: users get the first line.
std::exception_ptr as_weft_error(int rank) {
  const std::string where = "rank " + std::to_string(rank) + ": ";
  try {
    throw;
  } catch (const Error&) {
    return std::current_exception();
  } catch (const std::bad_alloc&) {
    return std::make_exception_ptr(
        Error(ErrorCode::usage, where + "out of memory; use fewer tokens or a smaller model"));
  } catch (const std::exception& error) {
    const std::string text = error.what();
    return std::make_exception_ptr(Error(ErrorCode::internal, where + text.substr(0, text.find('\n'))));
  } catch (...) {
    return std::make_exception_ptr(Error(ErrorCode::internal, where + "unknown exception"));
  }
}

}  // namespace

void run_ranks(RankGroup& group, const StopFlag& interrupt, const std::function<void()>& on_abort,
               const std::function<void(int rank)>& body) {
  using namespace std::chrono_literals;
  std::mutex mutex;
  std::condition_variable changed;
  int running = 0;
  bool failed = false;
  bool told = false;

  const auto tell = [&] {  // on the calling thread only
    if (!told && on_abort) on_abort();
    told = true;
  };
  std::vector<std::jthread> threads;
  const int end = static_cast<int>(group.here().end);
  for (int rank = static_cast<int>(group.here().begin); rank < end; ++rank) {
    {
      const std::lock_guard lock(mutex);
      ++running;
    }
    const auto run = [&, rank] {
      bool fine = true;
      try {
        at::set_num_threads(1);  // per thread: ranks are the parallelism
        body(rank);
      } catch (...) {
        fine = false;
        group.abort(as_weft_error(rank));
      }
      const std::lock_guard lock(mutex);
      --running;
      failed |= !fine;
      changed.notify_all();
    };
    try {
      threads.emplace_back(run);
    } catch (const std::system_error& error) {
      const std::lock_guard lock(mutex);
      --running;
      failed = true;
      group.abort(std::make_exception_ptr(
          Error(ErrorCode::usage, "cannot start a thread for rank " + std::to_string(rank) + " of " +
                                      std::to_string(group.ranks()) + ": " + error.what() + "; use fewer ranks")));
      break;
    }
  }
  std::unique_lock lock(mutex);
  while (running > 0) {
    // A signal handler can raise a flag but not wake us: so look at it now and then.
    changed.wait_for(lock, 20ms, [&] { return running == 0 || (failed && !told); });
    if (running > 0 && !told && (failed || interrupt.raised())) {
      lock.unlock();
      group.abort(nullptr);  // has no effect after a failure: the first call wins
      tell();
      lock.lock();
    }
  }
  lock.unlock();
  threads.clear();
  if (const std::exception_ptr error = group.error()) std::rethrow_exception(error);
  if (group.aborted()) throw Error(ErrorCode::stopped, "interrupted");
}

}  // namespace weft
