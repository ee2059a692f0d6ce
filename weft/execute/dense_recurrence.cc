#include "weft/execute/dense_recurrence.h"

#include <algorithm>
#include <cmath>

namespace weft {
namespace {

// One head of one document.
template <typename T>
class Sequence {
 public:
  Sequence(const Problem& problem, const RecurrenceInputs& in, DenseRecurrence& to, int64_t head, Range tokens)
      : problem_(problem),
        in_(in),
        to_(to),
        head_(head),
        tokens_(tokens),
        dk_(problem.dim),
        dv_(problem.dim_v),
        gates_(problem.columns_of(Field::g)),
        scale_(problem.softmax_scale()) {}

  // States after every `kept_`th token are kept; those between are made again.
  void run(bool backward) {
    const int64_t rows = tokens_.size();
    kept_ = std::max<int64_t>(1, static_cast<int64_t>(std::sqrt(static_cast<double>(rows))));
    std::vector<State> kept;
    State state(size(), T{0});
    for (int64_t t = 0; t < rows; ++t) {
      if (t % kept_ == 0) kept.push_back(state);
      step(t, state);
      write_out(t, state);
    }
    if (!backward) return;
    State gradient(size(), T{0});  // of the state after token t, from the tokens after it
    while (!kept.empty()) {
      const int64_t begin = kept_ * static_cast<int64_t>(kept.size() - 1), end = std::min(rows, begin + kept_);
      std::vector<State> states{kept.back()};
      kept.pop_back();
      for (int64_t t = begin; t < end; ++t) {
        states.push_back(states.back());
        step(t, states.back());
      }
      for (int64_t t = end; t-- > begin;) {
        backward_step(t, states[static_cast<size_t>(t - begin)], states[static_cast<size_t>(t - begin + 1)], gradient);
      }
    }
  }

 private:
  using State = std::vector<T>;
  size_t size() const { return static_cast<size_t>(dk_ * dv_); }
  size_t at(int64_t t, int64_t columns, int64_t c) const {
    return static_cast<size_t>(((tokens_.begin + t) * problem_.heads + head_) * columns + c);
  }
  T decay(int64_t t, int64_t c) const {
    if (has_gates(problem_.layer)) return static_cast<T>(std::exp(in_.g[at(t, gates_, gates_ == 1 ? 0 : c)]));
    return static_cast<T>(problem_.log_decay.empty() ? 1 : std::exp(problem_.log_decay[static_cast<size_t>(head_)]));
  }

  void step(int64_t t, State& state) const {
    for (int64_t c = 0; c < dk_; ++c) {
      const T kept = decay(t, c), k = static_cast<T>(in_.k[at(t, dk_, c)]);
      for (int64_t d = 0; d < dv_; ++d) {
        T& element = state[static_cast<size_t>(c * dv_ + d)];
        element = kept * element + k * static_cast<T>(in_.v[at(t, dv_, d)]);
      }
    }
  }

  void write_out(int64_t t, const State& state) const {
    for (int64_t d = 0; d < dv_; ++d) {
      T sum = 0;
      for (int64_t c = 0; c < dk_; ++c)
        sum += static_cast<T>(in_.q[at(t, dk_, c)]) * state[static_cast<size_t>(c * dv_ + d)];
      to_.out[at(t, dv_, d)] = scale_ * double{sum};
    }
  }

  void backward_step(int64_t t, const State& before, const State& after, State& gradient) const {
    std::vector<T> dv(static_cast<size_t>(dv_), T{0});
    T dg_all = 0;
    for (int64_t c = 0; c < dk_; ++c) {
      const T q = static_cast<T>(scale_ * in_.q[at(t, dk_, c)]), k = static_cast<T>(in_.k[at(t, dk_, c)]);
      const T kept = decay(t, c);
      T dq = 0, dk = 0, dg = 0;
      for (int64_t d = 0; d < dv_; ++d) {
        const size_t n = static_cast<size_t>(c * dv_ + d);
        const T dout = static_cast<T>(in_.dout[at(t, dv_, d)]);
        gradient[n] += q * dout;
        dq += after[n] * dout;
        dk += gradient[n] * static_cast<T>(in_.v[at(t, dv_, d)]);
        dv[static_cast<size_t>(d)] += gradient[n] * k;
        gradient[n] *= kept;
        dg += gradient[n] * before[n];
      }
      to_.dq[at(t, dk_, c)] = scale_ * double{dq};
      to_.dk[at(t, dk_, c)] = double{dk};
      dg_all += dg;
      if (!to_.dg.empty() && gates_ > 1) to_.dg[at(t, gates_, c)] = double{dg};
    }
    for (int64_t d = 0; d < dv_; ++d) to_.dv[at(t, dv_, d)] = double{dv[static_cast<size_t>(d)]};
    if (!to_.dg.empty() && gates_ == 1) to_.dg[at(t, 1, 0)] = double{dg_all};
  }

  const Problem& problem_;
  const RecurrenceInputs& in_;
  DenseRecurrence& to_;
  const int64_t head_;
  const Range tokens_;
  const int64_t dk_, dv_, gates_;
  const double scale_;
  int64_t kept_ = 1;
};

}  // namespace

DenseRecurrence dense_recurrence(const Problem& problem, const RecurrenceInputs& inputs, DType precision,
                                 const StopFlag* stop) {
  DenseRecurrence result;
  result.out.resize(inputs.v.size());
  const bool backward = !inputs.dout.empty();
  if (backward) {
    result.dq.resize(inputs.q.size()), result.dk.resize(inputs.k.size()), result.dv.resize(inputs.v.size());
    result.dg.resize(inputs.g.size());
  }
  for (const BandRectangle& document : problem.mask.bands()) {
    for (int64_t head = 0; head < problem.heads; ++head) {
      if (stop) stop->poll();
      if (precision == DType::fp64) {
        Sequence<double>(problem, inputs, result, head, document.q).run(backward);
      } else {
        Sequence<float>(problem, inputs, result, head, document.q).run(backward);
      }
    }
  }
  return result;
}

}  // namespace weft
