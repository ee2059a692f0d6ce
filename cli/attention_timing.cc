#include "cli/attention_timing.h"

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "weft/base/error.h"
#include "weft/base/random.h"
#include "weft/base/text.h"
#include "weft/execute/executor.h"
#include "weft/transport/run_threads.h"
#include "weft/transport/stop_watcher.h"

namespace weft::cli {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// ---- is the machine idle?

// Seconds of a fixed number of dependent multiply-adds in eight chains.
double compute_loop() {
  double x[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  const double begin = now();
  for (int i = 0; i < 6'000'000; ++i) {
    for (double& value : x) value = value * 0.999999 + 1e-9;
  }
  volatile double sink = x[0] + x[1] + x[2] + x[3] + x[4] + x[5] + x[6] + x[7];
  (void)sink;
  return now() - begin;
}

double idle_share(int ranks) {
  const int threads = std::min<int>(ranks, static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  double best_alone = 1e9, best_together = 1e9;
  for (int round = 0; round < 3; ++round) {
    best_alone = std::min(best_alone, compute_loop());
    std::vector<double> seconds(static_cast<size_t>(threads));
    std::vector<std::thread> running;
    for (int t = 0; t < threads; ++t)
      running.emplace_back([&seconds, t] { seconds[static_cast<size_t>(t)] = compute_loop(); });
    for (std::thread& thread : running) thread.join();
    best_together = std::min(best_together, *std::max_element(seconds.begin(), seconds.end()));
  }
  return best_alone / best_together;
}

// ---- one rank's tensors and runs

// Normal numbers, a few thousand of them over and over: the values do not change the time.
std::vector<std::byte> random_tensor(DType type, int64_t elements, uint64_t stream) {
  std::vector<std::byte> bytes(static_cast<size_t>(elements * size_of(type)));
  Random random(1, stream);
  std::vector<double> numbers(4096);
  for (double& number : numbers) number = random.normal();
  for (int64_t i = 0; i < elements; ++i) {
    const double x = numbers[static_cast<size_t>(i) % numbers.size()];
    std::byte* to = bytes.data() + i * size_of(type);
    const auto put = [&](auto value) { std::copy_n(reinterpret_cast<const std::byte*>(&value), sizeof value, to); };
    switch (type) {
      case DType::fp64: put(x); break;
      case DType::fp32: put(static_cast<float>(x)); break;
      case DType::bf16: put(float_to_bf16(static_cast<float>(x))); break;
      case DType::fp16: put(float_to_fp16(static_cast<float>(x))); break;
      default: WEFT_CHECK(false);  // not an element type
    }
  }
  return bytes;
}

class RankBench {
 public:
  RankBench(const Schedule& schedule, int rank, Endpoint& endpoint)
      : problem_(schedule.problem()), executor_(schedule, rank, endpoint, timed_kernels(problem_.element), pool_) {
    const int64_t queries = problem_.query_layout.tokens_of(rank), keys = problem_.key_layout.tokens_of(rank);
    q_ = random_tensor(problem_.element, queries * problem_.heads * problem_.dim, 0);
    k_ = random_tensor(problem_.element, keys * problem_.kv_heads * problem_.dim, 1);
    v_ = random_tensor(problem_.element, keys * problem_.kv_heads * problem_.dim_v, 2);
    dout_ = random_tensor(problem_.element, queries * problem_.heads * problem_.dim_v, 3);
  }

  void forward() {
    execution_ = executor_.start();
    results_ = execution_->forward({.q = {q_.data()}, .k = {k_.data()}, .v = {v_.data()}});
  }
  void backward() {
    if (problem_.backward) {
      execution_->backward({.q = {q_.data()},
                            .k = {k_.data()},
                            .v = {v_.data()},
                            .out = {results_.out.data},
                            .lse = {results_.lse.data},
                            .dout = {dout_.data()}});
    }
    peak_ = std::max(peak_, execution_->peak_bytes());
    phase_end_ = execution_->phase_end_seconds();
    waiting_ = execution_->waiting_seconds() - phase_end_;
    execution_.reset();
    results_ = {};
  }
  int64_t peak_bytes() const { return peak_; }
  // Of the last run: blocked for messages, and done but for those who still use this rank's memory.
  double waiting_seconds() const { return waiting_; }
  double phase_end_seconds() const { return phase_end_; }

 private:
  const Problem& problem_;
  BufferPool pool_;
  Executor executor_;
  std::vector<std::byte> q_, k_, v_, dout_;
  std::unique_ptr<Execution> execution_;
  Results results_;
  int64_t peak_ = 0;
  double waiting_ = 0, phase_end_ = 0;
};

// One run of all ranks.
struct Seconds {
  double forward, backward;
};

// Why times taken with so many ranks mean little; "" when nothing speaks against them.
std::string doubt(int ranks, double idle_share) {
  const int threads = static_cast<int>(std::thread::hardware_concurrency());
  if (threads > 0 && ranks > threads) {
    return std::to_string(ranks) + " ranks share " + std::to_string(threads) + " processors";
  }
  if (idle_share >= 0.95) return "";
  return "the machine is busy (a compute loop on all threads reaches " + format_fixed(100 * idle_share, 0) +
         "% of its speed on one)";
}

}  // namespace

const kernels::KernelSet& timed_kernels(DType element) {
  return element == DType::fp64 ? kernels::reference_kernels() : kernels::cpu_kernels();
}

AttentionTiming time_attention(const Schedule& schedule, const Schedule& alone, TimingLength length,
                               const StopFlag& stop, const std::function<void(int64_t pairs)>& progress) {
  AttentionTiming timing;
  const int ranks = schedule.ranks();
  timing.idle_share = idle_share(ranks);
  std::vector<double> forward, backward, efficiency, waiting, idle;
  std::vector<int64_t> peaks(static_cast<size_t>(ranks));
  std::vector<double> waited(static_cast<size_t>(ranks)), busy(waited);  // of the last run, by rank
  ThreadTransport transport(ranks), transport_alone(1);
  const StopWatcher watcher(&stop, transport), watcher_alone(&stop, transport_alone);
  std::barrier meet(ranks);
  std::atomic<bool> go_on = true;
  double begin = 0;
  const auto run_rank = [&](int rank) {
    RankBench all(schedule, rank, transport.endpoint(rank));
    std::unique_ptr<RankBench> one;
    if (rank == 0) one = std::make_unique<RankBench>(alone, 0, transport_alone.endpoint(0));
    const auto timed = [&] {
      meet.arrive_and_wait();
      const double t0 = now();
      all.forward();
      const double mine = now() - t0;
      meet.arrive_and_wait();
      const double t1 = now();
      all.backward();
      busy[static_cast<size_t>(rank)] = mine + now() - t1 - all.phase_end_seconds();
      waited[static_cast<size_t>(rank)] = all.waiting_seconds();
      meet.arrive_and_wait();
      return Seconds{t1 - t0, now() - t1};
    };
    timed();  // warm-up: buffers and caches
    if (one) one->forward(), one->backward();
    if (rank == 0) begin = now();
    while (go_on) {
      const Seconds s = timed();
      if (one) {  // the others wait at the barrier below, without using the processor
        const double t0 = now();
        one->forward();
        one->backward();
        const double single = now() - t0;
        forward.push_back(s.forward);
        backward.push_back(s.backward);
        efficiency.push_back(single / (ranks * (s.forward + s.backward)));
        waiting.push_back(mean(waited));
        idle.push_back(std::max(0.0, s.forward + s.backward - mean(busy)));
        const int64_t pairs = static_cast<int64_t>(forward.size());
        progress(pairs);
        go_on = now() - begin < length.seconds || pairs < length.pairs;
      }
      meet.arrive_and_wait();
    }
    peaks[static_cast<size_t>(rank)] = all.peak_bytes();
  };
  const auto run_or_leave = [&](int rank) {
    try {
      run_rank(rank);
    } catch (...) {
      go_on = false;
      meet.arrive_and_drop();  // nobody waits there for a rank that has failed
      throw;
    }
  };
  try {
    run_threads(transport, run_or_leave);
  } catch (const Error&) {
    stop.poll();  // whatever the ranks say of it
    throw;
  }
  stop.poll();
  const Problem& problem = schedule.problem();
  timing.forward_seconds = median(forward);
  timing.backward_seconds = problem.backward ? median(backward) : 0;
  timing.efficiency = median(efficiency);
  timing.waiting_seconds = median(waiting);
  timing.idle_seconds = median(idle);
  const double per_pair = static_cast<double>(problem.dim + problem.dim_v) / 2 * (problem.backward ? 14 : 4);
  timing.flops_per_second = static_cast<double>(problem.mask.area()) * static_cast<double>(problem.heads) * per_pair /
                            (timing.forward_seconds + timing.backward_seconds);
  timing.peak_bytes = *std::max_element(peaks.begin(), peaks.end());
  timing.not_valid = doubt(ranks, timing.idle_share);
  return timing;
}

}  // namespace weft::cli
