// What a run takes from and gives to its ends where F is diagonal: states and their gradients, chunk by chunk, each with the
// decays between a chunk and the end as sums of logarithms from that end, in fp64.
#include "weft/kernels/linear/decays.h"

namespace weft::kernels::recurrence_internal {
namespace {

template <typename T>
class EndWork : RunMath<T> {
 public:
  explicit EndWork(const TokenRun& run)
      : RunMath<T>(run),
        reading_(reads_before() ? Reading::before : Reading::after),
        decays_(blocks_, gates_, dk_, reads_before()),
        logs_to_end_(static_cast<size_t>(gates_), 0.0) {}
  void summarise(T* state);
  void transition(T* to);
  void summarise_backward(const ConstView& dout, const ConstView& dfinal, T* dstate);
  void apply_state(const T* state, const View& out, const View& final);
  void apply_dstate(const T* dstate, const T* state, const RunGradients& to);

 private:
  using Base = RunMath<T>;
  using Base::add_rows, Base::add_state, Base::at, Base::begin_, Base::blocks_, Base::dk_, Base::dv_, Base::final_of,
      Base::gate_at, Base::gate_of, Base::gates_, Base::initial_of, Base::kTokens, Base::move_to, Base::poll,
      Base::read, Base::read_logs, Base::read_state, Base::reads_before, Base::rows_, Base::run_, Base::sums,
      Base::write_state;
  using typename Base::M;

  // Goes from an end of a segment, chunk by chunk: f() with the chunk's decays loaded and, in `kept_`, what is left of each
  // row of a state between the chunk and that end; logs_to_end_ are then of all tokens.
  template <typename F>
  void from_first_chunk(const Segment& segment, F&& f);
  template <typename F>
  void from_last_chunk(const Segment& segment, F&& f);
  void load(int64_t begin, int64_t end);
  void pass();
  // A state times what is left of its rows after all chunks.
  void decay_rows(M& state) { blocks_.scale_rows(state, kept_.data(), state); }
  // Sums over rows of the state of x_t dx_t, of the chunk's tokens.
  void add_shares(const M& x, const M& dx, double* shares);
  T scale() const { return static_cast<T>(run_.scale); }
  RowsOf<const T> kept() const { return {kept_.data(), 0}; }

  const Reading reading_;
  ChunkDecays<T> decays_;
  std::vector<double> logs_to_end_;
  M logs_;
  std::vector<T> kept_, dots_;
  M rows_k_, rows_v_, decayed_, sum_, state_, transposed_;
};

template <typename T>
void EndWork<T>::load(int64_t begin, int64_t end) {
  poll();
  move_to(begin, end - begin);
  read_logs(begin_, rows_, logs_);
  decays_.load(logs_, run_.decays.columns == 0);
}

// What is left behind the chunks up to now.
template <typename T>
void EndWork<T>::pass() {
  kept_.resize(static_cast<size_t>(dk_));
  for (size_t c = 0; c < kept_.size(); ++c)
    kept_[c] = gates_ == 1 && c > 0 ? kept_[0] : static_cast<T>(std::exp(logs_to_end_[gates_ == 1 ? 0 : c]));
}

template <typename T>
template <typename F>
void EndWork<T>::from_first_chunk(const Segment& segment, F&& f) {
  std::fill(logs_to_end_.begin(), logs_to_end_.end(), 0.0);
  pass();
  for (int64_t t = segment.begin; t < segment.end; t += kTokens) {
    load(t, std::min(t + kTokens, segment.end));
    f();
    for (size_t gate = 0; gate < logs_to_end_.size(); ++gate) logs_to_end_[gate] += decays_.sums()[gate];
    pass();
  }
}

template <typename T>
template <typename F>
void EndWork<T>::from_last_chunk(const Segment& segment, F&& f) {
  std::fill(logs_to_end_.begin(), logs_to_end_.end(), 0.0);
  pass();
  for (int64_t n = (segment.rows() + kTokens - 1) / kTokens; n-- > 0;) {
    const int64_t begin = segment.begin + n * kTokens;
    load(begin, std::min(begin + kTokens, segment.end));
    f();
    for (size_t gate = 0; gate < logs_to_end_.size(); ++gate) logs_to_end_[gate] += decays_.sums()[gate];
    pass();
  }
}

template <typename T>
void EndWork<T>::transition(T* to) {
  std::fill_n(to, gates_, T{0});
  if (!run_.starts.empty()) return;
  for (int64_t t = 0; t < run_.rows; t += kTokens) {
    poll();
    read_logs(t, std::min(kTokens, run_.rows - t), logs_);
    add_up_logs(blocks_, logs_, logs_to_end_);
  }
  for (size_t gate = 0; gate < logs_to_end_.size(); ++gate) to[gate] = static_cast<T>(std::exp(logs_to_end_[gate]));
}

template <typename T>
void EndWork<T>::summarise(T* state) {
  const Segment last = segments_of(run_).back();
  read_state(nullptr, sum_);
  from_last_chunk(last, [&] {
    read(run_.k, begin_, rows_, dk_, rows_k_);
    read(run_.v, begin_, rows_, dv_, rows_v_);
    decays_.to_end(rows_k_, decayed_);
    blocks_.times_in_place(decayed_, kept());
    blocks_.add_transposed_product(decayed_, rows_v_, sum_);
  });
  read_state(initial_of(last), state_);
  decay_rows(state_);
  blocks_.add(state_, sum_);
  write_state(sum_, state);
}

template <typename T>
void EndWork<T>::summarise_backward(const ConstView& dout, const ConstView& dfinal, T* dstate) {
  const Segment first = segments_of(run_).front();
  read_state(nullptr, sum_);
  if (first.enters) {
    from_first_chunk(first, [&] {
      read(run_.q, begin_, rows_, dk_, rows_k_);
      read(dout, begin_, rows_, dv_, rows_v_);
      decays_.from_begin(rows_k_, reading_, decayed_);
      blocks_.times_in_place(decayed_, kept());
      blocks_.add_transposed_product(decayed_, rows_v_, sum_, scale());
    });
    read_state(final_of(dfinal, first), state_);
    decay_rows(state_);
    blocks_.add(state_, sum_);
  }
  write_state(sum_, dstate);
}

template <typename T>
void EndWork<T>::apply_state(const T* entering, const View& out, const View& final) {
  const Segment first = segments_of(run_).front();
  if (!first.enters) return;
  read_state(entering, state_);
  from_first_chunk(first, [&] {
    read(run_.q, begin_, rows_, dk_, rows_k_);
    decays_.from_begin(rows_k_, reading_, decayed_);
    blocks_.times_in_place(decayed_, kept());
    blocks_.product(decayed_, state_, sum_);
    add_rows(out, begin_, sum_, scale());
  });
  decay_rows(state_);
  add_state(final, first.final, state_);
}

template <typename T>
void EndWork<T>::add_shares(const M& x, const M& dx, double* shares) {
  if (gates_ == 1) {
    dots_.resize(static_cast<size_t>(rows_));
    blocks_.ops.dots(x, dx, rows_, dk_, dots_.data());
    for (size_t i = 0; i < dots_.size(); ++i) shares[i] = double{dots_[i]};
    return;
  }
  for (int64_t i = 0; i < rows_; ++i) {
    for (int64_t c = 0; c < dk_; ++c) shares[at(i, dk_, c)] = double{x.row(i)[c] * dx.row(i)[c]};
  }
}

// What the gradient of the leaving state gives: dk, dv, and dg of what every key and the entering state pass on their way.
template <typename T>
void EndWork<T>::apply_dstate(const T* dstate, const T* state, const RunGradients& to) {
  const Segment last = segments_of(run_).back();
  std::vector<double> shares(static_cast<size_t>(last.rows() * gates_), 0.0);  // k_t dk_t
  read_state(dstate, state_);
  blocks_.transpose(state_, transposed_);
  from_last_chunk(last, [&] {
    read(run_.k, begin_, rows_, dk_, rows_k_);
    read(run_.v, begin_, rows_, dv_, rows_v_);
    if (to.dv.data) {
      decays_.to_end(rows_k_, decayed_);
      blocks_.times_in_place(decayed_, kept());
      blocks_.product(decayed_, state_, sum_);
      add_rows(to.dv, begin_, sum_);
    }
    blocks_.product(rows_v_, transposed_, sum_);
    decays_.to_end(sum_, decayed_);
    blocks_.times_in_place(decayed_, kept());
    add_rows(to.dk, begin_, decayed_);
    add_shares(rows_k_, decayed_, &shares[at(begin_ - last.begin, gates_, 0)]);
  });
  decay_rows(state_);  // as it reaches the run's begin
  add_state(to.dinitial, last.initial, state_);
  if (!to.dg.data) return;
  if (!last.enters) state = initial_of(last);
  std::vector<double> sum(static_cast<size_t>(gates_), 0.0);  // of everything before t
  if (state) {
    M entering;
    read_state(state, entering);
    dots_.resize(static_cast<size_t>(dk_));
    blocks_.ops.dots(entering, state_, dk_, dv_, dots_.data());
    for (int64_t c = 0; c < dk_; ++c) sum[gate_at(c)] += double{dots_[static_cast<size_t>(c)]};
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
          in_type_of(run, [&](auto t) { EndWork<decltype(t)>(run).summarise(numbers<decltype(t)>(state)); });
        },
    .transition =
        [](const TokenRun& run, const View& to) {
          in_type_of(run, [&](auto t) { EndWork<decltype(t)>(run).transition(numbers<decltype(t)>(to)); });
        },
    .summarise_backward =
        [](const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const View& dstate) {
          in_type_of(run, [&](auto t) {
            EndWork<decltype(t)>(run).summarise_backward(dout, dfinal, numbers<decltype(t)>(dstate));
          });
        },
    .scan = scan_diagonal,
    .apply_state =
        [](const TokenRun& run, const ConstView& state, const View& out, const View& final) {
          in_type_of(run,
                     [&](auto t) { EndWork<decltype(t)>(run).apply_state(numbers<decltype(t)>(state), out, final); });
        },
    .scan_backward = scan_diagonal_backward,
    .apply_dstate =
        [](const TokenRun& run, const ConstView& dstate, const ConstView& state, const RunGradients& to) {
          in_type_of(run, [&](auto t) {
            using T = decltype(t);
            EndWork<T>(run).apply_dstate(numbers<T>(dstate), numbers<T>(state), to);
          });
        },
};

}  // namespace weft::kernels::recurrence_internal
