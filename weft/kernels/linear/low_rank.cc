// Runs whose states mix rows, forward: recurrence_low_rank.h has the formulas.
#include "weft/kernels/linear/low_rank.h"

namespace weft::kernels::recurrence_internal {
namespace {

template <typename T>
class LowRank : LowRankChunks<T> {
 public:
  using LowRankChunks<T>::LowRankChunks;
  void summarise(T* state);
  void transition(T* to);
  void scan(const ConstView& entering, const View& out, const View& final, const View& leaving);
  void apply_state(const T* state, const View& out, const View& final);

 private:
  using Base = LowRankChunks<T>;
  using Base::add_rows, Base::add_state, Base::advance, Base::begin_, Base::begin_of, Base::blocks_, Base::delta_,
      Base::dk_, Base::dv_, Base::for_each_chunk, Base::initial_of, Base::load, Base::qb_, Base::qe_, Base::qk_,
      Base::read_by_a, Base::read_state, Base::run_, Base::scale, Base::v_, Base::w_, Base::write_state, Base::x_;
  using typename Base::M, typename Base::Own, typename Base::Part, typename Base::Queries;
  void add_outputs(const M& state, Own own, const View& out);
  M state_, sum_;
};

template <typename T>
void LowRank<T>::add_outputs(const M& state, Own own, const View& out) {
  blocks_.product(qe_, state, sum_);
  blocks_.add_product(delta_ ? qk_ : qb_, delta_ ? w_ : x_, sum_, 1, Part::lower_a);
  if (!delta_ && own == Own::added) blocks_.add_product(qk_, v_, sum_, 1, Part::lower_a);
  add_rows(out, begin_, sum_, scale());
}

template <typename T>
void LowRank<T>::summarise(T* state) {
  const Segment last = segments_of(run_).back();
  read_state(initial_of(last), state_);
  for_each_chunk(last, [&](int64_t begin) {
    load(begin, last.end, Queries::left_out);
    read_by_a(state_, Own::added);
    advance(Own::added, state_);
  });
  write_state(state_, state);
}

template <typename T>
void LowRank<T>::transition(T* to) {
  std::fill_n(to, dk_ * dk_, T{0});
  if (!run_.starts.empty()) return;
  state_.shape(dk_, dk_);
  state_.zero();
  for (int64_t c = 0; c < dk_; ++c) state_.row(c)[c] = 1;
  const Segment all = segments_of(run_).back();
  for_each_chunk(all, [&](int64_t begin) {
    load(begin, all.end, Queries::left_out);
    read_by_a(state_, Own::left_out);
    advance(Own::left_out, state_);
  });
  for (int64_t c = 0; c < dk_; ++c) std::copy_n(state_.row(c), dk_, to + c * dk_);
}

template <typename T>
void LowRank<T>::scan(const ConstView& entering, const View& out, const View& final, const View& leaving) {
  for (const Segment& segment : segments_of(run_)) {
    read_state(begin_of(segment, entering), state_);
    for_each_chunk(segment, [&](int64_t begin) {
      load(begin, segment.end, Queries::read);
      read_by_a(state_, Own::added);
      add_outputs(state_, Own::added, out);
      advance(Own::added, state_);
    });
    add_state(final, segment.final, state_);
  }
  write_state(state_, leaving);
}

// The entering state goes through the run by itself.
template <typename T>
void LowRank<T>::apply_state(const T* entering, const View& out, const View& final) {
  const Segment first = segments_of(run_).front();
  if (!first.enters) return;
  read_state(entering, state_);
  for_each_chunk(first, [&](int64_t begin) {
    load(begin, first.end, Queries::read);
    read_by_a(state_, Own::left_out);
    add_outputs(state_, Own::left_out, out);
    advance(Own::left_out, state_);
  });
  add_state(final, first.final, state_);
}

// Calls f(the work on the run, in its type).
template <typename F>
void with_work(const TokenRun& run, F&& f) {
  in_type_of(run, [&](auto t) {
    LowRank<decltype(t)> work(run);
    f(work, t);
  });
}

}  // namespace

const LocalWork low_rank_work = {
    .summarise =
        [](const TokenRun& run, const View& state) {
          with_work(run, [&](auto& work, auto t) { work.summarise(numbers<decltype(t)>(state)); });
        },
    .transition =
        [](const TokenRun& run, const View& to) {
          with_work(run, [&](auto& work, auto t) { work.transition(numbers<decltype(t)>(to)); });
        },
    .summarise_backward = summarise_low_rank_backward,
    .scan =
        [](const TokenRun& run, const ConstView& entering, const View& out, const View& final, const View& leaving) {
          with_work(run, [&](auto& work, auto) { work.scan(entering, out, final, leaving); });
        },
    .apply_state =
        [](const TokenRun& run, const ConstView& state, const View& out, const View& final) {
          with_work(run, [&](auto& work, auto t) { work.apply_state(numbers<decltype(t)>(state), out, final); });
        },
    .scan_backward = scan_low_rank_backward,
    .apply_dstate = apply_low_rank_dstate,
};

}  // namespace weft::kernels::recurrence_internal
