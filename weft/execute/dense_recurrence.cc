#include "weft/execute/dense_recurrence.h"

#include <algorithm>
#include <cmath>

#include "weft/base/error.h"
#include "weft/execute/member_of.h"

namespace weft {
namespace {

// One head of one document.
template <typename T>
class Sequence {
 public:
  Sequence(const Problem& problem, const RecurrenceInputs& in, DenseRecurrence& to, int64_t head, Range tokens,
           size_t document, const IntervalSet& asked)
      : problem_(problem),
        in_(in),
        to_(to),
        head_(head),
        tokens_(tokens),
        document_(document),
        asked_(asked),
        dk_(problem.dim),
        dv_(problem.dim_v),
        gates_(problem.columns_of(Field::g)),
        scale_(problem.softmax_scale()),
        mixing_(traits_of(problem.layer).mixing),
        blocks_(column_blocks(problem.layer)),
        steps_(problem.householders),
        bonus_(traits_of(problem.layer).bonus) {}

  // Every token is as many steps as it has Householder factors, one for most layers: t counts steps. States after every
  // `kept_`th are kept; those between are made again.
  void run(bool backward) {
    const int64_t rows = tokens_.size() * steps_;
    kept_ = std::max<int64_t>(1, static_cast<int64_t>(std::sqrt(static_cast<double>(rows))));
    std::vector<State> kept;
    State state = given(in_.initial_state, static_cast<int64_t>(document_));
    for (int64_t t = 0; t < rows; ++t) {
      if (t % kept_ == 0) kept.push_back(state);
      if (bonus_) write_out(t, state);
      step(t, state);
      if (!bonus_ && is_last(t)) write_out(t, state);
      if (is_asked(t)) put(state, to_.final_state, asked_row(t));
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
        if (is_asked(t)) add(given(in_.dfinal_state, asked_row(t)), gradient);
        backward_step(t, states[static_cast<size_t>(t - begin)], states[static_cast<size_t>(t - begin + 1)], gradient);
      }
    }
    put(gradient, to_.dinitial_state, static_cast<int64_t>(document_));
  }

 private:
  using State = std::vector<T>;
  // A row of a tensor of states.
  size_t place(int64_t row) const { return static_cast<size_t>(row * problem_.heads + head_) * size(); }
  State given(const std::vector<double>& states, int64_t row) const {
    State state(size(), T{0});
    for (size_t n = 0; n < size() && !states.empty(); ++n) state[n] = static_cast<T>(states[place(row) + n]);
    return state;
  }
  void put(const State& state, std::vector<double>& states, int64_t row) const {
    for (size_t n = 0; n < size() && !states.empty(); ++n) states[place(row) + n] = double{state[n]};
  }
  static void add(const State& from, State& to) {
    for (size_t n = 0; n < to.size(); ++n) to[n] += from[n];
  }
  bool is_asked(int64_t t) const { return is_last(t) && asked_.contains(tokens_.begin + t / steps_); }
  int64_t asked_row(int64_t t) const { return asked_.rank_of(tokens_.begin + t / steps_); }
  size_t size() const { return static_cast<size_t>(dk_ * dv_); }
  size_t at(int64_t t, int64_t columns, int64_t c) const {
    const int64_t row = (tokens_.begin + t / steps_) * problem_.heads + head_;
    return static_cast<size_t>((row * steps_ + t % steps_) * columns + c);
  }
  // Of what a token has one row of: q, out and g.
  size_t at_token(int64_t t, int64_t columns, int64_t c) const {
    return static_cast<size_t>(((tokens_.begin + t / steps_) * problem_.heads + head_) * columns + c);
  }
  bool is_first(int64_t t) const { return t % steps_ == 0; }
  bool is_last(int64_t t) const { return t % steps_ == steps_ - 1; }
  T decay(int64_t t, int64_t c) const {
    if (!is_first(t)) return T{1};
    if (has_gates(problem_.layer)) return static_cast<T>(std::exp(in_.g[at_token(t, gates_, gates_ == 1 ? 0 : c)]));
    return static_cast<T>(problem_.log_decay.empty() ? 1 : std::exp(problem_.log_decay[static_cast<size_t>(head_)]));
  }

  T number(const std::vector<double>& input, int64_t t, int64_t columns, int64_t c) const {
    const bool by_token = &input == &in_.q || &input == &in_.dout;
    return static_cast<T>(input[by_token ? at_token(t, columns, c) : at(t, columns, c)]);
  }
  T* row(State& state, int64_t c) const { return state.data() + c * dv_; }
  const T* row(const State& state, int64_t c) const { return state.data() + c * dv_; }
  // sum over rows of x_c R_c
  std::vector<T> read(const std::vector<double>& x, int64_t t, const State& state) const {
    std::vector<T> sum(static_cast<size_t>(dv_), T{0});
    for (int64_t c = 0; c < dk_; ++c) {
      for (int64_t d = 0; d < dv_; ++d) sum[static_cast<size_t>(d)] += number(x, t, dk_, c) * row(state, c)[d];
    }
    return sum;
  }
  std::vector<T> values(int64_t t) const {
    std::vector<T> v(static_cast<size_t>(dv_));
    for (int64_t d = 0; d < dv_; ++d) v[static_cast<size_t>(d)] = number(in_.v, t, dv_, d);
    return v;
  }
  void decay_rows(int64_t t, State& state) const {
    for (int64_t c = 0; c < dk_; ++c) {
      const T kept = decay(t, c);
      for (int64_t d = 0; d < dv_; ++d) row(state, c)[d] *= kept;
    }
  }
  // state += x y^T
  void add_outer(const std::vector<double>& x, int64_t t, T factor, const std::vector<T>& y, State& state) const {
    for (int64_t c = 0; c < dk_; ++c) {
      for (int64_t d = 0; d < dv_; ++d) row(state, c)[d] += factor * number(x, t, dk_, c) * y[static_cast<size_t>(d)];
    }
  }
  T dot_row(const State& state, int64_t c, const std::vector<T>& y) const {
    T sum = 0;
    for (int64_t d = 0; d < dv_; ++d) sum += row(state, c)[d] * y[static_cast<size_t>(d)];
    return sum;
  }
  // What the delta rule corrects towards v: v - (D R)^T k.
  std::vector<T> missing(int64_t t, const State& decayed) const {
    std::vector<T> y = values(t);
    const std::vector<T> seen = read(in_.k, t, decayed);
    for (size_t d = 0; d < y.size(); ++d) y[d] -= seen[d];
    return y;
  }

  void step(int64_t t, State& state) const {
    switch (mixing_) {
      case Mixing::none: decay_rows(t, state); return add_outer(in_.k, t, 1, values(t), state);
      case Mixing::delta:
        decay_rows(t, state);
        return add_outer(in_.k, t, number(in_.beta, t, 1, 0), missing(t, state), state);
      case Mixing::low_rank: {
        const std::vector<T> seen = read(in_.a, t, state);
        decay_rows(t, state);
        add_outer(in_.b, t, 1, seen, state);
        return add_outer(in_.k, t, 1, values(t), state);
      }
      case Mixing::columns: multiply_columns(t, false, state); return add_outer(in_.k, t, 1, values(t), state);
    }
  }

  // Mixing::columns. Calls f(d, e, place in a) where column e of the state gives to column d.
  template <typename F>
  void for_each_entry(int64_t t, F&& f) const {
    const int64_t width = dv_ / blocks_;
    for (int64_t d = 0; d < dv_; ++d) {
      for (int64_t e = d % width; e < dv_; e += width)
        f(d, e, at(t, blocks_ * dv_, ((d / width) * blocks_ + e / width) * width + d % width));
    }
  }
  void multiply_columns(int64_t t, bool transposed, State& state) const {
    const State before = state;
    std::fill(state.begin(), state.end(), T{0});
    for_each_entry(t, [&](int64_t d, int64_t e, size_t place) {
      const int64_t from = transposed ? d : e, to = transposed ? e : d;
      for (int64_t c = 0; c < dk_; ++c) row(state, c)[to] += static_cast<T>(in_.a[place]) * row(before, c)[from];
    });
  }

  double u(int64_t c) const { return in_.u[static_cast<size_t>(head_ * dk_ + c)]; }
  // sum over rows of q u k: what the token reads of itself beside the state.
  T own_score(int64_t t) const {
    T sum = 0;
    for (int64_t c = 0; c < dk_ && bonus_; ++c)
      sum += number(in_.q, t, dk_, c) * static_cast<T>(u(c)) * number(in_.k, t, dk_, c);
    return sum;
  }

  void write_out(int64_t t, const State& state) const {
    std::vector<T> sum = read(in_.q, t, state);
    const T own = own_score(t);
    for (int64_t d = 0; d < dv_ && bonus_; ++d) sum[static_cast<size_t>(d)] += own * number(in_.v, t, dv_, d);
    for (int64_t d = 0; d < dv_; ++d) to_.out[at_token(t, dv_, d)] = scale_ * double{sum[static_cast<size_t>(d)]};
  }

  // From the gradient of the state after token t to that of the state before it.
  void backward_step(int64_t t, const State& before, const State& after, State& gradient) const {
    std::vector<T> dout(static_cast<size_t>(dv_));
    for (int64_t d = 0; d < dv_; ++d) dout[static_cast<size_t>(d)] = number(in_.dout, t, dv_, d);
    const State& seen_by_q = bonus_ ? before : after;
    for (int64_t c = 0; c < dk_ && is_last(t); ++c)
      to_.dq[at_token(t, dk_, c)] = scale_ * double{dot_row(seen_by_q, c, dout)};
    if (!bonus_ && is_last(t)) add_outer(in_.q, t, static_cast<T>(scale_), dout, gradient);
    const std::vector<T> v = values(t), dv = read(in_.k, t, gradient);
    for (int64_t d = 0; d < dv_; ++d) to_.dv[at(t, dv_, d)] = double{dv[static_cast<size_t>(d)]};
    for (int64_t c = 0; c < dk_; ++c) to_.dk[at(t, dk_, c)] = double{dot_row(gradient, c, v)};
    switch (mixing_) {
      case Mixing::none:
        decay_backward(t, before, gradient);
        if (bonus_) bonus_backward(t, dout, gradient);
        return;
      case Mixing::delta: return delta_backward(t, before, dv, gradient);
      case Mixing::low_rank: {
        const std::vector<T> seen = read(in_.a, t, before), dseen = read(in_.b, t, gradient);
        for (int64_t c = 0; c < dk_; ++c) {
          to_.db[at(t, dk_, c)] = double{dot_row(gradient, c, seen)};
          to_.da[at(t, dk_, c)] = double{dot_row(before, c, dseen)};
        }
        decay_backward(t, before, gradient);
        return add_outer(in_.a, t, 1, dseen, gradient);
      }
      case Mixing::columns:
        for_each_entry(t, [&](int64_t d, int64_t e, size_t place) {
          T sum = 0;
          for (int64_t c = 0; c < dk_; ++c) sum += row(gradient, c)[d] * row(before, c)[e];
          to_.da[place] = double{sum};
        });
        return multiply_columns(t, true, gradient);
    }
  }

  void bonus_backward(int64_t t, const std::vector<T>& dout, State& gradient) const {
    add_outer(in_.q, t, static_cast<T>(scale_), dout, gradient);
    const double own = scale_ * double{own_score(t)};
    double down = 0;
    for (int64_t d = 0; d < dv_; ++d) {
      to_.dv[at(t, dv_, d)] += own * double{dout[static_cast<size_t>(d)]};
      down += scale_ * in_.v[at(t, dv_, d)] * double{dout[static_cast<size_t>(d)]};
    }
    for (int64_t c = 0; c < dk_; ++c) {
      const double q = in_.q[at(t, dk_, c)], k = in_.k[at(t, dk_, c)];
      to_.dq[at(t, dk_, c)] += down * u(c) * k;
      to_.dk[at(t, dk_, c)] += down * u(c) * q;
      double& du = to_.du[static_cast<size_t>(head_ * dk_ + c)];
      du = double{static_cast<T>(du + down * q * k)};
    }
  }

  // `dwritten` is the gradient of beta y, y = v - (D R)^T k.
  void delta_backward(int64_t t, const State& before, const std::vector<T>& dwritten, State& gradient) const {
    State decayed = before;
    decay_rows(t, decayed);
    const T beta = number(in_.beta, t, 1, 0);
    const std::vector<T> y = missing(t, decayed);
    std::vector<T> dseen(dwritten);
    T dbeta = 0;
    for (size_t d = 0; d < y.size(); ++d) {
      dbeta += dwritten[d] * y[d];
      dseen[d] *= -beta;
      to_.dv[at(t, dv_, static_cast<int64_t>(d))] *= double{beta};
    }
    to_.dbeta[at(t, 1, 0)] = double{dbeta};
    for (int64_t c = 0; c < dk_; ++c)
      to_.dk[at(t, dk_, c)] = double{beta * dot_row(gradient, c, y) + dot_row(decayed, c, dseen)};
    add_outer(in_.k, t, 1, dseen, gradient);
    decay_backward(t, before, gradient);
  }

  void decay_backward(int64_t t, const State& before, State& gradient) const {
    decay_rows(t, gradient);
    if (to_.dg.empty() || !is_first(t)) return;
    T all = 0;
    for (int64_t c = 0; c < dk_; ++c) {
      T dg = 0;
      for (int64_t d = 0; d < dv_; ++d) dg += row(gradient, c)[d] * row(before, c)[d];
      if (gates_ > 1) to_.dg[at_token(t, gates_, c)] = double{dg};
      all += dg;
    }
    if (gates_ == 1) to_.dg[at_token(t, 1, 0)] = double{all};
  }

  const Problem& problem_;
  const RecurrenceInputs& in_;
  DenseRecurrence& to_;
  const int64_t head_;
  const Range tokens_;
  const size_t document_;
  const IntervalSet& asked_;  // tokens after which the state is a result
  const int64_t dk_, dv_, gates_;
  const double scale_;
  const Mixing mixing_;
  const int64_t blocks_, steps_;
  const bool bonus_;
  int64_t kept_ = 1;
};

// One head of one document whose tokens read all of it: pair by pair, without a state.
template <typename T>
void add_pairs_of_document(const Problem& problem, const RecurrenceInputs& in, DenseRecurrence& to, int64_t head,
                           Range tokens, bool backward) {
  const auto at = [&](int64_t t, int64_t columns) { return static_cast<size_t>((t * problem.heads + head) * columns); };
  const auto dot = [](const std::vector<double>& a, size_t a_at, const std::vector<double>& b, size_t b_at, int64_t n) {
    T sum = 0;
    for (size_t c = 0; c < static_cast<size_t>(n); ++c)
      sum += static_cast<T>(a[a_at + c]) * static_cast<T>(b[b_at + c]);
    return sum;
  };
  const auto add = [](std::vector<double>& sums, size_t sums_at, T factor, const std::vector<double>& x, size_t x_at,
                      int64_t n) {
    for (size_t c = 0; c < static_cast<size_t>(n); ++c) {
      double& sum = sums[sums_at + c];
      sum = double{static_cast<T>(sum) + factor * static_cast<T>(x[x_at + c])};
    }
  };
  const T scale = static_cast<T>(problem.softmax_scale());
  const int64_t dim = problem.dim, dim_v = problem.dim_v;
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    for (int64_t j = tokens.begin; j < tokens.end; ++j) {
      const T score = scale * dot(in.q, at(t, dim), in.k, at(j, dim), dim);
      add(to.out, at(t, dim_v), score, in.v, at(j, dim_v), dim_v);
      if (!backward) continue;
      const T dscore = scale * dot(in.dout, at(t, dim_v), in.v, at(j, dim_v), dim_v);
      add(to.dq, at(t, dim), dscore, in.k, at(j, dim), dim);
      add(to.dk, at(j, dim), dscore, in.q, at(t, dim), dim);
      add(to.dv, at(j, dim_v), score, in.dout, at(t, dim_v), dim_v);
    }
  }
}

// One head of one document.
template <typename T>
void run_document(const Problem& problem, const RecurrenceInputs& in, DenseRecurrence& to, int64_t head,
                  size_t document, const IntervalSet& asked, bool backward) {
  const Range tokens = problem.mask.bands()[document].q;
  if (problem.bidirectional()) return add_pairs_of_document<T>(problem, in, to, head, tokens, backward);
  Sequence<T>(problem, in, to, head, tokens, document, asked).run(backward);
}

// Rows of q or k, each for the heads that share it, one after the other; and the way back, sums of them.
std::vector<double> repeated(const std::vector<double>& rows, int64_t columns, int64_t times) {
  std::vector<double> all;
  for (auto row = rows.begin(); row != rows.end(); row += columns)
    for (int64_t n = 0; n < times; ++n) all.insert(all.end(), row, row + columns);
  return all;
}

std::vector<double> summed(const std::vector<double>& rows, int64_t columns, int64_t times, DType precision) {
  std::vector<double> sums(rows.size() / static_cast<size_t>(times), 0.0);
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t row = i / static_cast<size_t>(columns * times), column = i % static_cast<size_t>(columns);
    double& sum = sums[row * static_cast<size_t>(columns) + column];
    sum = precision == DType::fp64 ? sum + rows[i] : double{static_cast<float>(sum) + static_cast<float>(rows[i])};
  }
  return sums;
}

}  // namespace

const std::vector<double>& DenseRecurrence::of(Field field) const {
  if (const std::vector<double>* member = member_of(*this, field)) return *member;
  throw Error(ErrorCode::internal, std::string(name_of(field)) + " is no result of a recurrence");
}

DenseRecurrence dense_recurrence(const Problem& problem, const RecurrenceInputs& inputs, DType precision,
                                 const StopFlag* stop) {
  DenseRecurrence result;
  if (const int64_t times = problem.sharing(Field::q); times > 1) {
    Problem apart = problem;
    apart.key_heads = 0;
    const int64_t q_columns = problem.columns_of(Field::q), k_columns = problem.columns_of(Field::k);
    RecurrenceInputs all = inputs;
    all.q = repeated(inputs.q, q_columns, times), all.k = repeated(inputs.k, k_columns, times);
    result = dense_recurrence(apart, all, precision, stop);
    result.dq = summed(result.dq, q_columns, times, precision);
    result.dk = summed(result.dk, k_columns, times, precision);
    return result;
  }
  result.out.resize(inputs.v.size());
  const bool backward = !inputs.dout.empty();
  if (backward) {
    result.dq.resize(inputs.q.size()), result.dk.resize(inputs.k.size()), result.dv.resize(inputs.v.size());
    result.dg.resize(inputs.g.size()), result.dbeta.resize(inputs.beta.size());
    result.dinitial_state.resize(inputs.initial_state.size()), result.du.resize(inputs.u.size());
    result.da.resize(inputs.a.size()), result.db.resize(inputs.b.size());
  }
  const auto documents = problem.mask.bands();
  const IntervalSet asked = problem.rows_among(Range{0, problem.mask.queries()}, Field::final_state);
  result.final_state.resize(static_cast<size_t>(asked.size() * problem.heads * problem.columns_of(Field::state)));
  for (size_t n = 0; n < documents.size(); ++n) {
    for (int64_t head = 0; head < problem.heads; ++head) {
      if (stop) stop->poll();
      if (precision == DType::fp64) {
        run_document<double>(problem, inputs, result, head, n, asked, backward);
      } else {
        run_document<float>(problem, inputs, result, head, n, asked, backward);
      }
    }
  }
  return result;
}

}  // namespace weft
