// Runs whose tokens multiply columns of the state: every row of R by itself is a recurrence R <- A_t R + k_t v_t, elementwise or
// in small blocks, which no product of matrices would make cheaper. So all go token by token; backward the states before a
// chunk are kept and those inside it made again.
//
//   out_t = s sum over rows of q_t R_t                G_t = A_{t+1}^T G_{t+1} + s q_t dout_t
//   dq_t = s R_t dout_t    dk_t = G_t v_t    dv_t = sum over rows of k_t G_t    da_t,ij = sum over rows of G_t,i * R_{t-1},j
#include "weft/kernels/linear/columns.h"

#include "weft/kernels/linear/chunk_math.h"

namespace weft::kernels::recurrence_internal {
namespace {

template <typename T>
class RunColumns : RunMath<T> {
 public:
  explicit RunColumns(const TokenRun& run) : RunMath<T>(run), parts_(run.blocks), width_(dv_ / run.blocks) {
    WEFT_CHECK(parts_ <= 2);  // more have no step_columns
  }
  void summarise(T* state);
  void transition(T* to);
  void summarise_backward(const ConstView& dout, const ConstView& dfinal, T* dstate);
  void scan(const ConstView& entering, const View& out, const View& final, const View& leaving);
  void apply_state(const T* entering, const View& out, const View& final);
  void scan_backward(const ConstView& dout, const ConstView& dfinal, const RunEnds& ends, const RunGradients& to);
  void apply_dstate(const T* dstate, const T* entering, const RunGradients& to);

 private:
  using Base = RunMath<T>;
  using Base::add_rows, Base::add_state, Base::begin_, Base::begin_of, Base::behind, Base::blocks_, Base::dk_,
      Base::dv_, Base::final_of, Base::initial_of, Base::kTokens, Base::move_to, Base::poll, Base::read,
      Base::read_state, Base::rows_, Base::run_, Base::write_state;
  using typename Base::M;
  // Whether tokens write to the state, or only pass it on.
  enum class Own : uint8_t { written, left_out };

  void load_keys(int64_t begin, int64_t end);
  void load_queries() { read(run_.q, begin_, rows_, dk_, q_); }
  ColumnMap<T> map(int64_t t) const { return {a_.row(t), parts_, width_}; }
  // Rows of a state from before token t of the chunk to after it; of a gradient, back.
  void advance(int64_t t, RowsOf<const T> before, Own own, M& after);
  void advance(int64_t t, Own own, M& state) { advance(t, state, own, state); }
  void go_back(int64_t t, M& dstate);
  void add_outputs(const View& out, Own own);
  void add_output_gradients(int64_t t, M& dstate) const;
  // Of a segment from its last token to its first; without a dout, what comes from behind the segment alone.
  void segment_backward(const Segment& segment, const T* before, const ConstView& dout, M& dstate,
                        const RunGradients& to);
  void make_states(const M& before);
  void add_gradients(int64_t t, const M& dstate, bool outputs);
  const M& state_before(int64_t t) const { return inside_[static_cast<size_t>(t)]; }
  T scale() const { return static_cast<T>(run_.scale); }
  void add_row(const T* x, T factor, T* to) const { blocks_.ops.add({x, 0}, factor, 1, dv_, {to, 0}); }

  const int64_t parts_, width_;
  // One chunk.
  M q_, k_, v_, a_, dout_, sum_, state_;
  std::vector<M> inside_;  // before each token of the chunk, and after its last
  M dq_, dk_rows_, dv_rows_, da_;
};

template <typename T>
void RunColumns<T>::load_keys(int64_t begin, int64_t end) {
  poll();
  move_to(begin, std::min(kTokens, end - begin));
  read(run_.k, begin_, rows_, dk_, k_);
  read(run_.v, begin_, rows_, dv_, v_);
  read(run_.a, begin_, rows_, parts_ * dv_, a_);
}

template <typename T>
void RunColumns<T>::advance(int64_t t, RowsOf<const T> before, Own own, M& after) {
  blocks_.ops.step_columns({.a = a_.row(t),
                            .parts = parts_,
                            .rows = dk_,
                            .columns = dv_,
                            .transposed = false,
                            .from = before,
                            .factors = own == Own::written ? k_.row(t) : nullptr,
                            .added = v_.row(t),
                            .to = after});
}

template <typename T>
void RunColumns<T>::go_back(int64_t t, M& dstate) {
  blocks_.ops.step_columns({.a = a_.row(t),
                            .parts = parts_,
                            .rows = dk_,
                            .columns = dv_,
                            .transposed = true,
                            .from = dstate,
                            .factors = nullptr,
                            .added = nullptr,
                            .to = dstate});
}

// Of the chunk, whose state before it is state_, which becomes that after it.
template <typename T>
void RunColumns<T>::add_outputs(const View& out, Own own) {
  load_queries();
  sum_.shape(rows_, dv_);
  sum_.zero();
  for (int64_t t = 0; t < rows_; ++t) {
    advance(t, own, state_);
    for (int64_t r = 0; r < dk_; ++r) add_row(state_.row(r), q_.row(t)[r], sum_.row(t));
  }
  add_rows(out, begin_, sum_, scale());
}

template <typename T>
void RunColumns<T>::scan(const ConstView& entering, const View& out, const View& final, const View& leaving) {
  for (const Segment& segment : segments_of(run_)) {
    read_state(begin_of(segment, entering), state_);
    for (int64_t t = segment.begin; t < segment.end; t += kTokens) {
      load_keys(t, segment.end);
      add_outputs(out, Own::written);
    }
    add_state(final, segment.final, state_);
  }
  write_state(state_, leaving);
}

template <typename T>
void RunColumns<T>::apply_state(const T* entering, const View& out, const View& final) {
  const Segment first = segments_of(run_).front();
  if (!first.enters) return;
  read_state(entering, state_);
  for (int64_t t = first.begin; t < first.end; t += kTokens) {
    load_keys(t, first.end);
    add_outputs(out, Own::left_out);
  }
  add_state(final, first.final, state_);
}

template <typename T>
void RunColumns<T>::summarise(T* state) {
  const Segment last = segments_of(run_).back();
  read_state(initial_of(last), state_);
  for (int64_t begin = last.begin; begin < last.end; begin += kTokens) {
    load_keys(begin, last.end);
    for (int64_t t = 0; t < rows_; ++t) advance(t, Own::written, state_);
  }
  write_state(state_, state);
}

template <typename T>
void RunColumns<T>::transition(T* to) {
  const int64_t numbers = parts_ * dv_;
  std::fill_n(to, numbers, T{0});
  if (!run_.starts.empty()) return;
  for (int64_t i = 0; i < parts_; ++i) std::fill_n(to + (i * parts_ + i) * width_, width_, T{1});
  std::vector<T> after(static_cast<size_t>(numbers));
  for (int64_t begin = 0; begin < run_.rows; begin += kTokens) {
    load_keys(begin, run_.rows);
    for (int64_t t = 0; t < rows_; ++t) {
      std::fill(after.begin(), after.end(), T{0});
      map(t).add_after(to, after.data());
      std::copy(after.begin(), after.end(), to);
    }
  }
}

template <typename T>
void RunColumns<T>::add_output_gradients(int64_t t, M& dstate) const {
  for (int64_t r = 0; r < dk_; ++r) add_row(dout_.row(t), scale() * q_.row(t)[r], dstate.row(r));
}

template <typename T>
void RunColumns<T>::summarise_backward(const ConstView& dout, const ConstView& dfinal, T* dstate) {
  const Segment first = segments_of(run_).front();
  read_state(first.enters ? final_of(dfinal, first) : nullptr, state_);
  const int64_t chunks = first.enters ? (first.rows() + kTokens - 1) / kTokens : 0;
  for (int64_t n = chunks; n-- > 0;) {
    load_keys(first.begin + n * kTokens, first.end);
    load_queries();
    read(dout, begin_, rows_, dv_, dout_);
    for (int64_t t = rows_; t-- > 0;) {
      add_output_gradients(t, state_);
      go_back(t, state_);
    }
  }
  write_state(state_, dstate);
}

template <typename T>
void RunColumns<T>::make_states(const M& before) {
  inside_.resize(static_cast<size_t>(kTokens + 1));
  inside_[0].copy(before);
  for (int64_t t = 0; t < rows_; ++t) {
    M &from = inside_[static_cast<size_t>(t)], &to = inside_[static_cast<size_t>(t + 1)];
    to.shape(dk_, dv_);
    advance(t, from, Own::written, to);
  }
}

// Of token t, from the gradient of the state after it.
template <typename T>
void RunColumns<T>::add_gradients(int64_t t, const M& dstate, bool outputs) {
  const M &before = state_before(t), &after = state_before(t + 1);
  if (outputs) {
    blocks_.ops.dots(after, {dout_.row(t), 0}, dk_, dv_, dq_.row(t));
    for (int64_t r = 0; r < dk_; ++r) dq_.row(t)[r] *= scale();
  }
  blocks_.ops.dots(dstate, {v_.row(t), 0}, dk_, dv_, dk_rows_.row(t));
  for (int64_t r = 0; r < dk_; ++r) {
    add_row(dstate.row(r), k_.row(t)[r], dv_rows_.row(t));
    for (int64_t i = 0; i < parts_; ++i) {
      // One part of the gradient with every part of the state.
      blocks_.ops.add_times({dstate.row(r) + i * width_, 0}, {before.row(r), width_}, 1, parts_, width_,
                            {da_.row(t) + i * dv_, width_});
    }
  }
}

template <typename T>
void RunColumns<T>::segment_backward(const Segment& segment, const T* before, const ConstView& dout, M& dstate,
                                     const RunGradients& to) {
  std::vector<M> states(static_cast<size_t>((segment.rows() + kTokens - 1) / kTokens));  // before each chunk
  read_state(before, states[0]);
  for (size_t n = 1; n < states.size(); ++n) {
    load_keys(segment.begin + static_cast<int64_t>(n - 1) * kTokens, segment.end);
    states[n].copy(states[n - 1]);
    for (int64_t t = 0; t < rows_; ++t) advance(t, Own::written, states[n]);
  }
  const bool outputs = dout.data != nullptr;
  for (size_t n = states.size(); n-- > 0;) {
    load_keys(segment.begin + static_cast<int64_t>(n) * kTokens, segment.end);
    if (outputs) load_queries(), read(dout, begin_, rows_, dv_, dout_);
    make_states(states[n]);
    dq_.shape(rows_, dk_), dk_rows_.shape(rows_, dk_), dv_rows_.shape(rows_, dv_), da_.shape(rows_, parts_ * dv_);
    dv_rows_.zero(), da_.zero();
    for (int64_t t = rows_; t-- > 0;) {
      if (outputs) add_output_gradients(t, dstate);
      add_gradients(t, dstate, outputs);
      go_back(t, dstate);
    }
    if (outputs) add_rows(to.dq, begin_, dq_);
    add_rows(to.dk, begin_, dk_rows_), add_rows(to.dv, begin_, dv_rows_), add_rows(to.da, begin_, da_);
  }
  add_state(to.dinitial, segment.initial, dstate);
}

template <typename T>
void RunColumns<T>::scan_backward(const ConstView& dout, const ConstView& dfinal, const RunEnds& ends,
                                  const RunGradients& to) {
  for (const Segment& segment : segments_of(run_)) {
    read_state(behind(segment, dfinal, ends.dstate), state_);
    segment_backward(segment, begin_of(segment, ends.state), dout, state_, to);
    if (segment.begin > 0) continue;
    if (!segment.enters) state_.zero();
    write_state(state_, ends.leaving);
  }
}

template <typename T>
void RunColumns<T>::apply_dstate(const T* dstate, const T* entering, const RunGradients& to) {
  const Segment last = segments_of(run_).back();
  read_state(dstate, state_);
  segment_backward(last, last.enters ? entering : initial_of(last), {}, state_, to);
}

// Calls f(the work on the run, in its type).
template <typename F>
void with_columns(const TokenRun& run, F&& f) {
  in_type_of(run, [&](auto t) {
    RunColumns<decltype(t)> work(run);
    f(work, t);
  });
}

}  // namespace

const LocalWork columns_work = {
    .summarise =
        [](const TokenRun& run, const View& state) {
          with_columns(run, [&](auto& work, auto t) { work.summarise(numbers<decltype(t)>(state)); });
        },
    .transition =
        [](const TokenRun& run, const View& to) {
          with_columns(run, [&](auto& work, auto t) { work.transition(numbers<decltype(t)>(to)); });
        },
    .summarise_backward =
        [](const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const View& dstate) {
          with_columns(
              run, [&](auto& work, auto t) { work.summarise_backward(dout, dfinal, numbers<decltype(t)>(dstate)); });
        },
    .scan =
        [](const TokenRun& run, const ConstView& entering, const View& out, const View& final, const View& leaving) {
          with_columns(run, [&](auto& work, auto) { work.scan(entering, out, final, leaving); });
        },
    .apply_state =
        [](const TokenRun& run, const ConstView& state, const View& out, const View& final) {
          with_columns(run, [&](auto& work, auto t) { work.apply_state(numbers<decltype(t)>(state), out, final); });
        },
    .scan_backward =
        [](const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const RunEnds& ends,
           const RunGradients& to) {
          with_columns(run, [&](auto& work, auto) { work.scan_backward(dout, dfinal, ends, to); });
        },
    .apply_dstate =
        [](const TokenRun& run, const ConstView& dstate, const ConstView& state, const RunGradients& to) {
          with_columns(run, [&](auto& work, auto t) {
            using T = decltype(t);
            work.apply_dstate(numbers<T>(dstate), numbers<T>(state), to);
          });
        },
};

}  // namespace weft::kernels::recurrence_internal
