// Runs whose tokens have several Householder factors (Gated DeltaProduct): the delta rule on a longer run, in which each token is so
// many: all write, the first decays, the last is read. So k, v and beta are copied as they are, q, dout and g with zeros between.
#include <cstring>

#include "weft/kernels/linear/chunk_math.h"

namespace weft::kernels::recurrence_internal {
namespace {

// Which of a token's rows a tensor has numbers for.
enum class Has : uint8_t { all, first, last };

class LongRun {
 public:
  explicit LongRun(const TokenRun& run) : of_(run), steps_(run.householders) {
    starts_.assign(run.starts.begin(), run.starts.end());
    for (int64_t& start : starts_) start *= steps_;
    run_ = run;
    run_.householders = 1;
    run_.rows = run.rows * steps_;
    run_.starts = starts_;
    run_.q = spread(run.q, run.dim, Has::last);
    run_.k = spread(run.k, run.dim, Has::all), run_.v = spread(run.v, run.dim_v, Has::all);
    run_.g = spread(run.g, run.decays.columns, Has::first);
    run_.beta = spread(run.beta, 1, Has::all);
  }
  const TokenRun& run() const { return run_; }

  ConstView dout(const ConstView& of) { return spread(of, run_.dim_v, Has::last); }
  // Sums for the long run in place of those for the run, to which add_up() adds them.
  View room(const View& of, int64_t columns, Has has) {
    if (!of.data) return {};
    const View room = zeros(of.type, columns);
    sums_.push_back({room, of, columns, has});
    return room;
  }
  RunGradients room(const RunGradients& of) {
    RunGradients room;
    room.dq = this->room(of.dq, run_.dim, Has::last);
    room.dk = this->room(of.dk, run_.dim, Has::all), room.dv = this->room(of.dv, run_.dim_v, Has::all);
    room.dg = this->room(of.dg, run_.decays.columns, Has::first);
    room.dbeta = this->room(of.dbeta, 1, Has::all);
    room.dinitial = of.dinitial;
    return room;
  }
  void add_up() const {
    for (const Sum& sum : sums_) {
      if (sum.to.type == DType::fp64) {
        add_up<double>(sum);
      } else {
        add_up<float>(sum);
      }
    }
  }

 private:
  struct Sum {
    View from, to;
    int64_t columns;
    Has has;
  };
  // Of a token: elements, and the first of them among those of all its steps.
  int64_t count(int64_t columns, Has has) const { return has == Has::all ? steps_ * columns : columns; }
  int64_t offset(int64_t columns, Has has) const { return has == Has::last ? (steps_ - 1) * columns : 0; }

  View zeros(DType type, int64_t columns) {
    const int64_t elements = run_.rows * columns;
    std::vector<std::byte>& bytes = memory_.emplace_back(static_cast<size_t>(elements * size_of(type)), std::byte{0});
    return {bytes.data(), type, columns, columns};
  }
  ConstView spread(const ConstView& from, int64_t columns, Has has) {
    if (!from.data) return {};
    const View to = zeros(from.type, columns);
    const int64_t begin = offset(columns, has);
    const auto bytes = static_cast<size_t>(count(columns, has) * size_of(from.type));
    for (int64_t t = 0; t < of_.rows; ++t)
      std::memcpy(static_cast<std::byte*>(address(to, t * steps_, 0)) + begin * size_of(to.type), address(from, t, 0),
                  bytes);
    return to;
  }
  template <typename T>
  void add_up(const Sum& sum) const {
    const int64_t begin = offset(sum.columns, sum.has), elements = count(sum.columns, sum.has);
    for (int64_t t = 0; t < of_.rows; ++t) {
      const T* const from = static_cast<const T*>(address(sum.from, t * steps_, 0)) + begin;
      T* const to = static_cast<T*>(address(sum.to, t, 0));
      for (int64_t c = 0; c < elements; ++c) to[c] += from[c];
    }
  }

  const TokenRun& of_;
  const int64_t steps_;
  TokenRun run_;
  std::vector<int64_t> starts_;
  std::vector<std::vector<std::byte>> memory_;
  std::vector<Sum> sums_;
};

}  // namespace

const LocalWork product_work = {
    .summarise = [](const TokenRun& run, const View& state) { low_rank_work.summarise(LongRun(run).run(), state); },
    .transition = [](const TokenRun& run, const View& to) { low_rank_work.transition(LongRun(run).run(), to); },
    .summarise_backward =
        [](const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const View& dstate) {
          LongRun work(run);
          const ConstView rows = work.dout(dout);
          low_rank_work.summarise_backward(work.run(), rows, dfinal, dstate);
        },
    .scan =
        [](const TokenRun& run, const ConstView& entering, const View& out, const View& final, const View& leaving) {
          LongRun work(run);
          const View rows = work.room(out, run.dim_v, Has::last);
          low_rank_work.scan(work.run(), entering, rows, final, leaving);
          work.add_up();
        },
    .apply_state =
        [](const TokenRun& run, const ConstView& state, const View& out, const View& final) {
          LongRun work(run);
          const View rows = work.room(out, run.dim_v, Has::last);
          low_rank_work.apply_state(work.run(), state, rows, final);
          work.add_up();
        },
    .scan_backward =
        [](const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const RunEnds& ends,
           const RunGradients& to) {
          LongRun work(run);
          const ConstView rows = work.dout(dout);
          const RunGradients room = work.room(to);
          low_rank_work.scan_backward(work.run(), rows, dfinal, ends, room);
          work.add_up();
        },
    .apply_dstate =
        [](const TokenRun& run, const ConstView& dstate, const ConstView& state, const RunGradients& to) {
          LongRun work(run);
          const RunGradients room = work.room(to);
          low_rank_work.apply_dstate(work.run(), dstate, state, room);
          work.add_up();
        },
};

}  // namespace weft::kernels::recurrence_internal
