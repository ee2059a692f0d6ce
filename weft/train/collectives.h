// What the ranks of one process do together: wait for each other and add numbers, in an order that
// does not depend on who is faster.
//
//   RankGroup group(4);
//   // on each rank's thread:
//   group.all_reduce_sum(rank, gradients);      // every rank then holds the same bits
//   group.barrier(rank);
//   // on any thread, when something failed:
//   group.abort(std::current_exception());      // everybody who waits, or will, throws
//
// Sums run over ranks 0, 1, 2, ... for each element, so a run can be repeated bit by bit.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <span>
#include <vector>

namespace weft {

class RankGroup {
 public:
  explicit RankGroup(int ranks);
  int ranks() const { return ranks_; }

  // All of these are called by every rank, in the same order, and throw Error(stopped) after abort().
  void barrier(int rank);
  // Replaces everybody's buffer by the sum over ranks. All buffers have the same size.
  void all_reduce_sum(int rank, std::span<float> buffer);
  double all_reduce_sum(int rank, double value);

  // The first call wins, except that a cause replaces an Error(stopped): that one only tells that
  // somebody else failed. error may be null for an interrupt.
  void abort(std::exception_ptr error);
  bool aborted() const;
  // The exception of the call that won.
  std::exception_ptr error() const;

  // Seconds that `rank` has waited in these calls so far. Called from that rank's thread.
  double waiting_seconds(int rank) const { return waiting_[static_cast<size_t>(rank)].seconds; }

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
  std::vector<double> values_;
  std::vector<Waiting> waiting_;
};

}  // namespace weft
