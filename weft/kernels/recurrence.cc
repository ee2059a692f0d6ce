#include "weft/kernels/recurrence.h"

#include <cmath>

#include "weft/kernels/recurrence_math.h"

namespace weft::kernels {
namespace {

using namespace recurrence_internal;

const LocalWork& work_of(const TokenRun& run) { return run.beta.data || run.a.data ? low_rank_work : diagonal_work; }

// to += transition * near, both whole matrices.
template <typename T>
void add_mixed(const Composition& p, T* to) {
  const T *transition = numbers<T>(p.transition), *near = numbers<T>(p.near);
  if (p.transposed) {
    add_transposed_product(to, transition, near, p.dim, p.dim, p.dim_v);
  } else {
    add_product(to, transition, near, p.dim, p.dim, p.dim_v);
  }
}

void add_decayed(const Composition& p, const View& to) {
  for (int64_t c = 0; c < p.dim; ++c) {
    const double kept = p.transition.data ? load(p.transition, 0, 0, p.decays.columns == 1 ? 0 : c)
                                          : std::exp(static_cast<double>(p.rows) * p.decays.log_decay);
    for (int64_t d = c * p.dim_v; d < (c + 1) * p.dim_v && kept != 0; ++d)
      store(to, 0, 0, d, load(ConstView(to), 0, 0, d) + kept * load(p.near, 0, 0, d));
  }
}

// Calls f(T{}) with the type of a state.
template <typename F>
void in_type(DType type, F&& f) {
  if (type == DType::fp64) {
    f(double{});
  } else {
    f(float{});
  }
}

}  // namespace

void summarise(const TokenRun& run, const View& state) { work_of(run).summarise(run, state); }

void transition(const TokenRun& run, const View& to) { work_of(run).transition(run, to); }

void summarise_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const View& dstate) {
  work_of(run).summarise_backward(run, dout, dfinal, dstate);
}

void scan(const TokenRun& run, const View& out, const View& final) { work_of(run).scan(run, out, final); }

void apply_state(const TokenRun& run, const ConstView& state, const View& out, const View& final) {
  work_of(run).apply_state(run, state, out, final);
}

void scan_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const ConstView& state,
                   const RunGradients& gradients) {
  work_of(run).scan_backward(run, dout, dfinal, state, gradients);
}

void apply_dstate(const TokenRun& run, const ConstView& dstate, const ConstView& state, const RunGradients& gradients) {
  work_of(run).apply_dstate(run, dstate, state, gradients);
}

void compose_states(const Composition& p, const View& joined) {
  in_type(joined.type, [&](auto t) {
    using T = decltype(t);
    std::copy_n(numbers<T>(p.far), p.dim * p.dim_v, numbers<T>(joined));
    if (!p.cut && p.mixes_rows) add_mixed(p, numbers<T>(joined));
  });
  if (!p.cut && !p.mixes_rows) add_decayed(p, joined);
}

void multiply_transitions(const ConstView& earlier, const ConstView& later, int64_t columns, bool mixes_rows,
                          const View& joined) {
  in_type(joined.type, [&](auto t) {
    using T = decltype(t);
    const T *first = numbers<T>(earlier), *second = numbers<T>(later);
    T* const to = numbers<T>(joined);
    if (mixes_rows) {
      std::fill_n(to, columns * columns, T{0});
      add_product(to, second, first, columns, columns, columns);
    } else {
      for (int64_t c = 0; c < columns; ++c) to[c] = first[c] * second[c];
    }
  });
}

}  // namespace weft::kernels
