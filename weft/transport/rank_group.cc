#include "weft/transport/rank_group.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <utility>

#include "weft/base/error.h"

namespace weft {

std::vector<double> RankGroup::all_gather(int rank, double value) {
  std::vector<double> all;
  for (const uint64_t bits : all_gather(rank, std::bit_cast<uint64_t>(value))) {
    all.push_back(std::bit_cast<double>(bits));
  }
  return all;
}

double RankGroup::all_reduce_sum(int rank, double value) {
  double sum = 0;
  for (const double part : all_gather(rank, value)) sum += part;
  return sum;
}

void RankGroup::agree(int rank, uint64_t digest, const std::string& what) {
  const std::vector<uint64_t> all = all_gather(rank, digest);
  for (size_t other = 1; other < all.size(); ++other) {
    if (all[other] == all[0]) continue;
    throw Error(ErrorCode::usage, "rank " + std::to_string(other) + " has other " + what +
                                      " than rank 0; give all processes the same command and the same files");
  }
}

std::unique_ptr<RankGroup> make_rank_group(int ranks, Processes* processes) {
  if (!processes) return std::make_unique<ThreadGroup>(ranks);
  const int count = processes->endpoint().ranks();
  if (ranks != count) {
    throw Error(ErrorCode::usage,
                std::to_string(ranks) + " ranks on " + std::to_string(count) + " processes; each process is one rank");
  }
  return std::make_unique<ProcessGroup>(*processes);
}

ThreadGroup::ThreadGroup(int ranks)
    : ranks_(ranks),
      buffers_(static_cast<size_t>(ranks)),
      values_(static_cast<size_t>(ranks)),
      waiting_(static_cast<size_t>(ranks)) {
  WEFT_CHECK(ranks >= 1);
}

void ThreadGroup::barrier(int rank) {
  std::unique_lock lock(mutex_);
  if (aborted_) throw Error(ErrorCode::stopped, "another rank stopped");
  if (++arrived_ == ranks_) {
    arrived_ = 0;
    ++round_;
    changed_.notify_all();
    return;
  }
  const auto begin = std::chrono::steady_clock::now();
  const uint64_t round = round_;
  changed_.wait(lock, [&] { return round_ != round || aborted_; });
  waiting_[static_cast<size_t>(rank)].seconds +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  // A round that was complete counts, even if somebody failed right after it.
  if (round_ == round) throw Error(ErrorCode::stopped, "another rank stopped");
}

void ThreadGroup::all_reduce_sum(int rank, std::span<float> buffer) {
  buffers_[static_cast<size_t>(rank)] = buffer;
  barrier(rank);
  // Each rank adds one slice of everybody's buffers and writes the sum to all of them. Blocks keep
  // the running sum in the cache.
  constexpr int64_t kBlock = 4096;
  const int64_t size = static_cast<int64_t>(buffer.size());
  for (const auto& other : buffers_) WEFT_CHECK(other.size() == buffer.size());
  const int64_t begin = size * rank / ranks_, end = size * (rank + 1) / ranks_;
  float sum[kBlock];
  for (int64_t block = begin; block < end; block += kBlock) {
    const int64_t count = std::min(kBlock, end - block);
    std::copy_n(buffers_[0].data() + block, count, sum);
    for (int r = 1; r < ranks_; ++r) {
      const float* part = buffers_[static_cast<size_t>(r)].data() + block;
      for (int64_t i = 0; i < count; ++i) sum[i] += part[i];
    }
    for (const auto& out : buffers_) std::copy_n(sum, count, out.data() + block);
  }
  barrier(rank);
}

std::vector<uint64_t> ThreadGroup::all_gather(int rank, uint64_t value) {
  values_[static_cast<size_t>(rank)] = value;
  barrier(rank);
  std::vector<uint64_t> all = values_;
  barrier(rank);  // nobody may give the next value before all have read this one
  return all;
}

void ThreadGroup::abort(std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  const bool better = aborted_ && error_ && error && is_stopped(error_) && !is_stopped(error);
  if (aborted_ && !better) return;
  aborted_ = true;
  error_ = std::move(error);
  changed_.notify_all();
}

bool ThreadGroup::aborted() const {
  const std::lock_guard lock(mutex_);
  return aborted_;
}

std::exception_ptr ThreadGroup::error() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

}  // namespace weft
