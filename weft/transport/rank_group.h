// What all ranks of a program do together: wait for each other and add numbers, in an order that does not depend on who is
// faster. The ranks are threads of one process (ThreadGroup) or processes (ProcessGroup).
//
//   ThreadGroup group(4);
//   // on each rank's thread:
//   group.all_reduce_sum(rank, gradients);      // every rank then holds the same bits
//   group.barrier(rank);
//   // on any thread, when something failed:
//   group.abort(std::current_exception());      // everybody who waits, or will, throws
//
// Sums run over ranks 0, 1, 2, ... for each element, so a run can be repeated bit by bit, on threads or processes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "weft/base/range.h"
#include "weft/transport/processes.h"

namespace weft {

class RankGroup {
 public:
  virtual ~RankGroup() = default;
  virtual int ranks() const = 0;
  // The ranks that are threads of this process; they share its memory.
  virtual Range here() const = 0;

  // All of these are called by every rank, in the same order, and throw Error(stopped) after abort().
  virtual void barrier(int rank) = 0;
  // Replaces everybody's buffer by the sum over ranks. All buffers have the same size.
  virtual void all_reduce_sum(int rank, std::span<float> buffer) = 0;
  // What each rank gave, by rank.
  virtual std::vector<uint64_t> all_gather(int rank, uint64_t value) = 0;
  std::vector<double> all_gather(int rank, double value);
  double all_reduce_sum(int rank, double value);
  // Throws Error(usage) on all ranks if these differ in a digest of `what`, say "options".
  void agree(int rank, uint64_t digest, const std::string& what);

  // The first call wins, except that a cause replaces an Error(stopped): that one only tells that
  // somebody else failed. error may be null for an interrupt.
  virtual void abort(std::exception_ptr error) = 0;
  virtual bool aborted() const = 0;
  // The exception of the call that won.
  virtual std::exception_ptr error() const = 0;

  // Seconds that `rank` has waited in these calls so far. Called from that rank's thread.
  virtual double waiting_seconds(int rank) const = 0;
};

// Ranks that are threads of this process.
class ThreadGroup final : public RankGroup {
 public:
  explicit ThreadGroup(int ranks);
  int ranks() const override { return ranks_; }
  Range here() const override { return {0, ranks_}; }
  void barrier(int rank) override;
  using RankGroup::all_gather;
  using RankGroup::all_reduce_sum;
  void all_reduce_sum(int rank, std::span<float> buffer) override;
  std::vector<uint64_t> all_gather(int rank, uint64_t value) override;
  void abort(std::exception_ptr error) override;
  bool aborted() const override;
  std::exception_ptr error() const override;
  double waiting_seconds(int rank) const override { return waiting_[static_cast<size_t>(rank)].seconds; }

 private:
  struct alignas(64) Waiting {
    double seconds = 0;
  };
  const int ranks_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  uint64_t round_ = 0;
  bool aborted_ = false;
  std::exception_ptr error_;
  std::vector<std::span<float>> buffers_;  // of the sum under way, by rank
  std::vector<uint64_t> values_;
  std::vector<Waiting> waiting_;
};

// One rank in each process.
class ProcessGroup final : public RankGroup {
 public:
  explicit ProcessGroup(Processes& processes) : processes_(processes), endpoint_(processes.endpoint()) {}
  int ranks() const override { return endpoint_.ranks(); }
  Range here() const override { return {endpoint_.rank(), endpoint_.rank() + 1}; }
  void barrier(int rank) override;
  using RankGroup::all_gather;
  using RankGroup::all_reduce_sum;
  void all_reduce_sum(int rank, std::span<float> buffer) override;
  std::vector<uint64_t> all_gather(int rank, uint64_t value) override;
  void abort(std::exception_ptr error) override;
  bool aborted() const override { return processes_.failure() != nullptr; }
  std::exception_ptr error() const override { return processes_.failure(); }
  double waiting_seconds(int) const override { return waiting_; }

 private:
  void exchange(Transfer transfer);

  Processes& processes_;
  Endpoint& endpoint_;
  double waiting_ = 0;
};

// Of `processes`, or, where these are null, of as many threads. Throws Error(usage) where there are not as many processes.
std::unique_ptr<RankGroup> make_rank_group(int ranks, Processes* processes);

}  // namespace weft
