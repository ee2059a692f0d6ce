// Execution: runs one rank's program on real memory, with a set of kernels and a transport.
//
//   BufferPool pool;                                           // one per rank, kept between runs
//   Executor executor(schedule, rank, endpoint, cpu_kernels(), pool);
//   std::unique_ptr<Execution> run = executor.start();
//   run->forward({.q = {q}, .k = {k}, .v = {v}}, {.out = out, .lse = lse});
//   run->backward({.q = {q}, .k = {k}, .v = {v}, .out = {out}, .lse = {lse}, .dout = {dout}},
//                 {.dq = dq, .dk = dk, .dv = dv});
//
// Every rank does the same on its own thread (transport/run_threads.h). The caller's tensors hold
// the rank's own tokens in local order: [tokens, heads, columns] in the element type; lse in the
// accumulator type. They are used until the call returns and not after, neither here nor on any
// other rank. What the program keeps for backward lives in the Execution.
//
// Nothing here touches a value but the kernels and their memory (KernelSet::memory): tensors, buffers and messages lie
// there, and on a device everything is queued on its stream in the order of the program.
//
// An exchange is posted at its place in the program and waited for at the first conflicting use
// (schedule/dependencies.h); values travel without a copy where they may be shared. An error on any
// rank stops all: it is thrown once, as weft::Error with rank, instruction and text, by the rank it
// happened on; the others throw Error(stopped).
#pragma once

#include <functional>
#include <memory>

#include "weft/execute/buffer_pool.h"
#include "weft/kernels/kernels.h"
#include "weft/schedule/schedule.h"
#include "weft/transport/transport.h"

namespace weft {

namespace execute_internal {
struct Context;
}

// A tensor of the caller: rows of contiguous [heads, columns].
struct ConstTensor {
  const void* data = nullptr;
  int64_t row_stride = 0;  // elements from row to row; 0: contiguous
};

// What the caller gives: q, k, v; in backward also out, lse and dout, as far as the program reads
// them, and dlse, [tokens, heads] in the accumulator type, when lse has a gradient too.
struct Inputs {
  ConstTensor q = {}, k = {}, v = {};
  ConstTensor out = {}, lse = {}, dout = {}, dlse = {};
  ConstTensor g = {}, beta = {};  // of linear layers that have them; accumulator type
  ConstTensor a = {}, b = {};     // likewise; element type
  // One row for each document that begins, or ends, among the rank's tokens, in the order of these; accumulator type.
  ConstTensor initial_state = {}, dfinal_state = {};

  ConstTensor u = {};  // of rwkv6: [heads, dim], the same on all ranks; accumulator type

  // Null for a field that no caller gives.
  const ConstTensor* of(Field field) const;
  ConstTensor* of(Field field);
};

// Where results go. Null: the execution provides the memory.
struct Destinations {
  void *out = nullptr, *lse = nullptr;                                 // forward
  void *dq = nullptr, *dk = nullptr, *dv = nullptr;                    // backward
  void *dg = nullptr, *dbeta = nullptr, *da = nullptr, *db = nullptr;  // backward of layers with these inputs
  void *final_state = nullptr, *dinitial_state = nullptr;              // where the problem has them
  void* du = nullptr;  // backward of rwkv6: [heads, dim], this rank's share; their sum over ranks is the gradient

  // Null for a field that is no result.
  void** place_of(Field field);
  void* of(Field field) const;
};

// A result in local order: the caller's destination, or memory that `owner` keeps. Null when the
// rank has no tokens or the program does not give it (lse without Problem::return_lse).
struct Result {
  void* data = nullptr;
  std::shared_ptr<const void> owner;
};
struct Results {
  Result out, lse;
  Result dq, dk, dv;
  Result dg, dbeta, da, db;
  Result final_state, dinitial_state;
  Result du;

  Result& of(Field field);
};

// One instruction as it was executed. Seconds of a steady clock.
struct TraceEvent {
  int rank = 0;
  int64_t instruction = 0;
  Op op{};
  int lane = 0;
  uint32_t step = 0;
  double begin = 0;
  double end = 0;
  double waiting = 0;  // part of end - begin in which the rank was blocked
};

struct ExecuteOptions {
  bool overlap = true;      // false: every exchange blocks at its issue until all its messages met
  bool poison = false;      // debugging: memory that nobody may read holds NaN (pass a poison pool)
  int threads = 1;          // of this rank, for attention; the results have the same bits for every number
  uint64_t delay_seed = 0;  // debugging: not 0: random pauses between instructions
  std::function<void(const TraceEvent&)> trace = {};  // called on the rank's thread
};

// One run of a rank's program: forward, then backward if there is one.
class Execution {
 public:
  virtual ~Execution() = default;
  // Runs the program to its second phase, or to the end.
  virtual Results forward(const Inputs& inputs, const Destinations& destinations = {}) = 0;
  // Goes on to the end.
  virtual Results backward(const Inputs& inputs, const Destinations& destinations = {}) = 0;

  // Bytes of this rank's values, inputs and results included, of what it is receiving, and of
  // staging: the measure that the verifier bounds. Borrowed values count where they are held.
  virtual int64_t live_bytes() const = 0;
  virtual int64_t peak_bytes() const = 0;
  // How long this run was blocked: for messages that its next instruction needs, or at the end of a phase.
  virtual double waiting_seconds() const = 0;
  // The part of that at the ends of phases: until no other rank, still at work, uses memory of this one.
  virtual double phase_end_seconds() const = 0;
};

// Runs a rank's program any number of times; remembers what does not change from run to run.
class Executor {
 public:
  // Endpoint, kernels and pool must outlive the executor.
  Executor(const Schedule& schedule, int rank, Endpoint& endpoint, const kernels::KernelSet& kernels, BufferPool& pool,
           ExecuteOptions options = {});
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // Several runs may be under way, say one per layer of a model; one thread at a time uses them.
  // They must end before the executor.
  std::unique_ptr<Execution> start();

  const Problem& problem() const;
  int rank() const;

 private:
  std::unique_ptr<execute_internal::Context> context_;
};

}  // namespace weft
