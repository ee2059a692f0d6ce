// Runs whose states mix rows, backward: recurrence_low_rank.h has the formulas.
#include "weft/kernels/recurrence_low_rank.h"

namespace weft::kernels::recurrence_internal {
namespace {

template <typename T>
class LowRankBackward : LowRankChunks<T> {
 public:
  using LowRankChunks<T>::LowRankChunks;
  void summarise_backward(const ConstView& dout, const ConstView& dfinal, T* dstate) const;
  void scan_backward(const ConstView& dout, const ConstView& dfinal, const T* state, const RunGradients& to) const;
  void apply_dstate(const T* dstate, const T* state, const RunGradients& to) const;

 private:
  using Base = LowRankChunks<T>;
  using Base::add_to_document, Base::advance, Base::document_state, Base::initial_state, Base::at, Base::delta_,
      Base::dk_, Base::dv_, Base::for_each_chunk, Base::for_each_chunk_back, Base::gate_at, Base::gates_, Base::load,
      Base::read_by_a, Base::run_, Base::state_size, Base::sums, Base::zeros;
  using typename Base::Chunk, typename Base::Own;
  struct Gradients;  // of one chunk, in the low-rank form
  Matrix<T> gradient_of_x(const Chunk& chunk, const T* dstate) const;
  Matrix<T> solved(const Chunk& chunk, const Matrix<T>& dx) const;
  void retreat(const Chunk& chunk, const Matrix<T>& y, T* dstate) const;
  void add_gradients(const Chunk& chunk, const T* before, const T* dstate, const Matrix<T>& y,
                     const RunGradients& to) const;
  void add_pair_gradients(const Chunk& chunk, const Matrix<T>& x, const Matrix<T>& y, Gradients& sum) const;
  void add_own_gradients(const Chunk& chunk, const Matrix<T>& x, Gradients& sum) const;
  void add_gate_gradients_of_ends(const Chunk& chunk, const T* before, const T* dstate, Gradients& sum) const;
  void give(const Chunk& chunk, const Gradients& sum, const RunGradients& to) const;
  void segment_backward(const Segment& segment, const ConstView& dout, const T* state, const T* dstate,
                        const RunGradients& to) const;
};

template <typename T>
Matrix<T> LowRankBackward<T>::gradient_of_x(const Chunk& chunk, const T* dstate) const {
  const int64_t rows = chunk.rows;
  Matrix<T> dx = zeros(rows, dv_);
  add_product(dx.data(), chunk.be.data(), dstate, rows, dk_, dv_);
  if (!chunk.dout.empty())
    add_transposed_product(dx.data(), chunk.qb.data(), chunk.dout.data(), rows, rows, dv_, static_cast<T>(run_.scale));
  return dx;
}

// Y, the gradient of what a reads before the chunk's tokens are solved for.
template <typename T>
Matrix<T> LowRankBackward<T>::solved(const Chunk& chunk, const Matrix<T>& dx) const {
  Matrix<T> y = zeros(chunk.rows, dv_);
  add_transposed_product(y.data(), chunk.inverse.data(), dx.data(), chunk.rows, chunk.rows, dv_);
  return y;
}

template <typename T>
void LowRankBackward<T>::retreat(const Chunk& chunk, const Matrix<T>& y, T* dstate) const {
  const T* const passed = &chunk.passed[at(chunk.rows - 1, dk_, 0)];
  for (int64_t c = 0; c < dk_; ++c) {
    for (int64_t d = 0; d < dv_; ++d) dstate[c * dv_ + d] *= passed[c];
  }
  add_transposed_product(dstate, chunk.ae.data(), y.data(), dk_, chunk.rows, dv_);
  if (!chunk.dout.empty()) {
    add_transposed_product(dstate, chunk.qe.data(), chunk.dout.data(), dk_, chunk.rows, dv_,
                           static_cast<T>(run_.scale));
  }
}

template <typename T>
void LowRankBackward<T>::summarise_backward(const ConstView& dout, const ConstView& dfinal, T* dstate) const {
  std::fill_n(dstate, state_size(), T{0});
  const Segment first = segments_of(run_).front();
  if (!first.enters) return;
  if (dfinal.data && first.final >= 0) {
    const Matrix<T> behind = document_state(dfinal, first.final);
    std::copy(behind.begin(), behind.end(), dstate);
  }
  Chunk chunk;
  for_each_chunk_back(first, [&](int64_t begin, int64_t rows) {
    load(chunk, begin, rows, dout);
    retreat(chunk, solved(chunk, gradient_of_x(chunk, dstate)), dstate);
  });
}

template <typename T>
struct LowRankBackward<T>::Gradients {
  Matrix<T> q, k, v, a, b;
  Matrix<double> g;  // [rows, gates]
};

template <typename T>
void LowRankBackward<T>::add_gradients(const Chunk& chunk, const T* before, const T* dstate, const Matrix<T>& y,
                                       const RunGradients& to) const {
  const int64_t rows = chunk.rows;
  const T scale = static_cast<T>(run_.scale);
  const Matrix<T> x = read_by_a(chunk, before, dv_, Own::added);
  Gradients sum{zeros(rows, dk_), zeros(rows, dk_), zeros(rows, dv_),
                zeros(rows, dk_), zeros(rows, dk_), Matrix<double>(static_cast<size_t>(rows * gates_), 0.0)};
  add_product_with_transposed(sum.a.data(), y.data(), before, rows, dv_, dk_);
  add_product_with_transposed(sum.k.data(), chunk.v.data(), dstate, rows, dv_, dk_);
  add_product_with_transposed(sum.b.data(), x.data(), dstate, rows, dv_, dk_);
  if (!chunk.dout.empty()) add_product_with_transposed(sum.q.data(), chunk.dout.data(), before, rows, dv_, dk_, scale);
  for (size_t n = 0; n < sum.q.size(); ++n) {
    sum.q[n] *= chunk.passed[n];
    sum.k[n] *= chunk.left[n];
    sum.b[n] *= chunk.left[n];
  }
  for (size_t n = static_cast<size_t>(dk_); n < sum.a.size(); ++n)
    sum.a[n] *= chunk.passed[n - static_cast<size_t>(dk_)];
  add_gate_gradients_of_ends(chunk, before, dstate, sum);
  add_pair_gradients(chunk, x, y, sum);
  if (!chunk.dout.empty()) add_own_gradients(chunk, x, sum);
  add_product(sum.v.data(), chunk.ke.data(), dstate, rows, dk_, dv_);
  add_transposed_product(sum.v.data(), chunk.ak.data(), y.data(), rows, rows, dv_);
  if (!chunk.dout.empty())
    add_transposed_product(sum.v.data(), chunk.qk.data(), chunk.dout.data(), rows, rows, dv_, scale);
  give(chunk, sum, to);
}

// What the chunk's tokens read of those before them. On its way from token j to token i a product crosses the decays of all
// tokens after j up to i, or those before i where a reads the state before it decays.
template <typename T>
void LowRankBackward<T>::add_pair_gradients(const Chunk& chunk, const Matrix<T>& x, const Matrix<T>& y,
                                            Gradients& sum) const {
  const int64_t rows = chunk.rows;
  const T scale = static_cast<T>(run_.scale);
  Matrix<T> passed(static_cast<size_t>((rows + 1) * dk_));  // row i: from token j to before the decay of i
  std::vector<double> crossing(static_cast<size_t>(gates_));
  // `factor` is what is left of j's writing when it is read by row i of `reads`.
  const auto add_pair = [&](const Matrix<T>& reads, Matrix<T>& dreads, const T* factor, int64_t i, int64_t j, T with_k,
                            T with_b) {
    const T *const read = &reads[at(i, dk_, 0)], *const k = &chunk.k[at(j, dk_, 0)], *const b = &chunk.b[at(j, dk_, 0)];
    T *const dread = &dreads[at(i, dk_, 0)], *const dk = &sum.k[at(j, dk_, 0)], *const db = &sum.b[at(j, dk_, 0)];
    for (int64_t c = 0; c < dk_; ++c) {
      const T from = factor[c] * (with_k * k[c] + with_b * b[c]);
      dread[c] += from;
      dk[c] += with_k * factor[c] * read[c];
      db[c] += with_b * factor[c] * read[c];
      crossing[gate_at(c)] += double{from * read[c]};
    }
  };
  for (int64_t j = 0; j < rows; ++j) {
    const T *const v = &chunk.v[at(j, dv_, 0)], *const read = &x[at(j, dv_, 0)];
    std::fill_n(&passed[at(j + 1, dk_, 0)], dk_, T{1});
    for (int64_t i = j + 1; i < rows; ++i) {
      for (int64_t c = 0; c < dk_; ++c) passed[at(i + 1, dk_, c)] = passed[at(i, dk_, c)] * chunk.decay[at(i, dk_, c)];
    }
    std::fill(crossing.begin(), crossing.end(), 0.0);
    for (int64_t i = rows - 1; i > j; --i) {
      const T* const dread = &y[at(i, dv_, 0)];
      const auto add_a = [&] {
        add_pair(chunk.a, sum.a, &passed[at(i, dk_, 0)], i, j, dot(dread, v, dv_), dot(dread, read, dv_));
      };
      if (delta_) add_a();
      if (!chunk.dout.empty()) {
        const T* const dout = &chunk.dout[at(i, dv_, 0)];
        add_pair(chunk.q, sum.q, &passed[at(i + 1, dk_, 0)], i, j, scale * dot(dout, v, dv_),
                 scale * dot(dout, read, dv_));
      }
      for (int64_t gate = 0; gate < gates_; ++gate) sum.g[at(i, gates_, gate)] += crossing[static_cast<size_t>(gate)];
      if (!delta_) add_a();
    }
  }
}

// What each token reads of its own writing, which passes no decay.
template <typename T>
void LowRankBackward<T>::add_own_gradients(const Chunk& chunk, const Matrix<T>& x, Gradients& sum) const {
  const T scale = static_cast<T>(run_.scale);
  for (int64_t i = 0; i < chunk.rows; ++i) {
    const T* const dout = &chunk.dout[at(i, dv_, 0)];
    const T with_k = scale * dot(dout, &chunk.v[at(i, dv_, 0)], dv_),
            with_b = scale * dot(dout, &x[at(i, dv_, 0)], dv_);
    add_scaled(&sum.q[at(i, dk_, 0)], &chunk.k[at(i, dk_, 0)], with_k, dk_);
    add_scaled(&sum.q[at(i, dk_, 0)], &chunk.b[at(i, dk_, 0)], with_b, dk_);
    add_scaled(&sum.k[at(i, dk_, 0)], &chunk.q[at(i, dk_, 0)], with_k, dk_);
    add_scaled(&sum.b[at(i, dk_, 0)], &chunk.q[at(i, dk_, 0)], with_b, dk_);
  }
}

// dg of what comes from before the chunk or goes behind it: from the state to what reads, from what writes to the gradient,
// and from the one to the other. The gradients hold no pair of tokens yet.
template <typename T>
void LowRankBackward<T>::add_gate_gradients_of_ends(const Chunk& chunk, const T* before, const T* dstate,
                                                    Gradients& sum) const {
  std::vector<double> crossing(static_cast<size_t>(gates_), 0.0);
  const auto add = [&](const Matrix<T>& input, const Matrix<T>& gradient, int64_t i) {
    for (int64_t c = 0; c < dk_; ++c) crossing[gate_at(c)] += double{input[at(i, dk_, c)] * gradient[at(i, dk_, c)]};
  };
  const auto give = [&](int64_t i) {
    for (int64_t gate = 0; gate < gates_; ++gate) sum.g[at(i, gates_, gate)] += crossing[static_cast<size_t>(gate)];
  };
  for (int64_t i = chunk.rows; i-- > 0;) {
    add(chunk.q, sum.q, i);
    if (delta_) add(chunk.a, sum.a, i);
    give(i);
    if (!delta_) add(chunk.a, sum.a, i);
  }
  std::fill(crossing.begin(), crossing.end(), 0.0);
  for (int64_t c = 0; c < dk_; ++c) {
    const T passed = chunk.passed[at(chunk.rows - 1, dk_, c)];
    crossing[gate_at(c)] += double{passed * dot(before + c * dv_, dstate + c * dv_, dv_)};
  }
  for (int64_t j = 0; j < chunk.rows; ++j) {
    give(j);
    add(chunk.k, sum.k, j);
    add(chunk.b, sum.b, j);
  }
}

// To the inputs as they were given.
template <typename T>
void LowRankBackward<T>::give(const Chunk& chunk, const Gradients& sum, const RunGradients& to) const {
  const auto add_row = [&](const View& view, const Matrix<T>& from, int64_t i, int64_t columns, T factor = 1) {
    if (view.data) add_scaled(sums(view, chunk.begin + i), &from[at(i, columns, 0)], factor, columns);
  };
  for (int64_t i = 0; i < chunk.rows; ++i) {
    add_row(to.dq, sum.q, i, dk_);
    add_row(to.dk, sum.k, i, dk_);
    for (int64_t gate = 0; gate < gates_ && to.dg.data; ++gate)
      sums(to.dg, chunk.begin + i)[gate] += static_cast<T>(sum.g[at(i, gates_, gate)]);
    if (!delta_) {
      add_row(to.dv, sum.v, i, dv_);
      add_row(to.da, sum.a, i, dk_);
      add_row(to.db, sum.b, i, dk_);
      continue;
    }
    const T *const k = &chunk.k[at(i, dk_, 0)], *const da = &sum.a[at(i, dk_, 0)], *const db = &sum.b[at(i, dk_, 0)];
    const T beta = chunk.beta[at(i, 1, 0)];
    for (int64_t c = 0; c < dk_ && to.dk.data; ++c)
      sums(to.dk, chunk.begin + i)[c] += chunk.decay[at(i, dk_, c)] * da[c] - beta * db[c];
    add_row(to.dv, sum.v, i, dv_, beta);
    if (to.dbeta.data) {
      sums(to.dbeta, chunk.begin + i)[0] +=
          dot(&chunk.values[at(i, dv_, 0)], &sum.v[at(i, dv_, 0)], dv_) - dot(k, db, dk_);
    }
  }
}

// The gradients of a segment that `state` enters, due to its own dout (where there is one) and to `dstate` behind it; either
// state may be null.
template <typename T>
void LowRankBackward<T>::segment_backward(const Segment& segment, const ConstView& dout, const T* state,
                                          const T* dstate, const RunGradients& to) const {
  std::vector<Matrix<T>> states;  // before each chunk
  states.push_back(state ? Matrix<T>(state, state + state_size()) : initial_state(segment));
  Matrix<T> gradient = dstate ? Matrix<T>(dstate, dstate + state_size()) : Matrix<T>(state_size(), T{0});
  Chunk chunk;
  for_each_chunk(segment, [&](int64_t begin, int64_t rows) {
    if (begin + rows == segment.end) return;
    load(chunk, begin, rows, {});
    states.push_back(states.back());
    advance(chunk, read_by_a(chunk, states.back().data(), dv_, Own::added), Own::added, dv_, states.back().data());
  });
  for_each_chunk_back(segment, [&](int64_t begin, int64_t rows) {
    load(chunk, begin, rows, dout);
    const Matrix<T> y = solved(chunk, gradient_of_x(chunk, gradient.data()));
    add_gradients(chunk, states.back().data(), gradient.data(), y, to);
    states.pop_back();
    retreat(chunk, y, gradient.data());
  });
  add_to_document(to.dinitial, segment.initial, gradient.data());
}

template <typename T>
void LowRankBackward<T>::scan_backward(const ConstView& dout, const ConstView& dfinal, const T* state,
                                       const RunGradients& to) const {
  for (const Segment& segment : segments_of(run_)) {
    Matrix<T> behind;
    if (dfinal.data && segment.final >= 0) behind = document_state(dfinal, segment.final);
    segment_backward(segment, dout, segment.enters ? state : nullptr, behind.empty() ? nullptr : behind.data(), to);
  }
}

template <typename T>
void LowRankBackward<T>::apply_dstate(const T* dstate, const T* state, const RunGradients& to) const {
  const Segment last = segments_of(run_).back();
  segment_backward(last, {}, last.enters ? state : nullptr, dstate, to);
}

}  // namespace

void summarise_low_rank_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal,
                                 const View& dstate) {
  in_type_of(run, [&](auto t) {
    using T = decltype(t);
    LowRankBackward<T>(run).summarise_backward(dout, dfinal, numbers<T>(dstate));
  });
}

void scan_low_rank_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const ConstView& state,
                            const RunGradients& to) {
  in_type_of(run, [&](auto t) {
    using T = decltype(t);
    LowRankBackward<T>(run).scan_backward(dout, dfinal, numbers<T>(state), to);
  });
}

void apply_low_rank_dstate(const TokenRun& run, const ConstView& dstate, const ConstView& state,
                           const RunGradients& to) {
  in_type_of(run, [&](auto t) {
    using T = decltype(t);
    LowRankBackward<T>(run).apply_dstate(numbers<T>(dstate), numbers<T>(state), to);
  });
}

}  // namespace weft::kernels::recurrence_internal
