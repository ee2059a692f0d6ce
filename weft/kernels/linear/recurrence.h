// The local work of a linear layer on one run of neighbouring tokens, chunk by chunk, exact for every decay.
//
// Per head, R_t = F_t R_{t-1} + k_t v_t^T and out_t = scale * R_t^T q_t, with R = 0 where a document begins, and F_t the
// diagonal of exp g_t, alone or with a matrix of rank one (schedule/layer.h: Mixing). A run is an affine map of the state
// R_in that enters it, and its outputs are affine in R_in too; gradients are linear in (dout, G), G the gradient of the state
// that leaves. So every function below is the part that is due to its own operands, and adds it:
//
//   scan + apply_state(R_in)                 = out of the run
//   scan_backward(dout, R_in) + apply_dstate(G, R_in) = dq, dk, dv, dg, ..
//   summarise = the state that leaves when R_in = 0;      summarise_backward = the gradient of R_in when G = 0
//   transition = what R_in is multiplied by on its way through the run
//
// which lets a rank do its share before the state of the others has come. docs/linear.md derives the formulas. Decays are
// only ever multiplied as exp of sums of logarithms that are at most 0, and a document's begin is a flag, so nothing
// overflows for any g <= 0, however strong. States, sums and gradients are fp32, fp64 for fp64 inputs.
#pragma once

#include <cstdint>
#include <span>

#include "weft/kernels/kernels.h"

namespace weft::kernels {

// The decay of a layer in one head: `columns` of g per token (1, or dim: one for each row of R), or 0 where it is the
// constant exp(log_decay).
struct Decays {
  int64_t columns = 0;
  double log_decay = 0;
};

// A run of neighbouring tokens in one head: row t of each view is token t of the run.
struct TokenRun {
  ConstView q, k, v;  // [rows, dim], [rows, dim], [rows, dim_v], element type; q is not read by summarise
  ConstView g;        // [rows, decays.columns], fp32 (fp64): logarithms, at most 0
  ConstView beta;     // [rows, 1], fp32 (fp64): the delta rule; or null
  // Of the delta rule: a token decays once and writes so often, k, v and beta having as many rows for it in each of their own.
  int64_t householders = 1;
  ConstView a, b;      // [rows, dim], element type: F_t = diag(exp g_t) + b_t a_t^T; or null
  int64_t blocks = 0;  // not 0: R_t = R_{t-1} A_t^T + k_t v_t^T, and a is A_t: schedule/layer.h, Mixing::columns
  ConstView u;         // [1, dim], fp32 (fp64): out_t reads R_{t-1} + diag(u) k_t v_t^T; null: it reads R_t
  Decays decays;
  int64_t rows = 0;
  int64_t dim = 0, dim_v = 0;
  double scale = 1;
  std::span<const int64_t> starts;  // rows at which a document begins, ascending
  ConstView initial;                // the state that each of them begins with, a row [dim, dim_v] for each; null: zero
  bool ends = false;                // the last row ends its document, as rows before starts always do
  // Not empty: `final` and `dfinal` have rows for the states after these rows, ascending, and for no others.
  std::span<const int64_t> asked = {};
  const StopFlag* stop = nullptr;      // polled per chunk; raises Error(stopped)
  const KernelSet* kernels = nullptr;  // whose products fp32 sums are made of; null: cpu_kernels()
};

// States are [dim, dim_v] and transitions [1 or dim], or [dim, dim] where rows mix, or as a of columns; contiguous, fp32
// (fp64). They are written, not added to.
//
// `dfinal` has a row [dim, dim_v] for each document that ends in the run, or for each state that is asked for, the gradient of
// that state; `final` below the states themselves. Both may be null.
void summarise(const TokenRun& run, const View& state);
void transition(const TokenRun& run, const View& transition);
void summarise_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const View& dstate);

// `out` [rows, dim_v], fp32 (fp64), is added to; so are the gradients below, of which any may be null. `entering` is the state
// before the run's first token, `leaving` that after its last one; null: nothing enters, nobody asks.
void scan(const TokenRun& run, const ConstView& entering, const View& out, const View& final, const View& leaving);
// What `state` changes that enters after the run has been scanned by itself.
void apply_state(const TokenRun& run, const ConstView& state, const View& out, const View& final);

struct RunGradients {
  View dq, dk, dv;  // [rows, dim], [rows, dim], [rows, dim_v], fp32 (fp64)
  View dg;          // [rows, decays.columns]
  View dbeta;       // [rows, 1]
  View da, db;      // [rows, dim]
  View du;          // [1, dim]
  View dinitial;    // a row [dim, dim_v] for each of the starts
};
// What a run's ends take and give in backward: the state that entered it, the gradient of the one that left it, and, written,
// the gradient of the one that entered. Any may be null.
struct RunEnds {
  ConstView state, dstate;
  View leaving;
};
void scan_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const RunEnds& ends,
                   const RunGradients& gradients);
// What `dstate` adds that comes after the run's own gradients; `state` as it entered, or null.
void apply_dstate(const TokenRun& run, const ConstView& dstate, const ConstView& state, const RunGradients& gradients);

// Where nothing decays and tokens read all of their document, the later ones too, a state is a sum over tokens: `summarise`,
// `summarise_backward`, `apply_state` and `apply_dstate` of runs of one document without `starts` are those of such a layer, and
// these are `scan` and `scan_backward` of a run of whole documents, and dq += scale * R dout.
void scan_both_ways(const TokenRun& run, const View& out);
void scan_both_ways_backward(const TokenRun& run, const ConstView& dout, const RunGradients& gradients);
void apply_state_to_dout(const TokenRun& run, const ConstView& dout, const ConstView& state, const View& dq);

// Of two runs that follow one another: joined = passed * near + far, where `near` is what passes through the run of `far`
// and meets its transition there: the earlier of two states, the later of two dstates.
struct Composition {
  ConstView near, far;      // [dim, dim_v]
  ConstView transition;     // of far's run; null for a constant decay
  bool mixes_rows = false;  // the transition is a matrix, not its diagonal
  int64_t blocks = 0;       // not 0: it acts on columns, as TokenRun::blocks
  bool transposed = false;  // of dstates
  Decays decays;
  int64_t rows = 0;  // tokens of far's run
  bool cut = false;  // a document begins in far's run, so nothing passes
  int64_t dim = 0, dim_v = 0;
  const KernelSet* kernels = nullptr;  // as in TokenRun
};
void compose_states(const Composition& composition, const View& joined);
// The transition of two runs that follow one another, from theirs: `columns` numbers, or [columns, columns] where rows mix.
void multiply_transitions(const ConstView& earlier, const ConstView& later, int64_t columns, bool mixes_rows,
                          const View& joined, const KernelSet* kernels = nullptr);
void multiply_column_transitions(const ConstView& earlier, const ConstView& later, int64_t dim_v, int64_t blocks,
                                 const View& joined);

}  // namespace weft::kernels
