// What goes wrong while a schedule is executed: one error, soon, and nothing else.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <new>

#include "tests/execute_case.h"
#include "tests/planted_kernels.h"
#include "weft/base/random.h"
#include "weft/base/test_level.h"
#include "weft/transport/run_threads.h"

namespace weft {
namespace {

// Reference kernels of which the n-th attention call, over all ranks, calls `strike`.
class FailingKernels final : public PassOnKernels {
 public:
  FailingKernels(int64_t strikes_at, std::function<void()> strike)
      : PassOnKernels(kernels::reference_kernels()), calls_left_(strikes_at), strike_(std::move(strike)) {}
  void attend(const kernels::AttendArgs& args) const override {
    count();
    base().attend(args);
  }
  void attend_backward(const kernels::AttendBackwardArgs& args) const override {
    count();
    base().attend_backward(args);
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
        const ExecuteCase c{.method = method, .options = options, .lengths = {30, 1, 20}, .ranks = ranks};
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
    EXPECT_STREQ(error.what(), "stopped");
  }
}

// ---- damaged programs

// A stored schedule with one thing changed at random, in a way that keeps its records readable.
std::shared_ptr<const StoredSchedule> damaged(const Schedule& schedule, Random& random) {
  auto stored = std::make_shared<StoredSchedule>(schedule.store());
  const int64_t sets = static_cast<int64_t>(stored->pool->count());
  StoredProgram& program =
      stored->programs[static_cast<size_t>(random.uniform(static_cast<int64_t>(stored->programs.size())))];
  const auto any = [&](auto& list) -> auto& {
    return list[static_cast<size_t>(random.uniform(static_cast<int64_t>(list.size())))];
  };
  const auto change = [&](Slice& slice) {
    switch (random.uniform(4)) {
      case 0: slice.value = static_cast<ValueId>(random.uniform(12)); break;
      case 1: slice.tokens = static_cast<SetId>(random.uniform(sets)); break;
      case 2: slice.heads = static_cast<SetId>(random.uniform(sets)); break;
      case 3: slice.fields = Fields::from_bits(static_cast<uint32_t>(random.uniform(int64_t{1} << kFieldCount))); break;
    }
  };
  if (program.instructions.empty()) return stored;
  switch (random.uniform(7)) {
    case 0: change(any(program.slices)); break;
    case 1:
      if (!program.parts.empty()) change(any(program.parts).slice);
      break;
    case 2:
      if (!program.parts.empty()) any(program.parts).peer = static_cast<int32_t>(random.uniform(-1, 5));
      break;
    case 3:
      if (!program.parts.empty()) any(program.parts).combine = static_cast<Combine>(random.uniform(3));
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
      const ExecuteCase c{
          .method = method, .options = options, .lengths = {7, 1, 9}, .ranks = 3, .heads = 4, .kv_heads = 2};
      const Schedule good = c.schedule();
      const Schedule bad("damaged", good.shared_problem(), damaged(good, random));
      const auto begin = std::chrono::steady_clock::now();
      try {
        check_schedule(
            bad, {.compare = false, .execute = {.overlap = random.uniform(2) == 0, .poison = random.uniform(2) == 0}});
        ++ran;
      } catch (const Error& error) {
        const std::string text = error.what();
        EXPECT_EQ(error.code(), ErrorCode::wrong) << text;
        EXPECT_EQ(text.find("stopped"), text.npos) << text;
        ++refused;
      }
      EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2)) << c.describe() << " " << n;
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
  Inputs forward_inputs() { return {.q = {inputs.q.data()}, .k = {inputs.k.data()}, .v = {inputs.v.data()}}; }

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
    const std::string later = error_of([&] { one.executor.start()->forward(one.forward_inputs()); });
    EXPECT_EQ(later.find("stopped"), 0u) << later;
  }
  OneRank one;
  const auto run = one.executor.start();
  EXPECT_EQ(error_of([&] { run->backward({}); }), "backward needs a forward before it");
  run->forward(one.forward_inputs());
  EXPECT_EQ(error_of([&] { run->forward(one.forward_inputs()); }), "this execution has run forward before");
  EXPECT_NE(error_of([&] { run->backward(one.forward_inputs()); }).find("the caller gave no"), std::string::npos);
}

TEST(ExecuteFailures, WrongRankKernelsOrTransport) {
  OneRank one;
  const Schedule& schedule = one.schedule;
  Endpoint& endpoint = one.transport.endpoint(0);
  const kernels::KernelSet& reference = kernels::reference_kernels();
  EXPECT_NE(error_of([&] { Executor(schedule, 1, endpoint, reference, one.pool); }).find("not among"),
            std::string::npos);
  EXPECT_NE(error_of([&] { Executor(schedule, 0, endpoint, kernels::cpu_kernels("portable"), one.pool); }).find("fp64"),
            std::string::npos);
  const Schedule two = ExecuteCase{.ranks = 2}.schedule();
  EXPECT_NE(error_of([&] { Executor(two, 0, endpoint, reference, one.pool); }).find("endpoint"), std::string::npos);
}

}  // namespace
}  // namespace weft
