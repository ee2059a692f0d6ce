// What the functions of recurrence.h have in common. Private to this folder.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "weft/kernels/element.h"
#include "weft/kernels/recurrence.h"

namespace weft::kernels::recurrence_internal {

// A part of a run inside one document.
struct Segment {
  int64_t begin = 0, end = 0;
  bool enters = false;   // goes on from before the run
  int64_t initial = -1;  // which of the run's starts it begins at
  int64_t final = -1;    // which of the documents that end in the run it ends
  int64_t rows() const { return end - begin; }
};

inline std::vector<Segment> segments_of(const TokenRun& run) {
  std::vector<Segment> segments;
  int64_t begin = 0, initial = -1;
  const auto add = [&](int64_t end, bool ends) {
    const int64_t number = static_cast<int64_t>(segments.size());
    segments.push_back({begin, end, initial < 0, initial, ends ? number : -1});
  };
  for (const int64_t start : run.starts) {
    if (start > begin) add(start, true);
    begin = start;
    ++initial;
  }
  add(run.rows, run.ends);
  return segments;
}

// Decays below exp(-1000) are 0 in every type; so sums of logarithms stay finite, and as exact as those of weak gates.
inline constexpr double kLeastLogDecay = -1000;
inline constexpr int64_t kPollEvery = 64;  // tokens

// to += factor * from
template <typename T>
void add_scaled(T* to, const T* from, T factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

template <typename T>
T dot(const T* a, const T* b, int64_t n) {
  constexpr int64_t kLanes = 8;
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  }
  T sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (const T lane : lanes) sum += lane;
  return sum;
}

template <typename T>
const T* numbers(const ConstView& view) {
  return static_cast<const T*>(view.data);
}
template <typename T>
T* numbers(const View& view) {
  return static_cast<T*>(view.data);
}

template <typename T>
using Matrix = std::vector<T>;  // row-major

// to [m, n] += factor * a b, where a(i, l) = a[i * row + l * column] is [m, k] and b [k, n].
template <typename T>
void add_product(T* to, const T* a, int64_t row, int64_t column, const T* b, int64_t m, int64_t k, int64_t n,
                 T factor) {
  for (int64_t i = 0; i < m; ++i) {
    T* const sum = to + i * n;
    int64_t l = 0;
    for (; l + 4 <= k; l += 4) {
      const T *p = a + i * row + l * column, *b0 = b + l * n, *b1 = b0 + n, *b2 = b1 + n, *b3 = b2 + n;
      const T a0 = factor * p[0], a1 = factor * p[column], a2 = factor * p[2 * column], a3 = factor * p[3 * column];
      for (int64_t j = 0; j < n; ++j) sum[j] += (a0 * b0[j] + a1 * b1[j]) + (a2 * b2[j] + a3 * b3[j]);
    }
    for (; l < k; ++l) add_scaled(sum, b + l * n, factor * a[i * row + l * column], n);
  }
}
// a is [m, k] as it lies.
template <typename T>
void add_product(T* to, const T* a, const T* b, int64_t m, int64_t k, int64_t n, T factor = 1) {
  add_product(to, a, k, int64_t{1}, b, m, k, n, factor);
}
// a is [k, m] as it lies: to += factor * a^T b.
template <typename T>
void add_transposed_product(T* to, const T* a, const T* b, int64_t m, int64_t k, int64_t n, T factor = 1) {
  add_product(to, a, int64_t{1}, m, b, m, k, n, factor);
}
// to [m, n] += factor * a b^T, b [n, k].
template <typename T>
void add_product_with_transposed(T* to, const T* a, const T* b, int64_t m, int64_t k, int64_t n, T factor = 1) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) to[i * n + j] += factor * dot(a + i * k, b + j * k, k);
  }
}

// A run, read and computed on in T: float, or double for fp64.
template <typename T>
class RunMath {
 public:
  explicit RunMath(const TokenRun& run)
      : run_(run), dk_(run.dim), dv_(run.dim_v), gates_(std::max<int64_t>(1, run.decays.columns)) {}

 protected:
  void read(const ConstView& view, int64_t begin, int64_t rows, int64_t columns, std::vector<T>& to) const {
    to.resize(static_cast<size_t>(rows * columns));
    for (int64_t r = 0; r < rows; ++r) {
      T* const row = to.data() + r * columns;
      const void* from = address(view, begin + r, 0);
      for (int64_t c = 0; c < columns; ++c) row[c] = static_cast<T>(load_element(from, view.type, c));
    }
  }
  double log_decay(int64_t row, int64_t gate) const {
    const double log = run_.decays.columns == 0 ? run_.decays.log_decay : load(run_.g, row, 0, gate);
    return log < kLeastLogDecay ? kLeastLogDecay : log;
  }
  // Whether out reads the state before its token's decay and writing.
  bool reads_before() const { return run_.u.data != nullptr; }
  // How much of its own key a token reads.
  T own(int64_t c) const { return reads_before() ? numbers<T>(run_.u)[c] : T{1}; }
  // The gate that multiplies row c of the state.
  int64_t gate_of(int64_t c) const { return gates_ == 1 ? 0 : c; }
  size_t gate_at(int64_t c) const { return static_cast<size_t>(gate_of(c)); }
  static size_t at(int64_t row, int64_t columns, int64_t column) { return static_cast<size_t>(row * columns + column); }
  size_t state_size() const { return static_cast<size_t>(dk_ * dv_); }
  // The state that a segment begins with, in the columns of a state; zero unless it is given.
  Matrix<T> initial_state(const Segment& segment) const {
    if (segment.initial < 0 || !run_.initial.data) return Matrix<T>(state_size(), T{0});
    return document_state(run_.initial, segment.initial);
  }
  Matrix<T> document_state(const ConstView& states, int64_t document) const {
    const T* const from = static_cast<const T*>(address(states, document, 0));
    return Matrix<T>(from, from + state_size());
  }
  void add_to_document(const View& states, int64_t document, const T* state, T factor = 1) const {
    if (states.data && document >= 0) add_scaled(sums(states, document), state, factor, dk_ * dv_);
  }
  // A row of sums.
  static T* sums(const View& view, int64_t row) { return static_cast<T*>(address(view, row, 0)); }
  void poll() const {
    if (run_.stop) run_.stop->poll();
  }

  const TokenRun& run_;
  const int64_t dk_, dv_, gates_;
};

// Calls f(T{}) with the type in which a run is computed.
template <typename F>
void in_type_of(const TokenRun& run, F&& f) {
  if (run.k.type == DType::fp64) {
    f(double{});
  } else {
    f(float{});
  }
}

// The local work on runs whose transitions are of one kind.
struct LocalWork {
  void (*summarise)(const TokenRun&, const View& state);
  void (*transition)(const TokenRun&, const View& to);
  void (*summarise_backward)(const TokenRun&, const ConstView& dout, const ConstView& dfinal, const View& dstate);
  void (*scan)(const TokenRun&, const View& out, const View& final);
  void (*apply_state)(const TokenRun&, const ConstView& state, const View& out, const View& final);
  void (*scan_backward)(const TokenRun&, const ConstView& dout, const ConstView& dfinal, const ConstView& state,
                        const RunGradients&);
  void (*apply_dstate)(const TokenRun&, const ConstView& dstate, const ConstView& state, const RunGradients&);
};
extern const LocalWork diagonal_work;  // recurrence_ends.cc: F = diag(exp g)
extern const LocalWork low_rank_work;  // recurrence_low_rank.cc: with a matrix of rank one

// Of diagonal transitions, a run by itself: recurrence_chunks.cc.
void scan_diagonal(const TokenRun& run, const View& out, const View& final);
void scan_diagonal_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal,
                            const RunGradients& gradients);

}  // namespace weft::kernels::recurrence_internal
