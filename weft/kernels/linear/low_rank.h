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
// The delta rule (I - beta k k^T) diag(exp g) R + beta k v^T is the case a = exp(g) k, b = -beta k, with beta v for v: k reads
// after the decay, so exp c_i stands where the formulas have exp c_{i-1}, and all that is written goes under k,
//
//   W = beta (V - X)    out = s ((q exp c_i) R + qk W)    R <- diag(exp c_C) R + (k exp(c_C - c_j))^T W
//   dW = s qk^T dout + (k exp(c_C - c_j)) G + ak^T Y    dqk = s dout W^T    dak = Y W^T    dv = beta dW    dbeta = (v - x) dW
//
// This header has what one chunk needs in both directions. Private to this folder.
#pragma once

#include "weft/kernels/linear/block_solve.h"
#include "weft/kernels/linear/decays.h"

namespace weft::kernels::recurrence_internal {

template <typename T>
class LowRankChunks : protected RunMath<T> {
 public:
  explicit LowRankChunks(const TokenRun& run)
      : RunMath<T>(run),
        delta_(run.beta.data != nullptr),
        reading_(delta_ ? Reading::after : Reading::before),
        decays_(blocks_, gates_, dk_, !delta_),
        solver_(blocks_) {}

 protected:
  using Base = RunMath<T>;
  using Base::begin_, Base::blocks_, Base::dk_, Base::dv_, Base::gates_, Base::move_to, Base::poll, Base::read,
      Base::read_logs, Base::rows_, Base::run_;
  using typename Base::M;
  using Part = typename Blocks<T>::Part;
  // Of a chunk: in longer ones more is lost where keys of few columns lie close to one another.
  static constexpr int64_t kTokens = 32;
  enum class Own { left_out, added };     // what the tokens write themselves
  enum class Queries { left_out, read };  // what out is made of

  // The chunk from `begin` on, and its products.
  void load(int64_t begin, int64_t end, Queries queries);
  // x_, and of the delta rule w_. The state has any number of columns when it passes by itself.
  void read_by_a(const M& state, Own own);
  // The state after the chunk from that before it.
  void advance(Own own, M& state);

  // Calls f(begin) for the chunks of a segment in order, or against it.
  template <typename F>
  static void for_each_chunk(const Segment& segment, F&& f) {
    for (int64_t t = segment.begin; t < segment.end; t += kTokens) f(t);
  }
  template <typename F>
  static void for_each_chunk_back(const Segment& segment, F&& f) {
    for (int64_t n = (segment.rows() + kTokens - 1) / kTokens; n-- > 0;) f(segment.begin + n * kTokens);
  }
  const M& a() const { return delta_ ? k_ : a_; }
  T scale() const { return static_cast<T>(run_.scale); }

  const bool delta_;
  const Reading reading_;  // by a
  ChunkDecays<T> decays_;
  UnitLower<T> solver_;
  M q_, k_, v_, a_, b_;  // v_ of the delta rule times beta; a_ and b_ only without it
  M values_;             // of the delta rule: v as given
  std::vector<T> beta_, minus_beta_;
  M qe_, ae_, ke_, be_;  // with the decays on the way from the chunk's begin, or to its end
  M qk_, qb_, ak_, ab_;
  M x_, w_;
  M rhs_;  // scratch

 private:
  void load_delta();
  void load_low_rank(Queries queries);
  M logs_;
  M beta_rows_;
};

template <typename T>
void LowRankChunks<T>::load(int64_t begin, int64_t end, Queries queries) {
  poll();
  move_to(begin, std::min(kTokens, end - begin));
  read(run_.k, begin_, rows_, dk_, k_);
  read(run_.v, begin_, rows_, dv_, v_);
  read_logs(begin_, rows_, logs_);
  decays_.load(logs_, run_.decays.columns == 0);
  if (queries == Queries::read) {
    read(run_.q, begin_, rows_, dk_, q_);
    decays_.from_begin(q_, Reading::after, qe_);
    decays_.scores(q_, k_, Reading::after, qk_);
  }
  decays_.to_end(k_, ke_);
  if (delta_) {
    load_delta();
  } else {
    load_low_rank(queries);
  }
  decays_.from_begin(a(), reading_, ae_);
  solver_.load(ab_);
}

template <typename T>
void LowRankChunks<T>::load_delta() {
  read(run_.beta, begin_, rows_, 1, beta_rows_);
  beta_.clear(), minus_beta_.clear();
  for (int64_t i = 0; i < rows_; ++i) beta_.push_back(*beta_rows_.row(i)), minus_beta_.push_back(-*beta_rows_.row(i));
  values_.shape_like(v_);
  std::swap(values_, v_);
  blocks_.scale_rows(values_, beta_.data(), v_);
  decays_.scores(k_, k_, reading_, ak_);
  for (int64_t i = 0; i < rows_; ++i) ak_.row(i)[i] = 0;
  blocks_.times(ak_, {minus_beta_.data(), 0}, ab_);
}

template <typename T>
void LowRankChunks<T>::load_low_rank(Queries queries) {
  read(run_.a, begin_, rows_, dk_, a_);
  read(run_.b, begin_, rows_, dk_, b_);
  decays_.to_end(b_, be_);
  decays_.scores(a_, k_, reading_, ak_);
  decays_.scores(a_, b_, reading_, ab_);
  if (queries == Queries::read) decays_.scores(q_, b_, Reading::after, qb_);
}

template <typename T>
void LowRankChunks<T>::read_by_a(const M& state, Own own) {
  blocks_.product(ae_, state, rhs_);
  if (own == Own::added) blocks_.add_product(ak_, v_, rhs_, 1, Part::lower_a);
  solver_.solve(rhs_, x_);
  if (!delta_) return;
  blocks_.scale_rows(x_, minus_beta_.data(), w_);
  if (own == Own::added) blocks_.add(v_, w_);
}

template <typename T>
void LowRankChunks<T>::advance(Own own, M& state) {
  blocks_.decay_and_add(decays_.passed(), delta_ ? ke_ : be_, delta_ ? w_ : x_, state);
  if (!delta_ && own == Own::added) blocks_.add_transposed_product(ke_, v_, state);
}

// recurrence_low_rank_backward.cc
void summarise_low_rank_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal,
                                 const View& dstate);
void scan_low_rank_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const RunEnds& ends,
                            const RunGradients& to);
void apply_low_rank_dstate(const TokenRun& run, const ConstView& dstate, const ConstView& state,
                           const RunGradients& to);

}  // namespace weft::kernels::recurrence_internal
