#include "weft/kernels/linear/decays.h"

namespace weft::kernels::recurrence_internal {
namespace {

template <typename T>
void exp_in_place(const BlockOps<T>& ops, std::vector<T>& x) {
  const int64_t n = static_cast<int64_t>(x.size());
  ops.exponentials({x.data(), n}, 1, n, {x.data(), n});
}

}  // namespace

template <typename T>
void ChunkDecays<T>::load(const M& logs, bool constant) {
  if (constant && logs.rows() == rows_) return;
  rows_ = logs.rows();
  sums_.assign(static_cast<size_t>(gates_), 0.0);
  add_up_logs(blocks_, logs, sums_);
  passed_.resize(static_cast<size_t>(dim_));
  for (size_t c = 0; c < passed_.size(); ++c) {
    passed_[c] = gates_ == 1 && c > 0 ? passed_[0] : static_cast<T>(std::exp(sums_[gates_ == 1 ? 0 : c]));
  }
  if (gates_ == 1) {
    load_scalar(logs);
  } else {
    load_channels(logs);
  }
}

template <typename T>
void ChunkDecays<T>::load_scalar(const M& logs) {
  const size_t n = static_cast<size_t>(rows_);
  std::vector<double> c(n + 1, 0.0),
      later(n + 1, 0.0);  // c[i] of the tokens before i, later[i] of i and those after it
  for (size_t i = 0; i < n; ++i) c[i + 1] = c[i] + double{*logs.row(static_cast<int64_t>(i))};
  for (size_t i = n; i-- > 0;) later[i] = later[i + 1] + double{*logs.row(static_cast<int64_t>(i))};
  up_to_.resize(n), before_.resize(n), after_.resize(n);
  for (size_t i = 0; i < n; ++i) {
    up_to_[i] = static_cast<T>(c[i + 1]);
    before_[i] = static_cast<T>(c[i]);
    after_[i] = static_cast<T>(later[i + 1]);
  }
  for (std::vector<T>* x : {&up_to_, &before_, &after_}) exp_in_place(blocks_.ops, *x);
  const auto load_between = [&](M& to, int64_t reads, T own) {
    to.shape(rows_, rows_);
    for (int64_t i = 0; i < rows_; ++i) {
      T* const row = to.row(i);
      for (int64_t j = 0; j < i; ++j)
        row[j] = static_cast<T>(c[static_cast<size_t>(i + reads)] - c[static_cast<size_t>(j + 1)]);
      blocks_.ops.exponentials({row, 0}, 1, i, {row, 0});
      row[i] = own;
    }
  };
  load_between(between_, 1, T{1});
  if (reads_before_) load_between(between_before_, 0, T{0});
}

template <typename T>
void ChunkDecays<T>::load_channels(const M& logs) {
  decay_.shape_like(logs);
  blocks_.ops.exponentials(logs, rows_, dim_, decay_);
  for (M* m : {&in_block_, &in_block_before_, &to_block_end_}) m->shape(rows_, dim_);
  block_.shape(blocks(), dim_);
  const auto step = [&](const T* from, int64_t token, T* to) {
    blocks_.ops.times({from, 0}, decay_.from_row(token), 1, dim_, {to, 0});
  };
  for (int64_t block = 0; block < blocks(); ++block) {
    const int64_t begin = block * kBlock, end = begin + size_of_block(block);
    std::fill_n(in_block_before_.row(begin), dim_, T{1});
    for (int64_t i = begin; i < end; ++i) {
      step(in_block_before_.row(i), i, in_block_.row(i));
      if (i + 1 < end) std::copy_n(in_block_.row(i), dim_, in_block_before_.row(i + 1));
    }
    std::fill_n(to_block_end_.row(end - 1), dim_, T{1});
    for (int64_t i = end - 1; i-- > begin;) step(to_block_end_.row(i + 1), i + 1, to_block_end_.row(i));
    std::copy_n(in_block_.row(end - 1), dim_, block_.row(block));
  }
}

template <typename T>
void ChunkDecays<T>::from_begin(const M& x, Reading reading, M& to) const {
  if (gates_ == 1) return blocks_.scale_rows(x, (reading == Reading::after ? up_to_ : before_).data(), to);
  blocks_.times(x, from_block_begin(reading), to);
  row_.shape(1, dim_);  // of the blocks before
  for (int64_t block = 1; block < blocks(); ++block) {
    if (block == 1) {
      std::copy_n(block_.row(0), dim_, row_.row(0));
    } else {
      blocks_.times_in_place(row_, block_.from_row(block - 1));
    }
    const auto rows = to.from_row(block * kBlock);
    blocks_.ops.times({rows.data, rows.stride}, {row_.row(0), 0}, size_of_block(block), dim_, rows);
  }
}

template <typename T>
void ChunkDecays<T>::to_end(const M& y, M& to) const {
  if (gates_ == 1) return blocks_.scale_rows(y, after_.data(), to);
  blocks_.times(y, to_block_end_, to);
  row_.shape(1, dim_);  // of the blocks behind
  for (int64_t block = blocks() - 1; block-- > 0;) {
    if (block == blocks() - 2) {
      std::copy_n(block_.row(block + 1), dim_, row_.row(0));
    } else {
      blocks_.times_in_place(row_, block_.from_row(block + 1));
    }
    const auto rows = to.from_row(block * kBlock);
    blocks_.ops.times({rows.data, rows.stride}, {row_.row(0), 0}, size_of_block(block), dim_, rows);
  }
}

template <typename T>
void ChunkDecays<T>::scores(const M& x, const M& y, Reading reading, M& to) const {
  using Part = typename Blocks<T>::Part;
  if (gates_ == 1) {
    blocks_.transpose(y, transposed_);
    blocks_.product(x, transposed_, masked_, 1, Part::lower_result);
    to.shape(rows_, rows_);
    return blocks_.ops.times_lower(masked_, reading == Reading::after ? between_ : between_before_, rows_, to);
  }
  to.shape(rows_, rows_);
  blocks_.times(x, from_block_begin(reading), near_);
  transposed_.shape(dim_, rows_);  // the y before the block, as they reach its begin
  row_.shape(1, dim_);
  for (int64_t block = 0; block < blocks(); ++block) {
    const int64_t begin = block * kBlock, rows = size_of_block(block);
    if (begin > 0) {
      blocks_.ops.multiply({.m = rows,
                            .n = begin,
                            .k = dim_,
                            .a = near_.row(begin),
                            .a_row = near_.stride(),
                            .a_column = 1,
                            .b = transposed_.row(0),
                            .b_row = transposed_.stride(),
                            .to = to.row(begin),
                            .to_row = to.stride()});
    }
    for (int64_t i = begin; i < begin + rows; ++i) std::fill(to.row(i) + begin, to.row(i) + to.stride(), T{0});
    blocks_.ops.pair_scores({rows, dim_, x.from_row(begin), y.from_row(begin), decay_.from_row(begin),
                             reading == Reading::before, row_.row(0)},
                            {to.row(begin) + begin, to.stride()});
    if (reading == Reading::after) {
      T own[kBlock];
      blocks_.ops.dots(x.from_row(begin), y.from_row(begin), rows, dim_, own);
      for (int64_t i = 0; i < rows; ++i) to.row(begin + i)[begin + i] = own[i];
    }
    if (block + 1 == blocks()) break;
    if (begin > 0) blocks_.ops.scale_rows(transposed_, block_.row(block), dim_, begin, transposed_);
    carried_.shape(rows, dim_);
    blocks_.ops.times(y.from_row(begin), to_block_end_.from_row(begin), rows, dim_, carried_);
    blocks_.ops.transpose(carried_, rows, dim_, {transposed_.row(0) + begin, transposed_.stride()});
  }
}

template <typename T>
const BlockMatrix<T>& ChunkDecays<T>::masked(const M& dscores, Reading reading) const {
  masked_.shape(rows_, rows_);
  blocks_.ops.times_lower(dscores, reading == Reading::after ? between_ : between_before_, rows_, masked_);
  return masked_;
}

template <typename T>
void ChunkDecays<T>::add_gradients(const M& dscores, const M& x, const M& y, Reading reading, M& dx, M& dy) const {
  using Part = typename Blocks<T>::Part;
  WEFT_CHECK(one_gate());
  const M& d = masked(dscores, reading);
  blocks_.add_product(d, y, dx, 1, Part::lower_a);
  blocks_.add_transposed_product(d, x, dy, 1, Part::upper_a);
}

template <typename T>
void ChunkDecays<T>::gradients(const M& dscores, const M& x, const M& y, Reading reading, M& dx, M& dy) const {
  using Part = typename Blocks<T>::Part;
  if (one_gate()) {
    const M& d = masked(dscores, reading);
    blocks_.product(d, y, dx, 1, Part::lower_a);
    return blocks_.transposed_product(d, x, dy, 1, Part::upper_a);
  }
  dx.shape_like(x), dy.shape_like(y);
  dx.zero(), dy.zero();
  row_.shape(1, dim_);
  const auto between = [&](int64_t m, const T* a, int64_t a_row, int64_t a_column, int64_t k, const M& b,
                           int64_t b_begin, T* to) {
    blocks_.ops.multiply({.m = m,
                          .n = dim_,
                          .k = k,
                          .a = a,
                          .a_row = a_row,
                          .a_column = a_column,
                          .b = b.row(b_begin),
                          .b_row = b.stride(),
                          .to = to,
                          .to_row = dx.stride()});
  };
  carried_.shape_like(y);  // the y before the block, as they reach its begin
  for (int64_t block = 0; block < blocks(); ++block) {
    const int64_t begin = block * kBlock, rows = size_of_block(block);
    if (begin > 0) {
      between(rows, dscores.row(begin), dscores.stride(), 1, begin, carried_, 0, dx.row(begin));
      const auto to = dx.from_row(begin);
      blocks_.ops.times({to.data, to.stride}, from_block_begin(reading).from_row(begin), rows, dim_, to);
      blocks_.ops.times(carried_, {block_.row(block), 0}, begin, dim_, carried_);
    }
    blocks_.ops.times(y.from_row(begin), to_block_end_.from_row(begin), rows, dim_, carried_.from_row(begin));
  }
  carried_.shape_like(x);  // the x behind the block, taken back to its end
  for (int64_t block = blocks(); block-- > 0;) {
    const int64_t begin = block * kBlock, rows = size_of_block(block), end = begin + rows;
    if (end < rows_) {
      between(rows, dscores.row(end) + begin, 1, dscores.stride(), rows_ - end, carried_, end, dy.row(begin));
      const auto to = dy.from_row(begin);
      blocks_.ops.times({to.data, to.stride}, to_block_end_.from_row(begin), rows, dim_, to);
      const auto behind = carried_.from_row(end);
      blocks_.ops.times({behind.data, behind.stride}, {block_.row(block), 0}, rows_ - end, dim_, behind);
    }
    blocks_.ops.times(x.from_row(begin), from_block_begin(reading).from_row(begin), rows, dim_,
                      carried_.from_row(begin));
    blocks_.ops.pair_gradients({rows, dim_, x.from_row(begin), y.from_row(begin), decay_.from_row(begin),
                                reading == Reading::before, row_.row(0)},
                               {dscores.row(begin) + begin, dscores.stride()}, dx.from_row(begin), dy.from_row(begin));
  }
}

template <typename T>
void ChunkDecays<T>::add_own_gradients(const M& dscores, const M& x, const M& y, const T* factors, M& dx, M& dy) const {
  if (gates_ == 1 && !factors) return;
  own_.resize(static_cast<size_t>(rows_));
  for (int64_t i = 0; i < rows_; ++i) own_[static_cast<size_t>(i)] = dscores.row(i)[i];
  const auto add = [&](const M& from, M& to) {
    blocks_.scale_rows(from, own_.data(), carried_);
    if (factors) blocks_.times_in_place(carried_, {factors, 0});
    blocks_.add(carried_, to);
  };
  add(y, dx);
  add(x, dy);
}

template class ChunkDecays<float>;
template class ChunkDecays<double>;

// ---- gradients of the gates

template <typename T>
void GateGradients<T>::begin(int64_t rows) {
  rows_ = rows;
  for (std::vector<double>* x : {&after_, &before_, &leaving_, &whole_})
    x->assign(static_cast<size_t>(rows * gates_), 0.0);
}

template <typename T>
void GateGradients<T>::add(const M& x, const M& dx, std::vector<double>& to) {
  if (gates_ == 1) {
    dots_.resize(static_cast<size_t>(rows_));
    blocks_.ops.dots(x, dx, rows_, dim_, dots_.data());
    for (size_t i = 0; i < dots_.size(); ++i) to[i] += double{dots_[i]};
    return;
  }
  double* sum = to.data();
  for (int64_t i = 0; i < rows_; ++i, sum += dim_) {
    const T *const a = x.row(i), *const b = dx.row(i);
    for (int64_t c = 0; c < dim_; ++c) sum[c] += double{a[c] * b[c]};
  }
}

namespace {

// Eight sums side by side: one addition would wait for the one before it.
double sum_of(const double* numbers, int64_t count) {
  constexpr int64_t kSums = 8;
  double sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums) {
    for (int64_t lane = 0; lane < kSums; ++lane) sums[lane] += numbers[i + lane];
  }
  double rest = 0;
  for (; i < count; ++i) rest += numbers[i];
  for (const double sum : sums) rest += sum;
  return rest;
}

}  // namespace

// One gate: every pair is summed from its reader's side, so nothing cancels.
template <typename T>
void GateGradients<T>::add_crossing(const M& scores, const M& dscores, Reading reading) {
  std::vector<double> passing(static_cast<size_t>(rows_), 0.0);  // what token j wrote to readers from i on
  for (int64_t i = rows_ - 1; i > 0; --i) {
    const auto give = [&] { whole_[static_cast<size_t>(i)] += sum_of(passing.data(), i); };
    const T *const score = scores.row(i), *const dscore = dscores.row(i);
    if (reading == Reading::before) give();
    for (int64_t j = 0; j < i; ++j) passing[static_cast<size_t>(j)] += double{score[j] * dscore[j]};
    if (reading == Reading::after) give();
  }
}

template <typename T>
void GateGradients<T>::add_pairs(const M& scores, const M& dscores, const M& x, const M& dx, const M& y, const M& dy,
                                 Reading reading) {
  if (gates_ == 1) return add_crossing(scores, dscores, reading);
  add(x, dx, reading == Reading::after ? after_ : before_);
  std::vector<double>& sums = after_;
  for (int64_t j = 0; j < rows_; ++j) {
    const T *const a = y.row(j), *const b = dy.row(j);
    double* const sum = sums.data() + j * dim_;
    for (int64_t c = 0; c < dim_; ++c) sum[c] -= double{a[c] * b[c]};
  }
}

template <typename T>
void GateGradients<T>::finish(const M& state, const M& dstate, const T* passed, const View& dg, int64_t first) {
  std::vector<T> through(static_cast<size_t>(dim_));
  blocks_.ops.dots(state, dstate, dim_, state.columns(), through.data());
  std::vector<double> behind(static_cast<size_t>(gates_), 0.0), before(behind);
  for (int64_t c = 0; c < dim_; ++c)
    before[static_cast<size_t>(gates_ == 1 ? 0 : c)] += double{passed[c] * through[static_cast<size_t>(c)]};
  for (int64_t t = rows_; t-- > 0;) {
    const double *const after = &after_[static_cast<size_t>(t * gates_)], *const before_decay =
                                                                              &before_[static_cast<size_t>(t * gates_)];
    double* const whole = &whole_[static_cast<size_t>(t * gates_)];
    for (size_t gate = 0; gate < behind.size(); ++gate) {
      const double sum = behind[gate] + after[gate];
      whole[gate] += sum;
      behind[gate] = sum + before_decay[gate];
    }
  }
  for (int64_t t = 0; t < rows_; ++t) {
    T* const to = static_cast<T*>(address(dg, first + t, 0));
    const double *const whole = &whole_[static_cast<size_t>(t * gates_)],
                        *const leaving = &leaving_[static_cast<size_t>(t * gates_)];
    for (size_t gate = 0; gate < before.size(); ++gate) {
      to[gate] += static_cast<T>(whole[gate] + before[gate]);
      before[gate] += leaving[gate];
    }
  }
}

template class GateGradients<float>;
template class GateGradients<double>;

}  // namespace weft::kernels::recurrence_internal
