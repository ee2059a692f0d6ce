// What the functions of recurrence.h have in common. Private to this folder.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "weft/kernels/element.h"
#include "weft/kernels/linear/block_matrix.h"
#include "weft/kernels/linear/recurrence.h"

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

inline constexpr double kLeastLogDecay = -1000;  // of what is left: see read_logs

template <typename T>
const T* numbers(const ConstView& view) {
  return static_cast<const T*>(view.data);
}
template <typename T>
T* numbers(const View& view) {
  return static_cast<T*>(view.data);
}

// What sums in T are made of.
template <typename T>
const BlockOps<T>& block_ops_of(const KernelSet* kernels) {
  if constexpr (std::is_same_v<T, double>) {
    return plain_block_ops<double>();
  } else {
    return (kernels ? *kernels : cpu_kernels()).blocks();
  }
}

// sums[gate] += the logarithms of all rows.
template <typename T>
void add_up_logs(const Blocks<T>& blocks, const BlockMatrix<T>& logs, std::vector<double>& sums) {
  if (logs.columns() == 1) {
    for (int64_t i = 0; i < logs.rows(); ++i) sums[0] += double{*logs.row(i)};
    return;
  }
  BlockMatrix<T> few;  // eight rows at a time lose no more than each logarithm by itself has lost
  few.shape(1, logs.columns());
  for (int64_t i = 0; i < logs.rows(); i += 8) {
    few.zero();
    blocks.ops.add(logs.from_row(i), 1, std::min<int64_t>(8, logs.rows() - i), logs.columns(), {few.row(0), 0});
    for (int64_t c = 0; c < logs.columns(); ++c) sums[static_cast<size_t>(c)] += double{few.row(0)[c]};
  }
}

// A run, read and computed on in T: float, or double for fp64.
template <typename T>
class RunMath {
 public:
  explicit RunMath(const TokenRun& run)
      : run_(run),
        dk_(run.dim),
        dv_(run.dim_v),
        gates_(std::max<int64_t>(1, run.decays.columns)),
        blocks_(block_ops_of<T>(run.kernels)) {}

 protected:
  using M = BlockMatrix<T>;
  static constexpr int64_t kTokens = 64;  // of a chunk; divides the canonical tile, as does that of low_rank.h

  // On to the next chunk; the one after it is expected as far away as this one is from the one before, in either direction.
  void move_to(int64_t begin, int64_t rows) {
    ahead_ = begin - begin_;
    begin_ = begin, rows_ = rows;
  }
  void read(const ConstView& view, int64_t begin, int64_t rows, int64_t columns, M& to) const {
    to.shape(rows, columns);
    const int64_t next = begin + ahead_;
    const bool expected = next >= 0 && next + rows <= run_.rows;
    blocks_.ops.read(address(view, begin, 0), view.type, view.row_stride, rows, columns, expected ? ahead_ : 0, to);
  }
  // The logarithms of some tokens' decays.
  void read_logs(int64_t begin, int64_t rows, M& to) const {
    if (run_.g.data) {
      read(run_.g, begin, rows, gates_, to);
    } else {
      to.shape(rows, 1);
      for (int64_t t = 0; t < rows; ++t) *to.row(t) = static_cast<T>(run_.decays.log_decay);
    }
    if (gates_ > 1) return;
    // Decays below exp(-1000) are 0 in every type. So differences of sums of one gate stay finite; others are never formed.
    for (int64_t t = 0; t < rows; ++t) *to.row(t) = *to.row(t) < T{kLeastLogDecay} ? T{kLeastLogDecay} : *to.row(t);
  }
  // A state, or the gradient of one; zero where there is none.
  void read_state(const T* from, M& to) const {
    to.shape(dk_, dv_);
    if (!from) return to.zero();
    for (int64_t c = 0; c < dk_; ++c) std::copy_n(from + c * dv_, dv_, to.row(c));
  }
  void write_state(const M& from, T* to) const {
    for (int64_t c = 0; c < dk_; ++c) std::copy_n(from.row(c), dv_, to + c * dv_);
  }
  void write_state(const M& from, const View& to) const {
    if (to.data) write_state(from, numbers<T>(to));
  }
  // The state that a segment begins with, and the gradient behind it, if they are given.
  const T* initial_of(const Segment& segment) const { return row_of_document(run_.initial, segment.initial); }
  const T* begin_of(const Segment& segment, const ConstView& entering) const {
    return segment.enters ? numbers<T>(entering) : initial_of(segment);
  }
  const T* final_of(const ConstView& dfinal, const Segment& segment) const {
    return row_of_document(dfinal, segment.final);
  }
  // The gradient behind a segment: of its document's final state, or of the state that leaves the run with it.
  const T* behind(const Segment& segment, const ConstView& dfinal, const ConstView& dstate) const {
    const bool leaves = segment.end == run_.rows && segment.final < 0;
    return leaves ? numbers<T>(dstate) : final_of(dfinal, segment);
  }
  const T* row_of_document(const ConstView& states, int64_t document) const {
    return states.data && document >= 0 ? static_cast<const T*>(address(states, document, 0)) : nullptr;
  }
  // Rows of a sum += factor * from.
  void add_rows(const View& to, int64_t begin, const M& from, T factor = 1) const {
    if (to.data) blocks_.ops.add(from, factor, from.rows(), from.columns(), {sums(to, begin), to.row_stride});
  }
  void add_state(const View& states, int64_t document, const M& state) const {
    if (!states.data || document < 0) return;
    blocks_.ops.add(state, 1, dk_, dv_, {sums(states, document), dv_});
  }

  // Whether out reads the state before its token's decay and writing.
  bool reads_before() const { return run_.u.data != nullptr; }
  // The gate that multiplies row c of the state.
  int64_t gate_of(int64_t c) const { return gates_ == 1 ? 0 : c; }
  size_t gate_at(int64_t c) const { return static_cast<size_t>(gate_of(c)); }
  static size_t at(int64_t row, int64_t columns, int64_t column) { return static_cast<size_t>(row * columns + column); }
  // A row of sums.
  static T* sums(const View& view, int64_t row) { return static_cast<T*>(address(view, row, 0)); }
  void poll() const {
    if (run_.stop) run_.stop->poll();
  }

  const TokenRun& run_;
  const int64_t dk_, dv_, gates_;
  const Blocks<T> blocks_;
  int64_t begin_ = 0, rows_ = 0;  // the chunk

 private:
  int64_t ahead_ = 0;  // from it to the next one
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
  void (*scan)(const TokenRun&, const ConstView& entering, const View& out, const View& final, const View& leaving);
  void (*apply_state)(const TokenRun&, const ConstView& state, const View& out, const View& final);
  void (*scan_backward)(const TokenRun&, const ConstView& dout, const ConstView& dfinal, const RunEnds&,
                        const RunGradients&);
  void (*apply_dstate)(const TokenRun&, const ConstView& dstate, const ConstView& state, const RunGradients&);
};
extern const LocalWork diagonal_work;  // ends.cc: F = diag(exp g)
extern const LocalWork low_rank_work;  // low_rank.cc: with a matrix of rank one
extern const LocalWork product_work;   // products.cc: several of them for each token
extern const LocalWork columns_work;   // columns.cc: of columns of the state

// Of diagonal transitions: chunks.cc.
void scan_diagonal(const TokenRun& run, const ConstView& entering, const View& out, const View& final,
                   const View& leaving);
void scan_diagonal_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const RunEnds& ends,
                            const RunGradients& gradients);

}  // namespace weft::kernels::recurrence_internal
