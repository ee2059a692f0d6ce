// Schedule: a problem and, for each rank, a program. The one object that is verified, drawn and executed.
//
// Programs are written on demand: open(rank) starts a coroutine that writes the rank's instructions step by step, so
// a schedule of thousands of ranks costs nothing until it is read. stored() keeps every instruction, for files,
// for changes by hand and for tests.
//
//   Schedule schedule = make_schedule("zigzag", problem);            // methods/registry.h
//   SetPool pool;
//   auto program = schedule.open(0, pool);
//   for (Block block; program->next(block);) ...
#pragma once

#include <coroutine>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "weft/schedule/instruction.h"
#include "weft/schedule/problem.h"

namespace weft {

class Builder;

// A rank's program as it is read: one block per step.
class Program {
 public:
  virtual ~Program() = default;
  // The next block, or false at the end. The spans of the block stay valid until the next call.
  virtual bool next(Block& block) = 0;
};

// What a method's writer returns: a coroutine that fills a Builder and says `co_yield Step{}` once per step.
struct Step {};
class Steps {
 public:
  struct promise_type {
    std::exception_ptr error;
    Steps get_return_object() { return Steps(std::coroutine_handle<promise_type>::from_promise(*this)); }
    std::suspend_always initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    std::suspend_always yield_value(Step) noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { error = std::current_exception(); }
  };

  explicit Steps(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  Steps(Steps&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Steps& operator=(Steps&&) = delete;
  ~Steps() {
    if (handle_) handle_.destroy();
  }
  // Writes one more step. False once the program has ended. Rethrows what the writer threw.
  bool write_step();

 private:
  std::coroutine_handle<promise_type> handle_;
};

// Writes the program of one rank. Must not depend on which other ranks are written. As a coroutine it is a plain
// function whose parameters are values or outlive it (never a lambda with captures).
using Writer = std::function<Steps(int rank, Builder& builder)>;

// Every program in full, in the order of the ranks.
struct StoredProgram {
  std::vector<Instruction> instructions;
  std::vector<Slice> slices;
  std::vector<Part> parts;
  Block block() const { return {instructions, slices, parts}; }
};
struct StoredSchedule {
  std::unique_ptr<SetPool> pool;
  std::vector<StoredProgram> programs;
};

class Schedule {
 public:
  // `method` names the writer in outputs.
  Schedule(std::string method, std::shared_ptr<const Problem> problem, Writer writer);
  Schedule(std::string method, std::shared_ptr<const Problem> problem, std::shared_ptr<const StoredSchedule> stored);

  const std::string& method() const { return method_; }
  const Problem& problem() const { return *problem_; }
  std::shared_ptr<const Problem> shared_problem() const { return problem_; }
  int ranks() const { return problem_->ranks(); }

  // Starts reading a rank's program; sets are interned in `pool`, which must outlive the program.
  std::unique_ptr<Program> open(int rank, SetPool& pool) const;
  // All programs in full. Throws Error(unsupported) when they have more than `limit` instructions in all.
  StoredSchedule store(int64_t limit = kStoreLimit) const;
  static constexpr int64_t kStoreLimit = 2'000'000;

 private:
  std::string method_;
  std::shared_ptr<const Problem> problem_;
  Writer writer_;
  std::shared_ptr<const StoredSchedule> stored_;
};

}  // namespace weft
