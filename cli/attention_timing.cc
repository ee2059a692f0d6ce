#include "cli/attention_timing.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <list>
#include <memory>
#include <numeric>
#include <vector>

#include "weft/base/error.h"
#include "weft/base/random.h"
#include "weft/base/text.h"
#include "weft/execute/executor.h"
#include "weft/kernels/element.h"
#include "weft/transport/rank_group.h"
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

int processors() { return static_cast<int>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN))); }

// Of a loop on as many ranks as there are processors for, against one on rank 0 alone.
double idle_share(RankGroup& group, int rank) {
  double best_alone = 1e9, best_together = 1e9;
  for (int round = 0; round < 3; ++round) {
    if (rank == 0) best_alone = std::min(best_alone, compute_loop());
    group.barrier(rank);
    const std::vector<double> seconds = group.all_gather(rank, rank < processors() ? compute_loop() : 0);
    best_together = std::min(best_together, *std::max_element(seconds.begin(), seconds.end()));
  }
  return best_alone / best_together;
}

// ---- one rank's tensors and runs

// Normal numbers times a factor, a few thousand of them over and over: the values do not change the time, as long as they
// stay numbers.
std::vector<std::byte> random_tensor(DType type, int64_t elements, uint64_t stream, double factor = 1) {
  std::vector<std::byte> bytes(static_cast<size_t>(elements * size_of(type)));
  Random random(1, stream);
  std::vector<double> numbers(4096);
  for (double& number : numbers) number = factor * random.normal();
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
    const Fields results = Field::out | Field::lse;  // of forward, which backward takes
    const Fields given = Fields::from_bits(problem_.inputs_of(problem_.backward).bits() & ~results.bits());
    given.for_each([&](Field field) {
      const Layout& layout = kKeyFields.has(field) ? problem_.key_layout : problem_.query_layout;
      const int64_t rows = layout.tokens_of(rank) * problem_.heads_of(field);
      give(field, rows * problem_.columns_of(field));
    });
    if (traits_of(problem_.layer).bonus) give(Field::u, problem_.heads * problem_.dim);
  }

  void forward() {
    execution_ = executor_.start();
    results_ = execution_->forward(inputs_);
  }
  void backward() {
    if (problem_.backward) {
      Inputs inputs = inputs_;
      inputs.out = {results_.out.data}, inputs.lse = {results_.lse.data};
      execution_->backward(inputs);
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
  // Of linear layers: keys of about length 1 where rows of the state mix, decays of a few percent.
  void give(Field field, int64_t elements) {
    const double unit = 1 / std::sqrt(static_cast<double>(problem_.dim));
    double factor = 1;
    uint64_t stream = static_cast<uint64_t>(field);
    if (mixes_rows(problem_.layer) && (field == Field::k || field == Field::a)) factor = unit;
    if (column_blocks(problem_.layer) > 0 && field == Field::a) factor = 0.3;
    if (field == Field::b) factor = -0.5 * unit, stream = static_cast<uint64_t>(Field::a);
    std::vector<std::byte>& bytes = tensors_.emplace_back();
    if (field == Field::g || field == Field::beta) {
      const DType type = problem_.accumulator();
      bytes.resize(static_cast<size_t>(elements * size_of(type)));
      const double value = field == Field::g ? -0.05 : 0.5;
      for (int64_t i = 0; i < elements; ++i) kernels::store_element(bytes.data(), type, i, value);
    } else {
      bytes = random_tensor(problem_.type_of(field, Form::whole), elements, stream, factor);
    }
    *inputs_.of(field) = {bytes.data()};
  }

  const Problem& problem_;
  BufferPool pool_;
  Executor executor_;
  std::list<std::vector<std::byte>> tensors_;
  Inputs inputs_;
  std::unique_ptr<Execution> execution_;
  Results results_;
  int64_t peak_ = 0;
  double waiting_ = 0, phase_end_ = 0;
};

// One run of all ranks.
struct Seconds {
  double forward, backward;
};

// Why times taken with so many ranks on this machine mean little; "" when nothing speaks against them.
std::string doubt(int ranks, double idle_share) {
  if (ranks > processors()) {
    return std::to_string(ranks) + " ranks share " + std::to_string(processors()) + " processors";
  }
  if (idle_share >= 0.95) return "";
  return "the machine is busy (a compute loop on all threads reaches " + format_fixed(100 * idle_share, 0) +
         "% of its speed on one)";
}

// What the ranks of one measurement share, as threads of this process or as processes.
class Ranks {
 public:
  Ranks(int ranks, const Context& context)
      : group_(make_rank_group(ranks, context.processes)), processes_(context.processes) {
    if (processes_) return;
    threads_ = std::make_unique<ThreadTransport>(ranks);
    watcher_ = std::make_unique<StopWatcher>(&context.stop, *threads_);
  }
  RankGroup& group() { return *group_; }
  Endpoint& endpoint(int rank) { return processes_ ? processes_->endpoint() : threads_->endpoint(rank); }
  int on_this_machine() const { return processes_ ? processes_->on_this_machine() : group_->ranks(); }

  void run(const std::function<void(int rank)>& body) {
    if (processes_) return body(processes_->endpoint().rank());
    try {
      run_threads(*threads_, [&](int rank) {
        try {
          body(rank);
        } catch (...) {
          group_->abort(std::current_exception());  // nobody waits there for a rank that has failed
          throw;
        }
      });
    } catch (...) {
      if (group_->error()) std::rethrow_exception(group_->error());
      throw;
    }
  }

 private:
  const std::unique_ptr<RankGroup> group_;
  Processes* const processes_;
  std::unique_ptr<ThreadTransport> threads_;  // where there are no processes
  std::unique_ptr<StopWatcher> watcher_;
};

}  // namespace

const kernels::KernelSet& timed_kernels(DType element) {
  return element == DType::fp64 ? kernels::reference_kernels() : kernels::cpu_kernels();
}

AttentionTiming time_attention(const Schedule& schedule, const Schedule& alone, TimingLength length,
                               const Context& context, const std::function<void(int64_t pairs)>& progress) {
  AttentionTiming timing;
  const int ranks = schedule.ranks();
  std::vector<double> forward, backward, efficiency, waiting, idle;  // on rank 0
  Ranks running(ranks, context);
  RankGroup& group = running.group();
  ThreadTransport transport_alone(1);
  const StopWatcher watcher_alone(&context.stop, transport_alone);
  const auto run_rank = [&](int rank) {
    const double share = idle_share(group, rank);
    RankBench all(schedule, rank, running.endpoint(rank));
    std::unique_ptr<RankBench> one;
    if (rank == 0) one = std::make_unique<RankBench>(alone, 0, transport_alone.endpoint(0));
    double busy = 0;
    const auto timed = [&] {
      group.barrier(rank);
      const double t0 = now();
      all.forward();
      const double mine = now() - t0;
      group.barrier(rank);
      const double t1 = now();
      all.backward();
      busy = mine + now() - t1 - all.phase_end_seconds();
      group.barrier(rank);
      return Seconds{t1 - t0, now() - t1};
    };
    timed();  // warm-up: buffers and caches
    if (one) one->forward(), one->backward();
    const double begin = now();
    for (bool go_on = true; go_on;) {
      const Seconds s = timed();
      const double waited = mean(group.all_gather(rank, all.waiting_seconds()));
      const double worked = mean(group.all_gather(rank, busy));
      if (one) {  // the others wait below, without using the processor
        const double t0 = now();
        one->forward();
        one->backward();
        const double single = now() - t0;
        forward.push_back(s.forward);
        backward.push_back(s.backward);
        efficiency.push_back(single / (ranks * (s.forward + s.backward)));
        waiting.push_back(waited);
        idle.push_back(std::max(0.0, s.forward + s.backward - worked));
        const int64_t pairs = static_cast<int64_t>(forward.size());
        progress(pairs);
        go_on = now() - begin < length.seconds || pairs < length.pairs;
      }
      go_on = group.all_gather(rank, uint64_t{go_on})[0] != 0;  // rank 0 says
    }
    const std::vector<uint64_t> peaks = group.all_gather(rank, static_cast<uint64_t>(all.peak_bytes()));
    if (rank != 0) return;
    timing.idle_share = share;
    timing.peak_bytes = static_cast<int64_t>(*std::max_element(peaks.begin(), peaks.end()));
  };
  try {
    running.run(run_rank);
  } catch (const Error&) {
    context.stop.poll();  // whatever the ranks say of it
    throw;
  }
  context.stop.poll();
  if (forward.empty()) return timing;  // rank 0 is another process
  const Problem& problem = schedule.problem();
  timing.forward_seconds = median(forward);
  timing.backward_seconds = problem.backward ? median(backward) : 0;
  timing.efficiency = median(efficiency);
  timing.waiting_seconds = median(waiting);
  timing.idle_seconds = median(idle);
  const double seconds = timing.forward_seconds + timing.backward_seconds;
  const double per_pair = static_cast<double>(problem.dim + problem.dim_v) / 2 * (problem.backward ? 14 : 4);
  timing.flops_per_second =
      static_cast<double>(problem.mask.area()) * static_cast<double>(problem.heads) * per_pair / seconds;
  timing.tokens_per_second = static_cast<double>(problem.mask.queries()) / seconds;
  timing.not_valid = doubt(running.on_this_machine(), timing.idle_share);
  return timing;
}

}  // namespace weft::cli
