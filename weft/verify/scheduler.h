// Lets every rank run until it blocks, matches what it sends and expects, and goes on with those that are free.
//
// With several threads each has a part of the ranks and runs them; what the parts send each other is matched by whichever
// side blocks second, under the locks of both ranks. Every order of running proves the same, so threads change nothing
// but the order in which something wrong is found.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <vector>

#include "weft/verify/rank_run.h"
#include "weft/verify/ready.h"

namespace weft::verify_internal {

struct Running {
  Order order = Order::in_turn;
  int threads = 1;
  int max_problems = 20;
  Trace* trace = nullptr;  // with one thread only
};

class Scheduler {
 public:
  Scheduler(const Schedule& schedule, const VerifyOptions& options, const Running& running);
  Report run();

 private:
  // A thread and its ranks.
  struct Worker {
    Worker(std::shared_ptr<SetTable> table, Order order, int ranks) : sets(std::move(table)), ready(order, ranks) {}
    SetPool sets;
    Ready ready;
    std::vector<int> gathering;  // its blocked ranks with many messages, which nobody has looked at yet
    // Ranks of this worker that others have freed.
    std::mutex mail;
    std::vector<int> freed;  // under mail
    std::atomic<bool> has_mail = false;
    // Whether it sleeps until there is mail. Changed under sleeping_.
    std::atomic<bool> asleep = false;
    std::condition_variable wake;
  };
  // A rank as other threads see it. While it is blocked, its run is touched under the lock only; else by its worker only.
  struct Shared {
    std::mutex lock;
    std::atomic<bool> blocked = false;
  };
  class PairLock;
  struct TooMany {};  // thrown when enough problems have been found

  int threads() const { return static_cast<int>(workers_.size()); }
  // Each worker has a run of ranks and its mirror image: where later ranks do more, as in a causal ring, all have as much.
  Worker& worker_of(int rank) {
    const int64_t runs = 2 * threads(), run = rank * runs / schedule_.ranks();
    return *workers_[static_cast<size_t>(std::min(run, runs - 1 - run))];
  }
  RankRun& run_of(int rank) { return *ranks_[static_cast<size_t>(rank)]; }
  void note(Finding finding);
  void run_all();
  void work(Worker& me);
  // The next rank of this worker, after waiting for one if others still run; -1 at the end.
  int next(Worker& me);
  // Whether there was mail.
  bool open_mail(Worker& me);
  // Waits for mail. False at the end.
  bool sleep(Worker& me);
  void stop();
  // A rank has blocked: its messages are matched now, or if they are many with those of others, later.
  void meet(RankRun& rank, Worker& me);
  void match_gathering(Worker& me);
  void match(RankRun& rank, PendingMessage& message, bool sends, Worker& me);
  // One message of a blocked rank has met its other end.
  void settle(RankRun& rank, Worker& me);
  void report_deadlock();

  const Schedule& schedule_;
  const VerifyOptions& options_;
  const int max_problems_;
  const Pieces pieces_;
  Report report_;
  std::vector<std::unique_ptr<Worker>> workers_;  // outlive the ranks, which use their pools
  std::vector<std::unique_ptr<RankRun>> ranks_;
  std::vector<Shared> shared_;
  std::atomic<int> finished_ = 0;
  std::mutex noting_;
  std::atomic<bool> stopping_ = false;
  std::mutex sleeping_;
  int asleep_ = 0;            // workers, under sleeping_
  std::exception_ptr error_;  // of a thread, under sleeping_
};

}  // namespace weft::verify_internal
