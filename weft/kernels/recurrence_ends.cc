// What a run takes from and gives to its ends where F is diagonal: states and their gradients, each with the decays between a token and the
// end, as sums of logarithms from that end, in fp64.
#include "weft/kernels/recurrence_math.h"

namespace weft::kernels::recurrence_internal {
namespace {

template <typename T>
class RunEnds : RunMath<T> {
 public:
  using RunMath<T>::RunMath;
  void summarise(T* state) const;
  void transition(T* to) const;
  void summarise_backward(const ConstView& dout, const ConstView& dfinal, T* dstate) const;
  void apply_state(const T* state, const View& out, const View& final) const;
  void add_entering_gradients(const ConstView& dout, const ConstView& dfinal, const T* state,
                              const RunGradients& to) const;
  void apply_dstate(const T* dstate, const T* state, const RunGradients& to) const;

 private:
  // Adds the logarithms of a token's decays.
  void pass(int64_t t, std::vector<double>& logs) const {
    for (int64_t gate = 0; gate < gates_; ++gate) logs[static_cast<size_t>(gate)] += log_decay(t, gate);
  }
  // A state times what is left of its rows.
  Matrix<T> decayed(const T* state, const std::vector<double>& logs) const {
    Matrix<T> kept(state, state + state_size());
    for (int64_t c = 0; c < dk_; ++c) {
      const T factor = static_cast<T>(std::exp(logs[gate_at(c)]));
      for (int64_t d = 0; d < dv_; ++d) kept[at(c, dv_, d)] *= factor;
    }
    return kept;
  }
  using Base = RunMath<T>;
  using Base::add_to_document, Base::at, Base::dk_, Base::document_state, Base::dv_, Base::gate_at, Base::gate_of,
      Base::gates_, Base::log_decay, Base::poll, Base::read, Base::reads_before, Base::run_, Base::initial_state,
      Base::state_size, Base::sums;
};

template <typename T>
void RunEnds<T>::transition(T* to) const {
  for (int64_t gate = 0; gate < gates_; ++gate) {
    double sum = 0;
    for (int64_t t = 0; t < run_.rows; ++t) sum += log_decay(t, gate);
    to[gate] = run_.starts.empty() ? static_cast<T>(std::exp(sum)) : T{0};
  }
}

template <typename T>
void RunEnds<T>::summarise(T* state) const {
  std::fill_n(state, state_size(), T{0});
  const Segment last = segments_of(run_).back();
  std::vector<double> later(static_cast<size_t>(gates_), 0.0);  // of the tokens after t
  std::vector<T> k, v;
  for (int64_t t = last.end; t-- > last.begin;) {
    if (t % kPollEvery == 0) poll();
    read(run_.k, t, 1, dk_, k);
    read(run_.v, t, 1, dv_, v);
    for (int64_t c = 0; c < dk_; ++c) {
      const T factor = k[static_cast<size_t>(c)] * static_cast<T>(std::exp(later[gate_at(c)]));
      add_scaled(state + c * dv_, v.data(), factor, dv_);
    }
    pass(t, later);
  }
  add_scaled(state, decayed(initial_state(last).data(), later).data(), T{1}, dk_ * dv_);
}

template <typename T>
void RunEnds<T>::summarise_backward(const ConstView& dout, const ConstView& dfinal, T* dstate) const {
  std::fill_n(dstate, state_size(), T{0});
  const Segment first = segments_of(run_).front();
  if (!first.enters) return;
  std::vector<double> earlier(static_cast<size_t>(gates_), 0.0);  // up to t
  std::vector<T> q, d;
  for (int64_t t = first.begin; t < first.end; ++t) {
    if (t % kPollEvery == 0) poll();
    if (!reads_before()) pass(t, earlier);
    read(run_.q, t, 1, dk_, q);
    read(dout, t, 1, dv_, d);
    for (int64_t c = 0; c < dk_; ++c) {
      const double factor = run_.scale * std::exp(earlier[gate_at(c)]);
      add_scaled(dstate + c * dv_, d.data(), q[static_cast<size_t>(c)] * static_cast<T>(factor), dv_);
    }
    if (reads_before()) pass(t, earlier);
  }
  if (!dfinal.data || first.final < 0) return;
  add_scaled(dstate, decayed(document_state(dfinal, first.final).data(), earlier).data(), T{1}, dk_ * dv_);
}

template <typename T>
void RunEnds<T>::apply_state(const T* state, const View& out, const View& final) const {
  const Segment first = segments_of(run_).front();
  if (!first.enters) return;
  std::vector<double> earlier(static_cast<size_t>(gates_), 0.0);
  std::vector<T> q;
  for (int64_t t = first.begin; t < first.end; ++t) {
    if (t % kPollEvery == 0) poll();
    if (!reads_before()) pass(t, earlier);
    read(run_.q, t, 1, dk_, q);
    for (int64_t c = 0; c < dk_; ++c) {
      const double factor = run_.scale * std::exp(earlier[gate_at(c)]);
      add_scaled(sums(out, t), state + c * dv_, q[static_cast<size_t>(c)] * static_cast<T>(factor), dv_);
    }
    if (reads_before()) pass(t, earlier);
  }
  if (final.data && first.final >= 0) add_to_document(final, first.final, decayed(state, earlier).data());
}

// What an entering state gives dq, and dg of what it passes before it is read: q_i dq_i for all i from t on.
template <typename T>
void RunEnds<T>::add_entering_gradients(const ConstView& dout, const ConstView& dfinal, const T* state,
                                        const RunGradients& to) const {
  const Segment segment = segments_of(run_).front();
  if (!segment.enters) return;
  std::vector<double> earlier(static_cast<size_t>(gates_), 0.0);
  std::vector<T> q, d;
  std::vector<double> shares(static_cast<size_t>(segment.rows() * gates_), 0.0);
  for (int64_t t = segment.begin; t < segment.end; ++t) {
    if (t % kPollEvery == 0) poll();
    if (!reads_before()) pass(t, earlier);
    read(run_.q, t, 1, dk_, q);
    read(dout, t, 1, dv_, d);
    for (int64_t c = 0; c < dk_; ++c) {
      const double factor = run_.scale * std::exp(earlier[gate_at(c)]);
      const T dq = static_cast<T>(factor) * dot(state + c * dv_, d.data(), dv_);
      if (to.dq.data) sums(to.dq, t)[c] += dq;
      shares[at(t - segment.begin, gates_, gate_of(c))] += double{q[static_cast<size_t>(c)]} * double{dq};
    }
    if (reads_before()) pass(t, earlier);
  }
  if (!to.dg.data) return;
  std::vector<double> through(static_cast<size_t>(gates_), 0.0);  // to the gradient of the final state
  if (dfinal.data && segment.final >= 0) {
    const Matrix<T> left = decayed(state, earlier), gradient = document_state(dfinal, segment.final);
    for (int64_t c = 0; c < dk_; ++c)
      through[gate_at(c)] += double{dot(&left[at(c, dv_, 0)], &gradient[at(c, dv_, 0)], dv_)};
  }
  for (int64_t gate = 0; gate < gates_; ++gate) {
    double sum = through[static_cast<size_t>(gate)];
    for (int64_t t = segment.end; t-- > segment.begin;) {
      const double share = shares[at(t - segment.begin, gates_, gate)];
      sums(to.dg, t)[gate] += static_cast<T>(reads_before() ? sum : sum + share);
      sum += share;
    }
  }
}

// What the gradient of the leaving state gives: dk, dv, and dg of what every key and the entering state pass on their way.
template <typename T>
void RunEnds<T>::apply_dstate(const T* dstate, const T* state, const RunGradients& to) const {
  const Segment last = segments_of(run_).back();
  std::vector<double> later(static_cast<size_t>(gates_), 0.0);  // of the tokens after t
  std::vector<T> k, v;
  std::vector<double> shares(static_cast<size_t>(last.rows() * gates_), 0.0);  // k_t dk_t
  for (int64_t t = last.end; t-- > last.begin;) {
    if (t % kPollEvery == 0) poll();
    read(run_.k, t, 1, dk_, k);
    read(run_.v, t, 1, dv_, v);
    for (int64_t c = 0; c < dk_; ++c) {
      const T factor = static_cast<T>(std::exp(later[gate_at(c)]));
      const T dk = factor * dot(dstate + c * dv_, v.data(), dv_);
      if (to.dk.data) sums(to.dk, t)[c] += dk;
      if (to.dv.data) add_scaled(sums(to.dv, t), dstate + c * dv_, factor * k[static_cast<size_t>(c)], dv_);
      shares[at(t - last.begin, gates_, gate_of(c))] += double{k[static_cast<size_t>(c)]} * double{dk};
    }
    pass(t, later);
  }
  add_to_document(to.dinitial, last.initial, decayed(dstate, later).data());
  if (!to.dg.data) return;
  const Matrix<T> initial = initial_state(last);
  if (!last.enters) state = initial.data();
  std::vector<double> sum(static_cast<size_t>(gates_), 0.0);  // of everything before t
  if (state) {
    for (int64_t c = 0; c < dk_; ++c) {
      const size_t gate = gate_at(c);
      sum[gate] += std::exp(later[gate]) * double{dot(state + c * dv_, dstate + c * dv_, dv_)};
    }
  }
  for (int64_t t = last.begin; t < last.end; ++t) {
    for (int64_t gate = 0; gate < gates_; ++gate) {
      sums(to.dg, t)[gate] += static_cast<T>(sum[static_cast<size_t>(gate)]);
      sum[static_cast<size_t>(gate)] += shares[at(t - last.begin, gates_, gate)];
    }
  }
}

}  // namespace

const LocalWork diagonal_work = {
    .summarise =
        [](const TokenRun& run, const View& state) {
          in_type_of(run, [&](auto t) { RunEnds<decltype(t)>(run).summarise(numbers<decltype(t)>(state)); });
        },
    .transition =
        [](const TokenRun& run, const View& to) {
          in_type_of(run, [&](auto t) { RunEnds<decltype(t)>(run).transition(numbers<decltype(t)>(to)); });
        },
    .summarise_backward =
        [](const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const View& dstate) {
          in_type_of(run, [&](auto t) {
            RunEnds<decltype(t)>(run).summarise_backward(dout, dfinal, numbers<decltype(t)>(dstate));
          });
        },
    .scan = scan_diagonal,
    .apply_state =
        [](const TokenRun& run, const ConstView& state, const View& out, const View& final) {
          in_type_of(run,
                     [&](auto t) { RunEnds<decltype(t)>(run).apply_state(numbers<decltype(t)>(state), out, final); });
        },
    .scan_backward =
        [](const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const ConstView& state,
           const RunGradients& to) {
          scan_diagonal_backward(run, dout, dfinal, to);
          if (!state.data) return;
          in_type_of(run, [&](auto t) {
            RunEnds<decltype(t)>(run).add_entering_gradients(dout, dfinal, numbers<decltype(t)>(state), to);
          });
        },
    .apply_dstate =
        [](const TokenRun& run, const ConstView& dstate, const ConstView& state, const RunGradients& to) {
          in_type_of(run, [&](auto t) {
            using T = decltype(t);
            RunEnds<T>(run).apply_dstate(numbers<T>(dstate), numbers<T>(state), to);
          });
        },
};

}  // namespace weft::kernels::recurrence_internal
