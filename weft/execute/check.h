// Check: executes a schedule on random data and compares every result with dense attention, or with the recurrence of a
// linear layer token by token, in fp64.
//
//   CheckReport report = check_schedule(schedule, {.seed = 1});
//   report.ok; report.errors[0].max_abs;
//
// Inputs are standard normal, by seed, rounded to the problem's element type; both sides get the
// rounded numbers. Of linear layers, logarithms of decays are -exp(1.5 x - 4), from nearly none to strong, and what mixes rows
// is what models have: k of length 1 and beta = 2 / (1 + exp x); a = -kappa, b = kappa / (1 + exp x), kappa of length 1. All
// ranks run as threads of this process. docs/numerics.md derives the bounds.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "weft/base/stop.h"
#include "weft/execute/executor.h"
#include "weft/execute/host_tensor.h"

namespace weft {

struct CheckOptions {
  uint64_t seed = 0;
  const kernels::KernelSet* kernels = nullptr;  // null: reference for fp64, else the CPU's best
  bool compare = true;                          // false: only execute, no reference, errors stay empty
  ExecuteOptions execute = {};
  const StopFlag* stop = nullptr;  // Ctrl-C
};

// One tensor against its reference. Rows without an allowed key must be exactly (0, -inf).
struct TensorError {
  std::string name;    // out, lse, dq, dk, dv, dg, ..
  double max_abs = 0;  // largest absolute difference; NaN where a number is missing
  double max_rel = 0;  // max_abs over the largest absolute value of the reference
  double bound = 0;    // allowed max_abs
  bool ok() const { return max_abs <= bound; }
  // Largest absolute difference by rank that holds the token, and head: [rank * heads + head].
  std::vector<double> by_rank_and_head;
};

// Everything in global token order: [tokens, heads, columns], in the element type; lse in the
// accumulator type.
struct CheckTensors {
  HostTensor q, k, v, dout;
  HostTensor g, beta, a, b;  // of linear layers that have them, else empty; g, beta, dg, dbeta in the accumulator type
  HostTensor out, lse;       // lse empty unless the problem returns it
  HostTensor dq, dk, dv;
  HostTensor dg, dbeta, da, db;
  // Of linear layers where the problem has them: a row for each document, or for each state that is asked for,
  // [rows, heads, dim * dim_v].
  HostTensor initial_state, final_state, dfinal_state, dinitial_state;
  HostTensor u, du;  // of rwkv6: [1, heads, dim]; du summed over the ranks

  HostTensor& of(Field field);
  const HostTensor& of(Field field) const { return const_cast<CheckTensors*>(this)->of(field); }
};

struct CheckReport {
  bool ok = true;
  std::vector<TensorError> errors;
  CheckTensors tensors;
  std::vector<int64_t> peak_bytes;      // by rank, as Execution::peak_bytes
  std::vector<double> waiting_seconds;  // by rank
};

// Inputs by seed for a problem.
CheckTensors random_inputs(const Problem& problem, uint64_t seed);

// Runs forward, and backward if the problem has it. Throws what the execution throws.
CheckReport check_schedule(const Schedule& schedule, const CheckOptions& options = {});
// The same with given q, k, v and dout.
CheckReport check_schedule(const Schedule& schedule, CheckTensors inputs, const CheckOptions& options = {});

}  // namespace weft
