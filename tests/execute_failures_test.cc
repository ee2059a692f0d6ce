// What goes wrong while a schedule is executed: one error, soon, and nothing else.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <new>

#include "tests/execute_case.h"
#include "weft/base/random.h"
#include "weft/base/test_level.h"
#include "weft/transport/run_threads.h"

namespace weft {
namespace {

using kernels::KernelSet;

// Reference kernels of which the n-th attention call, over all ranks, calls `strike`.
class FailingKernels final : public KernelSet {
 public:
  FailingKernels(int64_t strikes_at, std::function<void()> strike)
      : calls_left_(strikes_at), strike_(std::move(strike)) {}
  std::string_view name() const override { return "failing"; }
  bool supports(DType) const override { return true; }
  void attend(const kernels::AttendArgs& args) const override {
    count();
    kernels::reference_kernels().attend(args);
  }
  void attend_backward(const kernels::AttendBackwardArgs& args) const override {
    count();
    kernels::reference_kernels().attend_backward(args);
  }
  void prepare_backward(kernels::View delta, kernels::ConstView out, kernels::ConstView dout,
                        kernels::ConstView dlse, kernels::Shape shape) const override {
    kernels::reference_kernels().prepare_backward(delta, out, dout, dlse, shape);
  }
  void merge(kernels::View o, kernels::View lse, kernels::ConstView from_o,
             kernels::ConstView from_lse, kernels::Shape shape) const override {
    kernels::reference_kernels().merge(o, lse, from_o, from_lse, shape);
  }
  void add(kernels::View to, kernels::ConstView from, kernels::Shape shape) const override {
    kernels::reference_kernels().add(to, from, shape);
  }
  void convert(kernels::View to, kernels::ConstView from, kernels::Shape shape) const override {
    kernels::reference_kernels().convert(to, from, shape);
  }
  bool struck() const { return calls_left_ < 0; }

 private:
  void count() const {
    if (calls_left_-- == 0) strike_();
  }
  mutable std::atomic<int64_t> calls_left_;
  std::function<void()> strike_;
};

TEST(ExecuteFailures, AnErrorOnOneRankStopsAll) {
  for (const auto& [method, options] : methods_to_execute()) {
    for (const int ranks : {1, 3, 8}) {
      for (int64_t call = 0; call < 40; call += 3) {
        const ExecuteCase c{
            .method = method, .options = options, .lengths = {30, 1, 20}, .ranks = ranks};
        SCOPED_TRACE(c.describe() + " call " + std::to_string(call));
        const FailingKernels kernels(call, [] { throw Error(ErrorCode::io, "the device burns"); });
        const auto begin = std::chrono::steady_clock::now();
        try {
          check_schedule(c.schedule(), {.kernels = &kernels, .compare = false});
          EXPECT_FALSE(kernels.struck());
          break;  // fewer calls than that
        } catch (const Error& error) {
          const std::string text = error.what();
          EXPECT_EQ(error.code(), ErrorCode::io);
          EXPECT_NE(text.find("rank "), text.npos) << text;
          EXPECT_NE(text.find(", instruction "), text.npos) << text;
          EXPECT_NE(text.find("(attend"), text.npos) << text;
          EXPECT_NE(text.find(": the device burns"), text.npos) << text;
          EXPECT_EQ(text.find("stopped"), text.npos) << text;
        }
        EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
      }
    }
  }
}

TEST(ExecuteFailures, OtherExceptionsGetTheirPlaceToo) {
  const FailingKernels kernels(2, [] { throw std::bad_alloc(); });
  try {
    check_schedule(ExecuteCase{.ranks = 3}.schedule(), {.kernels = &kernels, .compare = false});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::internal);
    EXPECT_NE(std::string(error.what()).find("bad_alloc"), std::string::npos) << error.what();
  }
}

TEST(ExecuteFailures, InterruptStopsAll) {
  StopFlag stop;
  const FailingKernels kernels(1, [&] { stop.raise(); });
  try {
    // Long enough to be still under way when the interrupt is seen.
    check_schedule(ExecuteCase{.lengths = {3000}, .ranks = 2}.schedule(),
                   {.kernels = &kernels, .compare = false, .stop = &stop});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::stopped);
    EXPECT_STREQ(error.what(), "interrupted");
  }
}

// ---- damaged programs

// A stored schedule with one thing changed at random, in a way that keeps its records readable.
std::shared_ptr<const StoredSchedule> damaged(const Schedule& schedule, Random& random) {
  auto stored = std::make_shared<StoredSchedule>(schedule.store());
  const int64_t sets = static_cast<int64_t>(stored->pool->count());
  StoredProgram& program = stored->programs[static_cast<size_t>(
      random.uniform(static_cast<int64_t>(stored->programs.size())))];
  const auto any = [&](auto& list) -> auto& {
    return list[static_cast<size_t>(random.uniform(static_cast<int64_t>(list.size())))];
  };
  const auto change = [&](Slice& slice) {
    switch (random.uniform(4)) {
      case 0: slice.value = static_cast<ValueId>(random.uniform(12)); break;
      case 1: slice.tokens = static_cast<SetId>(random.uniform(sets)); break;
      case 2: slice.heads = static_cast<SetId>(random.uniform(sets)); break;
      case 3:
        slice.fields = Fields::from_bits(static_cast<uint16_t>(random.uniform(1 << kFieldCount)));
        break;
    }
  };
  if (program.instructions.empty()) return stored;
  switch (random.uniform(7)) {
    case 0: change(any(program.slices)); break;
    case 1:
      if (!program.parts.empty()) change(any(program.parts).slice);
      break;
    case 2:
      if (!program.parts.empty())
        any(program.parts).peer = static_cast<int32_t>(random.uniform(-1, 5));
      break;
    case 3:
      if (!program.parts.empty())
        any(program.parts).combine = static_cast<Combine>(random.uniform(3));
      break;
    case 4: {
      const int64_t at = random.uniform(static_cast<int64_t>(program.instructions.size()));
      program.instructions.erase(program.instructions.begin() + at);
      break;
    }
    case 5: {
      const int64_t at = random.uniform(static_cast<int64_t>(program.instructions.size()));
      program.instructions.insert(program.instructions.begin() + at, any(program.instructions));
      break;
    }
    case 6: {
      Instruction& instruction = any(program.instructions);
      if (instruction.op == Op::exchange) {
        instruction.lane = static_cast<uint8_t>(random.uniform(kLanes));
      } else {
        // Another operation, or the operands in other roles: as many in all.
        instruction.op = static_cast<Op>(random.uniform(kOpCount));
        if (instruction.op == Op::exchange) instruction.op = Op::drop;
        std::swap(instruction.queries, instruction.sources);
        std::swap(instruction.form, any(program.instructions).form);
      }
      break;
    }
  }
  return stored;
}

// Thousands of damaged schedules: each gives one error or a result, never a hang or a stray access.
TEST(ExecuteFailures, DamagedProgramsNeverHangOrCrash) {
  const int64_t rounds = test_level() == 0 ? 30 : test_level() == 1 ? 250 : 3000;
  int64_t refused = 0, ran = 0;
  Random random(11);
  for (const auto& [method, options] : methods_to_execute()) {
    for (int64_t n = 0; n < rounds; ++n) {
      const ExecuteCase c{.method = method,
                          .options = options,
                          .lengths = {7, 1, 9},
                          .ranks = 3,
                          .heads = 4,
                          .kv_heads = 2};
      const Schedule good = c.schedule();
      const Schedule bad("damaged", good.shared_problem(), damaged(good, random));
      const auto begin = std::chrono::steady_clock::now();
      try {
        check_schedule(bad, {.compare = false,
                             .execute = {.overlap = random.uniform(2) == 0,
                                         .poison = random.uniform(2) == 0}});
        ++ran;
      } catch (const Error& error) {
        const std::string text = error.what();
        EXPECT_EQ(error.code(), ErrorCode::wrong) << text;
        EXPECT_EQ(text.find("stopped"), text.npos) << text;
        ++refused;
      }
      EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2))
          << c.describe() << " " << n;
    }
  }
  EXPECT_GT(refused, ran / 10);
  RecordProperty("refused", std::to_string(refused));
  RecordProperty("ran", std::to_string(ran));
}

// ---- the caller's side

struct OneRank {
  explicit OneRank(const ExecuteCase& c = {.ranks = 1})
      : schedule(c.schedule()),
        inputs(random_inputs(schedule.problem(), 1)),
        transport(1),
        executor(schedule, 0, transport.endpoint(0), kernels::reference_kernels(), pool) {}
  Inputs forward_inputs() {
    return {.q = {inputs.q.data()}, .k = {inputs.k.data()}, .v = {inputs.v.data()}};
  }

  Schedule schedule;
  CheckTensors inputs;
  ThreadTransport transport;
  BufferPool pool;
  Executor executor;
};

template <typename F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(ExecuteFailures, MissingInputsAndPhases) {
  {
    OneRank one;
    const std::string text = error_of([&] { one.executor.start()->forward({}); });
    EXPECT_NE(text.find("the caller gave no q"), text.npos) << text;
    const std::string later =
        error_of([&] { one.executor.start()->forward(one.forward_inputs()); });
    EXPECT_EQ(later.find("stopped"), 0u) << later;
  }
  OneRank one;
  const auto run = one.executor.start();
  EXPECT_EQ(error_of([&] { run->backward({}); }), "backward needs a forward before it");
  run->forward(one.forward_inputs());
  EXPECT_EQ(error_of([&] { run->forward(one.forward_inputs()); }),
            "this execution has run forward before");
  EXPECT_NE(error_of([&] { run->backward(one.forward_inputs()); }).find("the caller gave no"),
            std::string::npos);
}

TEST(ExecuteFailures, WrongRankKernelsOrTransport) {
  OneRank one;
  const Schedule& schedule = one.schedule;
  Endpoint& endpoint = one.transport.endpoint(0);
  const KernelSet& reference = kernels::reference_kernels();
  EXPECT_NE(
      error_of([&] { Executor(schedule, 1, endpoint, reference, one.pool); }).find("not among"),
      std::string::npos);
  EXPECT_NE(error_of([&] {
              Executor(schedule, 0, endpoint, kernels::cpu_kernels("portable"), one.pool);
            }).find("fp64"),
            std::string::npos);
  const Schedule two = ExecuteCase{.ranks = 2}.schedule();
  EXPECT_NE(error_of([&] { Executor(two, 0, endpoint, reference, one.pool); }).find("endpoint"),
            std::string::npos);
}

// Results without a destination, inputs with space between rows, several runs at once, as in a model with layers.
TEST(Execute, RunsOfSeveralLayersShareMemory) {
  const ExecuteCase c{
      .method = "zigzag", .lengths = {64, 33}, .ranks = 3, .heads = 4, .kv_heads = 2};
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
        for (int64_t i = 0; i < widths[which]; ++i)
          fused.push_back(tensor->at(position * widths[which] + i));
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
    const Inputs given{.q = {fused.data(), width},
                       .k = {fused.data() + 12, width},
                       .v = {fused.data() + 18, width}};
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
    const ExecuteCase c{.method = method,
                        .options = options,
                        .lengths = {40, 1, 20},
                        .ranks = 4,
                        .heads = 4,
                        .kv_heads = 2};
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
      run->forward({.q = {q.data()}, .k = {k.data()}, .v = {v.data()}},
                   {.out = out.data(), .lse = lse.data()});
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
      for (auto* tensor : {&q, &k, &v, &out, &lse, &dout})
        tensor->assign(tensor->size(), std::nan(""));
      const auto same = [&](const Result& result, const HostTensor& global) {
        const auto wanted = take(global);
        EXPECT_TRUE(
            std::equal(wanted.begin(), wanted.end(), static_cast<const double*>(result.data)));
      };
      same(results.dq, expected.dq);
      same(results.dk, expected.dk);
      same(results.dv, expected.dv);
    });
  }
}

TEST(Execute, TraceTellsEveryInstruction) {
  const Schedule schedule = ExecuteCase{.method = "zigzag", .ranks = 2}.schedule();
  std::array<std::vector<TraceEvent>, 2> events;
  ExecuteOptions options;
  options.trace = [&](const TraceEvent& event) {
    events[static_cast<size_t>(event.rank)].push_back(event);
  };
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
