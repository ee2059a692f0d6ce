// Runs whose states mix rows, backward: recurrence_low_rank.h has the formulas.
#include "weft/kernels/linear/low_rank.h"

namespace weft::kernels::recurrence_internal {
namespace {

template <typename T>
class LowRankBackward : LowRankChunks<T> {
 public:
  explicit LowRankBackward(const TokenRun& run) : LowRankChunks<T>(run), gates_sum_(blocks_, gates_, dk_) {}
  void summarise_backward(const ConstView& dout, const ConstView& dfinal, T* dstate);
  void scan_backward(const ConstView& dout, const ConstView& dfinal, const RunEnds& ends, const RunGradients& to);
  void apply_dstate(const T* dstate, const T* state, const RunGradients& to);

 private:
  using Base = LowRankChunks<T>;
  using Base::a, Base::a_, Base::ae_, Base::ak_, Base::add_rows, Base::add_state, Base::ab_, Base::advance, Base::b_,
      Base::be_, Base::begin_, Base::begin_of, Base::behind, Base::beta_, Base::blocks_, Base::decays_, Base::delta_,
      Base::dk_, Base::dv_, Base::final_of, Base::for_each_chunk, Base::for_each_chunk_back, Base::gates_,
      Base::initial_of, Base::k_, Base::ke_, Base::load, Base::minus_beta_, Base::q_, Base::qb_, Base::qe_, Base::qk_,
      Base::read, Base::read_by_a, Base::read_state, Base::reading_, Base::rhs_, Base::rows_, Base::run_, Base::scale,
      Base::solver_, Base::sums, Base::v_, Base::values_, Base::w_, Base::write_state, Base::x_;
  using typename Base::M, typename Base::Own, typename Base::Part, typename Base::Queries;

  void solve_backward(const M& dstate, bool with_dout);
  void retreat(bool with_dout, M& dstate);
  void add_gradients(M& before, const M& dstate, bool with_dout, const RunGradients& to);
  void add_ends(const M& before, const M& dstate, bool with_dout, bool with_gates);
  void add_pairs(const M& dreads, const M& writes, T factor, const M& scores, const M& x, const M& y, Reading reading,
                 bool with_gates, M& dx, M& dy);
  void give(const RunGradients& to);
  void segment_backward(const Segment& segment, const ConstView& dout, const T* state, const T* dstate,
                        const RunGradients& to, const View& leaving);

  GateGradients<T> gates_sum_;
  M dout_, dw_, y_;                    // dw_: the gradient of what is written under k
  M dq_, dk_sum_, da_, db_, dx_, dy_;  // of the delta rule da_ is of k as it reads
  M dscores_, transposed_, sum_;
  std::vector<T> dots_, more_dots_;
};

// dw_ without what passes by later tokens of the chunk, then Y, and dw_ with it.
template <typename T>
void LowRankBackward<T>::solve_backward(const M& dstate, bool with_dout) {
  blocks_.product(ke_, dstate, dw_);
  if (with_dout) blocks_.add_transposed_product(qk_, dout_, dw_, scale(), Part::upper_a);
  if (delta_) {
    blocks_.scale_rows(dw_, minus_beta_.data(), rhs_);
  } else {
    blocks_.product(be_, dstate, rhs_);
    if (with_dout) blocks_.add_transposed_product(qb_, dout_, rhs_, scale(), Part::upper_a);
  }
  solver_.solve_transposed(rhs_, y_);
  blocks_.add_transposed_product(ak_, y_, dw_, 1, Part::upper_a);
}

template <typename T>
void LowRankBackward<T>::retreat(bool with_dout, M& dstate) {
  blocks_.decay_and_add(decays_.passed(), ae_, y_, dstate);
  if (with_dout) blocks_.add_transposed_product(qe_, dout_, dstate, scale());
}

template <typename T>
void LowRankBackward<T>::summarise_backward(const ConstView& dout, const ConstView& dfinal, T* dstate) {
  const Segment first = segments_of(run_).front();
  M gradient;
  read_state(first.enters ? final_of(dfinal, first) : nullptr, gradient);
  if (first.enters) {
    for_each_chunk_back(first, [&](int64_t begin) {
      load(begin, first.end, Queries::read);
      read(dout, begin_, rows_, dv_, dout_);
      solve_backward(gradient, true);
      retreat(true, gradient);
    });
  }
  write_state(gradient, dstate);
}

// What comes from before the chunk or goes behind it.
template <typename T>
void LowRankBackward<T>::add_ends(const M& before, const M& dstate, bool with_dout, bool with_gates) {
  blocks_.transpose(before, transposed_);
  blocks_.product(y_, transposed_, sum_);
  decays_.from_begin(sum_, reading_, da_);
  if (with_gates) gates_sum_.add_entering(a(), da_, reading_);
  if (with_dout) {
    blocks_.product(dout_, transposed_, sum_, scale());
    decays_.from_begin(sum_, Reading::after, dq_);
    if (with_gates) gates_sum_.add_entering(q_, dq_, Reading::after);
  }
  blocks_.transpose(dstate, transposed_);
  blocks_.product(delta_ ? w_ : v_, transposed_, sum_);
  decays_.to_end(sum_, dk_sum_);
  if (with_gates) gates_sum_.add_leaving(k_, dk_sum_);
  if (delta_) return;
  blocks_.product(x_, transposed_, sum_);
  decays_.to_end(sum_, db_);
  if (with_gates) gates_sum_.add_leaving(b_, db_);
}

// What tokens read by x of what earlier ones wrote by y: the gradient of their product is dreads writes^T.
template <typename T>
void LowRankBackward<T>::add_pairs(const M& dreads, const M& writes, T factor, const M& scores, const M& x, const M& y,
                                   Reading reading, bool with_gates, M& dx, M& dy) {
  const bool own = &x == &q_;
  blocks_.transpose(writes, transposed_);
  blocks_.product(dreads, transposed_, dscores_, factor, Part::lower_result);
  for (int64_t i = 0; i < rows_ && !own; ++i) dscores_.row(i)[i] = 0;
  decays_.gradients(dscores_, x, y, reading, dx_, dy_);
  if (with_gates) gates_sum_.add_pairs(scores, dscores_, x, dx_, y, dy_, reading);
  if (own) decays_.add_own_gradients(dscores_, x, y, nullptr, dx_, dy_);
  blocks_.add(dx_, dx);
  blocks_.add(dy_, dy);
}

// Of a chunk that `before` enters, x_ and y_ solved for.
template <typename T>
void LowRankBackward<T>::add_gradients(M& before, const M& dstate, bool with_dout, const RunGradients& to) {
  const bool with_gates = to.dg.data != nullptr;
  gates_sum_.begin(rows_);
  add_ends(before, dstate, with_dout, with_gates);
  const M& written = delta_ ? w_ : v_;
  add_pairs(y_, written, 1, ak_, a(), k_, reading_, with_gates, da_, dk_sum_);
  if (!delta_) add_pairs(y_, x_, 1, ab_, a_, b_, reading_, with_gates, da_, db_);
  if (with_dout) {
    add_pairs(dout_, written, scale(), qk_, q_, k_, Reading::after, with_gates, dq_, dk_sum_);
    if (!delta_) add_pairs(dout_, x_, scale(), qb_, q_, b_, Reading::after, with_gates, dq_, db_);
    add_rows(to.dq, begin_, dq_);
  }
  if (with_gates) gates_sum_.finish(before, dstate, decays_.passed(), to.dg, begin_);
  give(to);
}

// To the inputs as they were given.
template <typename T>
void LowRankBackward<T>::give(const RunGradients& to) {
  add_rows(to.dk, begin_, dk_sum_);
  if (!delta_) {
    add_rows(to.dv, begin_, dw_);
    add_rows(to.da, begin_, da_);
    add_rows(to.db, begin_, db_);
    return;
  }
  add_rows(to.dk, begin_, da_);
  if (to.dbeta.data) {
    dots_.resize(static_cast<size_t>(rows_)), more_dots_.resize(dots_.size());
    blocks_.ops.dots(values_, dw_, rows_, dv_, dots_.data());
    blocks_.ops.dots(x_, dw_, rows_, dv_, more_dots_.data());
    for (size_t i = 0; i < dots_.size(); ++i)
      *sums(to.dbeta, begin_ + static_cast<int64_t>(i)) += dots_[i] - more_dots_[i];
  }
  blocks_.scale_rows(dw_, beta_.data(), sum_);
  add_rows(to.dv, begin_, sum_);
}

// The gradients of a segment that begins with `state`, due to its own dout (where there is one) and to `dstate` behind it;
// either may be null. To `leaving`, unless that is null, that of `state`; zero where the segment begins a document.
template <typename T>
void LowRankBackward<T>::segment_backward(const Segment& segment, const ConstView& dout, const T* state,
                                          const T* dstate, const RunGradients& to, const View& leaving) {
  const bool with_dout = dout.data != nullptr;
  std::vector<M> states(1);  // before each chunk
  M gradient;
  read_state(state, states[0]);
  read_state(dstate, gradient);
  for_each_chunk(segment, [&](int64_t begin) {
    if (begin + Base::kTokens >= segment.end) return;
    load(begin, segment.end, Queries::left_out);
    read_by_a(states.back(), Own::added);
    M next;
    next.copy(states.back());
    advance(Own::added, next);
    states.push_back(std::move(next));
  });
  for_each_chunk_back(segment, [&](int64_t begin) {
    load(begin, segment.end, with_dout ? Queries::read : Queries::left_out);
    if (with_dout) read(dout, begin_, rows_, dv_, dout_);
    read_by_a(states.back(), Own::added);
    solve_backward(gradient, with_dout);
    add_gradients(states.back(), gradient, with_dout, to);
    states.pop_back();
    retreat(with_dout, gradient);
  });
  add_state(to.dinitial, segment.initial, gradient);
  if (!segment.enters) gradient.zero();
  write_state(gradient, leaving);
}

template <typename T>
void LowRankBackward<T>::scan_backward(const ConstView& dout, const ConstView& dfinal, const RunEnds& ends,
                                       const RunGradients& to) {
  for (const Segment& segment : segments_of(run_)) {
    segment_backward(segment, dout, begin_of(segment, ends.state), behind(segment, dfinal, ends.dstate), to,
                     segment.begin == 0 ? ends.leaving : View{});
  }
}

template <typename T>
void LowRankBackward<T>::apply_dstate(const T* dstate, const T* state, const RunGradients& to) {
  const Segment last = segments_of(run_).back();
  segment_backward(last, {}, last.enters ? state : initial_of(last), dstate, to, {});
}

}  // namespace

void summarise_low_rank_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal,
                                 const View& dstate) {
  in_type_of(run, [&](auto t) {
    using T = decltype(t);
    LowRankBackward<T>(run).summarise_backward(dout, dfinal, numbers<T>(dstate));
  });
}

void scan_low_rank_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const RunEnds& ends,
                            const RunGradients& to) {
  in_type_of(run, [&](auto t) { LowRankBackward<decltype(t)>(run).scan_backward(dout, dfinal, ends, to); });
}

void apply_low_rank_dstate(const TokenRun& run, const ConstView& dstate, const ConstView& state,
                           const RunGradients& to) {
  in_type_of(run, [&](auto t) {
    using T = decltype(t);
    LowRankBackward<T>(run).apply_dstate(numbers<T>(dstate), numbers<T>(state), to);
  });
}

}  // namespace weft::kernels::recurrence_internal
