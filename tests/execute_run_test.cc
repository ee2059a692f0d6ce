// How a caller uses execution: several runs, its own memory, traces.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cmath>
#include <span>
#include <thread>

#include "tests/execute_case.h"
#include "tests/planted_kernels.h"
#include "weft/transport/run_threads.h"

namespace weft {
namespace {

TEST(Execute, ThreadsOfARankChangeNoBit) {
  for (const char* method : {"zigzag", "ulysses", "ring"}) {
    const ExecuteCase c{.method = method,
                        .lengths = {150, 7, 43},
                        .ranks = 2,
                        .heads = 4,
                        .kv_heads = 2,
                        .dim = 16,
                        .dim_v = 16,
                        .element = DType::fp32,
                        .wire = DType::fp32};
    const CheckTensors one = check_schedule(c.schedule()).tensors;
    for (int threads : {2, 3}) {
      const CheckReport report = check_schedule(c.schedule(), {.execute = {.threads = threads}});
      for (const auto& error : report.errors) EXPECT_TRUE(error.ok()) << error.name;
      EXPECT_EQ(report.tensors.out.bytes, one.out.bytes);
      EXPECT_EQ(report.tensors.dq.bytes, one.dq.bytes);
      EXPECT_EQ(report.tensors.dk.bytes, one.dk.bytes);
      EXPECT_EQ(report.tensors.dv.bytes, one.dv.bytes);
    }
  }
  EXPECT_THROW(check_schedule(ExecuteCase{}.schedule(), {.execute = {.threads = 0}}), Error);
}

// Results without a destination, inputs with space between rows, several runs at once, as in a model with layers.
TEST(Execute, RunsOfSeveralLayersShareMemory) {
  const ExecuteCase c{.method = "zigzag", .lengths = {64, 33}, .ranks = 3, .heads = 4, .kv_heads = 2};
  const Schedule schedule = c.schedule();
  const CheckTensors expected = check_schedule(schedule, {.compare = false}).tensors;
  const CheckTensors inputs = random_inputs(schedule.problem(), 0);
  const Layout& layout = schedule.problem().query_layout;
  run_threads(3, [&](Endpoint& endpoint) {
    const int rank = endpoint.rank();
    // q, k and v of a token behind each other, as a fused projection makes them.
    const int64_t widths[] = {4 * 3, 2 * 3, 2 * 3}, width = 8 * 3;
    std::vector<double> fused, dout;
    for (int64_t position : layout.positions(rank)) {
      int64_t which = 0;
      for (const HostTensor* tensor : {&inputs.q, &inputs.k, &inputs.v}) {
        for (int64_t i = 0; i < widths[which]; ++i) fused.push_back(tensor->at(position * widths[which] + i));
        ++which;
      }
      for (int64_t i = 0; i < 4 * 3; ++i) dout.push_back(inputs.dout.at(position * 4 * 3 + i));
    }
    const auto same = [&](const Result& result, const HostTensor& global) {
      const int64_t row = global.heads * global.columns;
      const double* data = static_cast<const double*>(result.data);
      for (int64_t position : layout.positions(rank)) {
        for (int64_t i = 0; i < row; ++i) EXPECT_EQ(*data++, global.at(position * row + i));
      }
    };
    BufferPool pool;
    Executor executor(schedule, rank, endpoint, kernels::reference_kernels(), pool);
    const Inputs given{.q = {fused.data(), width}, .k = {fused.data() + 12, width}, .v = {fused.data() + 18, width}};
    for (int step = 0; step < 4; ++step) {
      std::vector<std::unique_ptr<Execution>> layers;
      std::vector<Results> results;
      for (int layer = 0; layer < 3; ++layer) {
        layers.push_back(executor.start());
        results.push_back(layers.back()->forward(given));
        same(results.back().out, expected.out);
      }
      for (int layer = 2; layer >= 0; --layer) {
        const Results& forward = results[static_cast<size_t>(layer)];
        Inputs all = given;
        all.out = {forward.out.data}, all.lse = {forward.lse.data}, all.dout = {dout.data()};
        const Results backward = layers[static_cast<size_t>(layer)]->backward(all);
        same(backward.dq, expected.dq);
        same(backward.dk, expected.dk);
        same(backward.dv, expected.dv);
        EXPECT_EQ(backward.out.data, nullptr);
      }
      for (const auto& layer : layers) EXPECT_EQ(layer->live_bytes(), 0);
      results.clear();
      EXPECT_LE(pool.bytes_held(), 2 * pool.peak_bytes());
    }
  });
}

// The caller does what it likes with its tensors as soon as a call has returned, while other ranks still work.
TEST(Execute, InputsAreTheCallersAgainAfterEachCall) {
  for (const auto& [method, options] : methods_to_execute()) {
    const ExecuteCase c{
        .method = method, .options = options, .lengths = {40, 1, 20}, .ranks = 4, .heads = 4, .kv_heads = 2};
    SCOPED_TRACE(c.describe());
    const Schedule schedule = c.schedule();
    const CheckTensors expected = check_schedule(schedule, {.compare = false}).tensors;
    const CheckTensors inputs = random_inputs(schedule.problem(), 0);
    const Layout& layout = schedule.problem().query_layout;
    run_threads(4, [&](Endpoint& endpoint) {
      const int rank = endpoint.rank();
      const auto take = [&](const HostTensor& global) {
        const std::span<const double> all(static_cast<const double*>(global.data()),
                                          static_cast<size_t>(global.elements()));
        return shard<double>(layout, rank, all, global.heads * global.columns);
      };
      BufferPool pool(true);
      Executor executor(schedule, rank, endpoint, kernels::reference_kernels(), pool,
                        {.poison = true, .delay_seed = 9});
      const auto run = executor.start();
      auto q = take(inputs.q), k = take(inputs.k), v = take(inputs.v), dout = take(inputs.dout);
      auto out = take(expected.out), lse = take(expected.lse);
      run->forward({.q = {q.data()}, .k = {k.data()}, .v = {v.data()}}, {.out = out.data(), .lse = lse.data()});
      EXPECT_EQ(out, take(expected.out));
      for (auto* tensor : {&q, &k, &v, &out, &lse}) tensor->assign(tensor->size(), std::nan(""));
      q = take(inputs.q), k = take(inputs.k), v = take(inputs.v);
      out = take(expected.out), lse = take(expected.lse);
      const Results results = run->backward({.q = {q.data()},
                                             .k = {k.data()},
                                             .v = {v.data()},
                                             .out = {out.data()},
                                             .lse = {lse.data()},
                                             .dout = {dout.data()}});
      for (auto* tensor : {&q, &k, &v, &out, &lse, &dout}) tensor->assign(tensor->size(), std::nan(""));
      const auto same = [&](const Result& result, const HostTensor& global) {
        const auto wanted = take(global);
        EXPECT_TRUE(std::equal(wanted.begin(), wanted.end(), static_cast<const double*>(result.data)));
      };
      same(results.dq, expected.dq);
      same(results.dk, expected.dk);
      same(results.dv, expected.dv);
    });
  }
}

class SlowKernels final : public PassOnKernels {
 public:
  SlowKernels() : PassOnKernels(kernels::reference_kernels()) {}
  void attend(const kernels::AttendArgs& args) const override {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    base().attend(args);
  }
};

// A causal ring of two: rank 0 lends its keys to rank 1 and gets nothing.
TEST(Execute, WaitingForMessagesAndForBorrowers) {
  ExecuteCase c{.method = "ring"};
  Problem problem = c.problem();
  problem.backward = false;
  const Schedule schedule = make_schedule("ring", problem);
  const std::vector<double> numbers(static_cast<size_t>(c.lengths[0] * c.heads * c.dim), 0.5);
  for (const int late : {0, 1}) {  // the one starts late, the other computes slowly
    std::array<double, 2> waiting{}, at_end{};
    run_threads(2, [&](Endpoint& endpoint) {
      const SlowKernels slow;
      BufferPool pool;
      Executor executor(schedule, endpoint.rank(), endpoint, late == 0 ? kernels::reference_kernels() : slow, pool);
      if (endpoint.rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      const auto run = executor.start();
      run->forward({.q = {numbers.data()}, .k = {numbers.data()}, .v = {numbers.data()}});
      waiting[static_cast<size_t>(endpoint.rank())] = run->waiting_seconds();
      at_end[static_cast<size_t>(endpoint.rank())] = run->phase_end_seconds();
    });
    if (late == 0) {
      EXPECT_GT(waiting[1], 0.03) << "rank 1 needs the keys of rank 0, which is late";
      EXPECT_EQ(at_end[1], 0) << "nobody uses memory of rank 1";
    } else {
      EXPECT_GT(at_end[0], 0.03) << "rank 1 uses keys of rank 0, and is slow";
      EXPECT_EQ(at_end[0], waiting[0]) << "rank 0 needs no message";
    }
  }
}

TEST(Execute, TraceTellsEveryInstruction) {
  const Schedule schedule = ExecuteCase{.method = "zigzag", .ranks = 2}.schedule();
  std::array<std::vector<TraceEvent>, 2> events;
  ExecuteOptions options;
  options.trace = [&](const TraceEvent& event) { events[static_cast<size_t>(event.rank)].push_back(event); };
  const CheckReport report = check_schedule(schedule, {.compare = false, .execute = options});
  const StoredSchedule stored = schedule.store();
  for (size_t rank = 0; rank < 2; ++rank) {
    ASSERT_EQ(events[rank].size(), stored.programs[rank].instructions.size());
    double waiting = 0;
    for (size_t n = 0; n < events[rank].size(); ++n) {
      const TraceEvent& event = events[rank][n];
      EXPECT_EQ(event.instruction, static_cast<int64_t>(n));
      EXPECT_EQ(event.op, stored.programs[rank].instructions[n].op);
      EXPECT_LE(event.begin, event.end);
      EXPECT_LE(event.waiting, event.end - event.begin + 1e-9);
      waiting += event.waiting;
    }
    EXPECT_LE(waiting, report.waiting_seconds[rank] + 1e-9);
  }
}

}  // namespace
}  // namespace weft
