// Runs where F_t = diag(exp g_t) + b_t a_t^T, chunk by chunk: what a chunk's tokens write, R's rows mixed by each, is solved
// for at once.
//
// With c_i the sum of the chunk's logarithms up to token i, and everything that a token reads and writes row by row:
//
//   ab_ij = sum over rows of a_i exp(c_{i-1} - c_j) b_j,  ak likewise     j < i      what token i reads of what j wrote
//   qk_ij = sum over rows of q_i exp(c_i - c_j) k_j,      qb likewise     j <= i
//   X     = (I - ab)^-1 (ak V + (a exp c_{i-1}) R)                        x_i = R_{i-1}^T a_i, for all tokens of the chunk
//   out   = s ((q exp c_i) R + qk V + qb X)
//   R     <- diag(exp c_C) R + (k exp(c_C - c_j))^T V + (b exp(c_C - c_j))^T X
//
// V leaves X and with it out and R affine in R; leaving V out is what passes. Backward, from dout and the gradient G of the
// state after the chunk:
//
//   dX = s qb^T dout + (b exp(c_C - c_j)) G       Y = (I - ab)^-T dX
//   dV = s qk^T dout + (k exp(c_C - c_j)) G + ak^T Y
//   G  <- diag(exp c_C) G + s (q exp c_i)^T dout + (a exp c_{i-1})^T Y
//   dqk = s dout V^T    dqb = s dout X^T    dak = Y V^T    dab = Y X^T      where j <= i, j < i
//
// The delta rule (I - beta k k^T) diag(exp g) R + beta k v^T is the case a = exp(g) k, b = -beta k, with beta v for v.
//
// This header has what one chunk needs in both directions. Private to this folder.
#pragma once

#include "weft/kernels/recurrence_math.h"

namespace weft::kernels::recurrence_internal {

template <typename T>
class LowRankChunks : protected RunMath<T> {
 public:
  explicit LowRankChunks(const TokenRun& run) : RunMath<T>(run), delta_(run.beta.data != nullptr) {}

 protected:
  using Base = RunMath<T>;
  using Base::add_to_document, Base::at, Base::dk_, Base::document_state, Base::dv_, Base::initial_state, Base::gates_,
      Base::log_decay, Base::poll, Base::read, Base::run_, Base::state_size, Base::sums;
  static constexpr int64_t kChunk = 16;  // tokens

  struct Chunk {
    int64_t begin = 0, rows = 0;
    Matrix<T> q, k, v, a, b;   // of the low-rank form
    Matrix<T> beta, values;    // of the delta rule: as given
    Matrix<T> dout;            // empty: there is none
    Matrix<T> decay;           // exp g of the token, for each row of R
    Matrix<T> passed;          // exp c_i: of all tokens up to this one
    Matrix<T> left;            // exp(c_C - c_i): of all tokens after it
    Matrix<T> qe, ae, ke, be;  // with the decays on the way from the chunk's begin, or to its end
    Matrix<T> qk, qb, ak, ab;
    Matrix<T> inverse;  // (I - ab)^-1
  };
  enum class Own { left_out, added };  // what the tokens write themselves

  void load(Chunk& chunk, int64_t begin, int64_t rows, const ConstView& dout) const;
  // X. The state has any number of columns when it passes by itself.
  Matrix<T> read_by_a(const Chunk& chunk, const T* state, int64_t columns, Own own) const;
  // What the delta rule writes under its keys, beta (v - x): one product where k and b lie along one another.
  Matrix<T> written(const Chunk& chunk, const Matrix<T>& x) const;
  // The state after the chunk from that before it.
  void advance(const Chunk& chunk, const Matrix<T>& x, Own own, int64_t columns, T* state) const;

  static size_t size(int64_t rows, int64_t columns) { return static_cast<size_t>(rows * columns); }
  static Matrix<T> zeros(int64_t rows, int64_t columns) { return Matrix<T>(size(rows, columns), T{0}); }
  // Calls f(begin, rows) for the chunks of a segment in order, or against it.
  template <typename F>
  static void for_each_chunk(const Segment& segment, F&& f) {
    for (int64_t t = segment.begin; t < segment.end; t += kChunk) f(t, std::min(kChunk, segment.end - t));
  }
  template <typename F>
  static void for_each_chunk_back(const Segment& segment, F&& f) {
    for (int64_t n = (segment.rows() + kChunk - 1) / kChunk; n-- > 0;) {
      const int64_t begin = segment.begin + n * kChunk;
      f(begin, std::min(kChunk, segment.end - begin));
    }
  }

  const bool delta_;

 private:
  void load_decays(Chunk& chunk) const;
  void load_scores(Chunk& chunk) const;
  void invert(Chunk& chunk) const;
};

template <typename T>
void LowRankChunks<T>::load(Chunk& chunk, int64_t begin, int64_t rows, const ConstView& dout) const {
  poll();
  chunk.begin = begin, chunk.rows = rows;
  if (run_.q.data) {
    read(run_.q, begin, rows, dk_, chunk.q);
  } else {
    chunk.q.assign(size(rows, dk_), T{0});
  }
  read(run_.k, begin, rows, dk_, chunk.k);
  read(run_.v, begin, rows, dv_, chunk.v);
  chunk.dout.clear();
  if (dout.data) read(dout, begin, rows, dv_, chunk.dout);
  load_decays(chunk);
  if (delta_) {
    read(run_.beta, begin, rows, 1, chunk.beta);
    chunk.values = chunk.v;
    chunk.a = chunk.b = chunk.k;
    for (int64_t i = 0; i < rows; ++i) {
      const T beta = chunk.beta[at(i, 1, 0)];
      for (int64_t c = 0; c < dk_; ++c) chunk.a[at(i, dk_, c)] *= chunk.decay[at(i, dk_, c)];
      for (int64_t c = 0; c < dk_; ++c) chunk.b[at(i, dk_, c)] *= -beta;
      for (int64_t d = 0; d < dv_; ++d) chunk.v[at(i, dv_, d)] *= beta;
    }
  } else {
    read(run_.a, begin, rows, dk_, chunk.a);
    read(run_.b, begin, rows, dk_, chunk.b);
  }
  chunk.qe = chunk.q, chunk.ae = chunk.a, chunk.ke = chunk.k, chunk.be = chunk.b;
  for (size_t n = 0; n < chunk.q.size(); ++n) {
    chunk.qe[n] *= chunk.passed[n];
    chunk.ke[n] *= chunk.left[n];
    chunk.be[n] *= chunk.left[n];
  }
  for (size_t n = static_cast<size_t>(dk_); n < chunk.a.size(); ++n)
    chunk.ae[n] *= chunk.passed[n - static_cast<size_t>(dk_)];
  load_scores(chunk);
  invert(chunk);
}

template <typename T>
void LowRankChunks<T>::load_decays(Chunk& chunk) const {
  const int64_t rows = chunk.rows;
  chunk.decay.resize(size(rows, dk_));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t gate = 0; gate < gates_; ++gate)
      chunk.decay[at(i, dk_, gate)] = static_cast<T>(std::exp(log_decay(chunk.begin + i, gate)));
    if (gates_ == 1) std::fill_n(&chunk.decay[at(i, dk_, 0)], dk_, chunk.decay[at(i, dk_, 0)]);
  }
  chunk.passed = chunk.decay;
  for (int64_t i = 1; i < rows; ++i) {
    for (int64_t c = 0; c < dk_; ++c) chunk.passed[at(i, dk_, c)] *= chunk.passed[at(i - 1, dk_, c)];
  }
  chunk.left.assign(size(rows, dk_), T{1});
  for (int64_t i = rows - 1; i-- > 0;) {
    for (int64_t c = 0; c < dk_; ++c)
      chunk.left[at(i, dk_, c)] = chunk.left[at(i + 1, dk_, c)] * chunk.decay[at(i + 1, dk_, c)];
  }
}

template <typename T>
void LowRankChunks<T>::load_scores(Chunk& chunk) const {
  const int64_t rows = chunk.rows;
  for (Matrix<T>* scores : {&chunk.qk, &chunk.qb, &chunk.ak, &chunk.ab}) scores->assign(size(rows, rows), T{0});
  Matrix<T> k(static_cast<size_t>(dk_)), b(k);  // of token j, as they reach token i
  for (int64_t j = 0; j < rows; ++j) {
    std::copy_n(&chunk.k[at(j, dk_, 0)], dk_, k.data());
    std::copy_n(&chunk.b[at(j, dk_, 0)], dk_, b.data());
    for (int64_t i = j; i < rows; ++i) {
      if (i > j) {  // a reads before this token's decay
        chunk.ak[at(i, rows, j)] = dot(&chunk.a[at(i, dk_, 0)], k.data(), dk_);
        chunk.ab[at(i, rows, j)] = dot(&chunk.a[at(i, dk_, 0)], b.data(), dk_);
        const T* const decay = &chunk.decay[at(i, dk_, 0)];
        for (int64_t c = 0; c < dk_; ++c) k[static_cast<size_t>(c)] *= decay[c];
        for (int64_t c = 0; c < dk_; ++c) b[static_cast<size_t>(c)] *= decay[c];
      }
      chunk.qk[at(i, rows, j)] = dot(&chunk.q[at(i, dk_, 0)], k.data(), dk_);
      chunk.qb[at(i, rows, j)] = dot(&chunk.q[at(i, dk_, 0)], b.data(), dk_);
    }
  }
}

template <typename T>
void LowRankChunks<T>::invert(Chunk& chunk) const {
  const int64_t rows = chunk.rows;
  chunk.inverse.assign(size(rows, rows), T{0});
  for (int64_t i = 0; i < rows; ++i) {
    T* const row = &chunk.inverse[at(i, rows, 0)];
    row[i] = 1;
    for (int64_t j = 0; j < i; ++j) add_scaled(row, &chunk.inverse[at(j, rows, 0)], chunk.ab[at(i, rows, j)], j + 1);
  }
}

template <typename T>
Matrix<T> LowRankChunks<T>::read_by_a(const Chunk& chunk, const T* state, int64_t columns, Own own) const {
  const int64_t rows = chunk.rows;
  Matrix<T> seen = zeros(rows, columns), x = zeros(rows, columns);
  add_product(seen.data(), chunk.ae.data(), state, rows, dk_, columns);
  if (own == Own::added) add_product(seen.data(), chunk.ak.data(), chunk.v.data(), rows, rows, columns);
  add_product(x.data(), chunk.inverse.data(), seen.data(), rows, rows, columns);
  return x;
}

template <typename T>
Matrix<T> LowRankChunks<T>::written(const Chunk& chunk, const Matrix<T>& x) const {
  Matrix<T> y = chunk.v;
  for (int64_t i = 0; i < chunk.rows; ++i)
    add_scaled(&y[at(i, dv_, 0)], &x[at(i, dv_, 0)], -chunk.beta[at(i, 1, 0)], dv_);
  return y;
}

template <typename T>
void LowRankChunks<T>::advance(const Chunk& chunk, const Matrix<T>& x, Own own, int64_t columns, T* state) const {
  const T* const passed = &chunk.passed[at(chunk.rows - 1, dk_, 0)];
  for (int64_t c = 0; c < dk_; ++c) {
    for (int64_t d = 0; d < columns; ++d) state[c * columns + d] *= passed[c];
  }
  if (delta_ && own == Own::added) {
    add_transposed_product(state, chunk.ke.data(), written(chunk, x).data(), dk_, chunk.rows, columns);
    return;
  }
  add_transposed_product(state, chunk.be.data(), x.data(), dk_, chunk.rows, columns);
  if (own == Own::added) add_transposed_product(state, chunk.ke.data(), chunk.v.data(), dk_, chunk.rows, columns);
}

// recurrence_low_rank_backward.cc
void summarise_low_rank_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal,
                                 const View& dstate);
void scan_low_rank_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const ConstView& state,
                            const RunGradients& to);
void apply_low_rank_dstate(const TokenRun& run, const ConstView& dstate, const ConstView& state,
                           const RunGradients& to);

}  // namespace weft::kernels::recurrence_internal
