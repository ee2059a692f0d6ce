// A run where F is diagonal, chunk by chunk: inside a chunk every pair of tokens, between chunks the state. With S
// the scores of recurrence_decays.h, qe and ke the rows with the decays from the chunk's begin and to its end,
//
//   out = s (qe R + S V)                        R <- diag(exp c_C) R + ke^T V
//   dS  = s dout V^T                            G <- diag(exp c_C) G + s qe^T dout
//   dq  = s (dout R^T) exp c_i + from dS        dk = (V G^T) exp(c_C - c_j) + from dS        dv = ke G + s S^T dout
#include "weft/kernels/linear/decays.h"

namespace weft::kernels::recurrence_internal {
namespace {

template <typename T>
class RunChunks : RunMath<T> {
 public:
  explicit RunChunks(const TokenRun& run)
      : RunMath<T>(run),
        reading_(reads_before() ? Reading::before : Reading::after),
        decays_(blocks_, gates_, dk_, reads_before()),
        gates_sum_(blocks_, gates_, dk_) {}
  void scan(const ConstView& entering, const View& out, const View& final, const View& leaving);
  void scan_backward(const ConstView& dout, const ConstView& dfinal, const RunEnds& ends, const RunGradients& to);

 private:
  using Base = RunMath<T>;
  using Base::add_rows, Base::add_state, Base::begin_, Base::begin_of, Base::behind, Base::blocks_, Base::dk_,
      Base::dv_, Base::gates_, Base::kTokens, Base::move_to, Base::poll, Base::read, Base::read_logs, Base::read_state,
      Base::reads_before, Base::rows_, Base::run_, Base::sums, Base::write_state;
  using typename Base::M;
  using Part = typename Blocks<T>::Part;

  void load_keys(int64_t begin, int64_t end);
  void load_queries();
  void advance(M& state) { blocks_.decay_and_add(decays_.passed(), ke_, v_, state); }
  void add_gradients(const ConstView& dout, M& state, M& dstate, const RunGradients& to);
  void add_bonus_gradient(const View& du);
  const T* bonus() const { return static_cast<const T*>(run_.u.data); }
  T scale() const { return static_cast<T>(run_.scale); }

  const Reading reading_;
  ChunkDecays<T> decays_;
  GateGradients<T> gates_sum_;
  // One chunk.
  M logs_;
  M q_, k_, v_, qe_, ke_, scores_, sum_;
  M dout_, dscores_, dq_, dk_pairs_, dk_end_, dv_sum_, transposed_, own_;
  std::vector<T> own_scores_;
};

// Of the chunk from `begin` on: what advances the state.
template <typename T>
void RunChunks<T>::load_keys(int64_t begin, int64_t end) {
  poll();
  move_to(begin, std::min(kTokens, end - begin));
  read(run_.k, begin_, rows_, dk_, k_);
  read(run_.v, begin_, rows_, dv_, v_);
  read_logs(begin_, rows_, logs_);
  decays_.load(logs_, run_.decays.columns == 0);
  decays_.to_end(k_, ke_);
}

template <typename T>
void RunChunks<T>::load_queries() {
  read(run_.q, begin_, rows_, dk_, q_);
  decays_.from_begin(q_, reading_, qe_);
  decays_.scores(q_, k_, reading_, scores_);
  if (!reads_before()) return;  // else what a token reads of its own key is a parameter's to say
  own_scores_.resize(static_cast<size_t>(rows_));
  blocks_.times(q_, {bonus(), 0}, own_);
  blocks_.ops.dots(own_, k_, rows_, dk_, own_scores_.data());
  for (int64_t i = 0; i < rows_; ++i) scores_.row(i)[i] = own_scores_[static_cast<size_t>(i)];
}

template <typename T>
void RunChunks<T>::scan(const ConstView& entering, const View& out, const View& final, const View& leaving) {
  M state;
  for (const Segment& segment : segments_of(run_)) {
    read_state(begin_of(segment, entering), state);
    for (int64_t t = segment.begin; t < segment.end; t += kTokens) {
      load_keys(t, segment.end);
      load_queries();
      blocks_.product(qe_, state, sum_);
      blocks_.add_product(scores_, v_, sum_, 1, Part::lower_a);
      add_rows(out, begin_, sum_, scale());
      advance(state);
    }
    add_state(final, segment.final, state);
  }
  write_state(state, leaving);
}

// Of the chunk's own queries and keys, the state before it and the gradient of the state after it, which becomes that of the
// state before.
template <typename T>
void RunChunks<T>::add_gradients(const ConstView& dout, M& state, M& dstate, const RunGradients& to) {
  read(dout, begin_, rows_, dv_, dout_);
  gates_sum_.begin(rows_);
  blocks_.transpose(state, transposed_);
  blocks_.product(dout_, transposed_, sum_, scale());
  decays_.from_begin(sum_, reading_, dq_);
  if (to.dg.data) gates_sum_.add_entering(q_, dq_, reading_);
  blocks_.transpose(dstate, transposed_);
  blocks_.product(v_, transposed_, sum_);
  decays_.to_end(sum_, dk_end_);
  if (to.dg.data) gates_sum_.add_leaving(k_, dk_end_);
  // With one gate what pairs give is added to this; else dg needs it by itself.
  const bool together = decays_.one_gate();
  M& dk = together ? dk_end_ : dk_pairs_;
  if (!together) add_rows(to.dq, begin_, dq_), add_rows(to.dk, begin_, dk_end_);
  if (to.dv.data) {
    blocks_.product(ke_, dstate, dv_sum_);
    blocks_.add_transposed_product(scores_, dout_, dv_sum_, scale(), Part::upper_a);
    add_rows(to.dv, begin_, dv_sum_);
  }
  blocks_.transpose(v_, transposed_);
  blocks_.product(dout_, transposed_, dscores_, scale(), Part::lower_result);
  if (together) {
    decays_.add_gradients(dscores_, q_, k_, reading_, dq_, dk);
  } else {
    decays_.gradients(dscores_, q_, k_, reading_, dq_, dk);
  }
  if (to.dg.data) {
    gates_sum_.add_pairs(scores_, dscores_, q_, dq_, k_, dk, reading_);
    gates_sum_.finish(state, dstate, decays_.passed(), to.dg, begin_);
  }
  decays_.add_own_gradients(dscores_, q_, k_, bonus(), dq_, dk);
  if (to.du.data) add_bonus_gradient(to.du);
  add_rows(to.dq, begin_, dq_);
  add_rows(to.dk, begin_, dk);
  blocks_.decay_and_add(decays_.passed(), qe_, dout_, dstate, scale());
}

// What each token reads of its own key by u, which passes no decay.
template <typename T>
void RunChunks<T>::add_bonus_gradient(const View& du) {
  for (int64_t i = 0; i < rows_; ++i) own_scores_[static_cast<size_t>(i)] = dscores_.row(i)[i];
  blocks_.scale_rows(q_, own_scores_.data(), own_);
  blocks_.times_in_place(own_, k_);
  blocks_.ops.add(own_, 1, rows_, dk_, {sums(du, 0), 0});
}

template <typename T>
void RunChunks<T>::scan_backward(const ConstView& dout, const ConstView& dfinal, const RunEnds& ends,
                                 const RunGradients& to) {
  M dstate;
  for (const Segment& segment : segments_of(run_)) {
    const int64_t chunks = (segment.rows() + kTokens - 1) / kTokens;
    std::vector<M> states(static_cast<size_t>(chunks));  // before each chunk
    read_state(begin_of(segment, ends.state), states[0]);
    for (size_t n = 1; n < states.size(); ++n) {
      load_keys(segment.begin + static_cast<int64_t>(n - 1) * kTokens, segment.end);
      states[n].copy(states[n - 1]);
      advance(states[n]);
    }
    read_state(behind(segment, dfinal, ends.dstate), dstate);
    for (size_t n = states.size(); n-- > 0;) {
      load_keys(segment.begin + static_cast<int64_t>(n) * kTokens, segment.end);
      load_queries();
      add_gradients(dout, states[n], dstate, to);
    }
    add_state(to.dinitial, segment.initial, dstate);
    if (segment.begin > 0) continue;
    if (!segment.enters) dstate.zero();
    write_state(dstate, ends.leaving);
  }
}

}  // namespace

void scan_diagonal(const TokenRun& run, const ConstView& entering, const View& out, const View& final,
                   const View& leaving) {
  in_type_of(run, [&](auto t) { RunChunks<decltype(t)>(run).scan(entering, out, final, leaving); });
}

void scan_diagonal_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const RunEnds& ends,
                            const RunGradients& gradients) {
  in_type_of(run, [&](auto t) { RunChunks<decltype(t)>(run).scan_backward(dout, dfinal, ends, gradients); });
}

}  // namespace weft::kernels::recurrence_internal
