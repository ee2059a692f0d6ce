// Runs whose states mix rows, forward: recurrence_low_rank.h has the formulas.
#include "weft/kernels/recurrence_low_rank.h"

namespace weft::kernels::recurrence_internal {
namespace {

template <typename T>
class LowRank : LowRankChunks<T> {
 public:
  using LowRankChunks<T>::LowRankChunks;
  void summarise(T* state) const;
  void transition(T* to) const;
  void scan(const View& out, const View& final) const;
  void apply_state(const T* state, const View& out, const View& final) const;

 private:
  using Base = LowRankChunks<T>;
  using Base::add_to_document, Base::advance, Base::at, Base::initial_state, Base::delta_, Base::dk_, Base::dv_,
      Base::for_each_chunk, Base::load, Base::read_by_a, Base::run_, Base::state_size, Base::sums, Base::written,
      Base::zeros;
  using typename Base::Chunk, typename Base::Own;
  void add_outputs(const Chunk& chunk, const T* state, const Matrix<T>& x, Own own, const View& out) const;
};

template <typename T>
void LowRank<T>::add_outputs(const Chunk& chunk, const T* state, const Matrix<T>& x, Own own, const View& out) const {
  const int64_t rows = chunk.rows;
  Matrix<T> sum = zeros(rows, dv_);
  add_product(sum.data(), chunk.qe.data(), state, rows, dk_, dv_);
  if (delta_ && own == Own::added) {
    add_product(sum.data(), chunk.qk.data(), written(chunk, x).data(), rows, rows, dv_);
  } else {
    add_product(sum.data(), chunk.qb.data(), x.data(), rows, rows, dv_);
    if (own == Own::added) add_product(sum.data(), chunk.qk.data(), chunk.v.data(), rows, rows, dv_);
  }
  for (int64_t i = 0; i < rows; ++i)
    add_scaled(sums(out, chunk.begin + i), &sum[at(i, dv_, 0)], static_cast<T>(run_.scale), dv_);
}

template <typename T>
void LowRank<T>::summarise(T* state) const {
  const Segment last = segments_of(run_).back();
  const Matrix<T> initial = initial_state(last);
  std::copy(initial.begin(), initial.end(), state);
  Chunk chunk;
  for_each_chunk(last, [&](int64_t begin, int64_t rows) {
    load(chunk, begin, rows, {});
    advance(chunk, read_by_a(chunk, state, dv_, Own::added), Own::added, dv_, state);
  });
}

template <typename T>
void LowRank<T>::transition(T* to) const {
  std::fill_n(to, dk_ * dk_, T{0});
  if (!run_.starts.empty()) return;
  for (int64_t c = 0; c < dk_; ++c) to[c * dk_ + c] = 1;
  Chunk chunk;
  for_each_chunk(segments_of(run_).back(), [&](int64_t begin, int64_t rows) {
    load(chunk, begin, rows, {});
    advance(chunk, read_by_a(chunk, to, dk_, Own::left_out), Own::left_out, dk_, to);
  });
}

template <typename T>
void LowRank<T>::scan(const View& out, const View& final) const {
  Chunk chunk;
  for (const Segment& segment : segments_of(run_)) {
    Matrix<T> state = initial_state(segment);
    for_each_chunk(segment, [&](int64_t begin, int64_t rows) {
      load(chunk, begin, rows, {});
      const Matrix<T> x = read_by_a(chunk, state.data(), dv_, Own::added);
      add_outputs(chunk, state.data(), x, Own::added, out);
      advance(chunk, x, Own::added, dv_, state.data());
    });
    add_to_document(final, segment.final, state.data());
  }
}

// The entering state goes through the run by itself.
template <typename T>
void LowRank<T>::apply_state(const T* entering, const View& out, const View& final) const {
  const Segment first = segments_of(run_).front();
  if (!first.enters) return;
  Matrix<T> state(entering, entering + state_size());
  Chunk chunk;
  for_each_chunk(first, [&](int64_t begin, int64_t rows) {
    load(chunk, begin, rows, {});
    const Matrix<T> x = read_by_a(chunk, state.data(), dv_, Own::left_out);
    add_outputs(chunk, state.data(), x, Own::left_out, out);
    advance(chunk, x, Own::left_out, dv_, state.data());
  });
  add_to_document(final, first.final, state.data());
}

// Calls f(the work on the run, in its type).
template <typename F>
void with_work(const TokenRun& run, F&& f) {
  in_type_of(run, [&](auto t) { f(LowRank<decltype(t)>(run), t); });
}

}  // namespace

const LocalWork low_rank_work = {
    .summarise =
        [](const TokenRun& run, const View& state) {
          with_work(run, [&](const auto& work, auto t) { work.summarise(numbers<decltype(t)>(state)); });
        },
    .transition =
        [](const TokenRun& run, const View& to) {
          with_work(run, [&](const auto& work, auto t) { work.transition(numbers<decltype(t)>(to)); });
        },
    .summarise_backward = summarise_low_rank_backward,
    .scan = [](const TokenRun& run, const View& out,
               const View& final) { with_work(run, [&](const auto& work, auto) { work.scan(out, final); }); },
    .apply_state =
        [](const TokenRun& run, const ConstView& state, const View& out, const View& final) {
          with_work(run, [&](const auto& work, auto t) { work.apply_state(numbers<decltype(t)>(state), out, final); });
        },
    .scan_backward = scan_low_rank_backward,
    .apply_dstate = apply_low_rank_dstate,
};

}  // namespace weft::kernels::recurrence_internal
