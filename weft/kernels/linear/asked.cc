// A run inside which states are asked for is cut behind each such token: what leaves a part is the state asked for, and enters
// the next part; backward the gradient of that state joins what comes from the next part. So every layer's kernels serve, and
// runs in which nothing is asked for do not come here.
#include "weft/kernels/linear/asked.h"

#include "weft/kernels/linear/part.h"

namespace weft::kernels::recurrence_internal {
namespace {

// Tokens up to the next one after which the state is asked for, or up to the run's end.
struct Part {
  TokenRun run;
  int64_t begin = 0;   // of the run's rows
  int64_t starts = 0;  // of the run's starts before it
  std::vector<int64_t> own_starts;
  int64_t asked = -1;  // row of `final`, `dfinal`, for the state after its last token

  // Whether what enters it leaves it.
  bool passes() const { return own_starts.empty(); }
};

class Parts {
 public:
  explicit Parts(const TokenRun& run)
      : elements_(run.dim * run.dim_v), type_(run.k.type == DType::fp64 ? DType::fp64 : DType::fp32) {
    int64_t begin = 0;
    for (size_t n = 0; n < run.asked.size(); ++n) {
      add(run, begin, run.asked[n] + 1, static_cast<int64_t>(n));
      begin = run.asked[n] + 1;
    }
    if (begin < run.rows) add(run, begin, run.rows, -1);
    for (Part& part : parts_) part.run.starts = part.own_starts;
  }
  Part& operator[](size_t n) { return parts_[n]; }
  size_t count() const { return parts_.size(); }

  // A state of zero, which lives as long as this.
  View room() {
    const auto bytes = static_cast<size_t>(elements_ * size_of(type_));
    return {rooms_.emplace_back(bytes, std::byte{0}).data(), type_, elements_, elements_};
  }
  // Row `row` of `to` += state; nothing where there is no such row.
  void add_to_row(const View& to, int64_t row, const ConstView& state) const {
    if (!to.data || row < 0 || !state.data) return;
    for (int64_t i = 0; i < elements_; ++i) store(to, row, 0, i, load(ConstView(to), row, 0, i) + load(state, 0, 0, i));
  }
  // The gradient behind a part: of what follows, and of the state that is asked for there.
  ConstView behind(const Part& part, const ConstView& following, const ConstView& dfinal) {
    if (part.asked < 0 || !dfinal.data) return following;
    const View sum = room();
    add_to_row(sum, 0, following);
    add_to_row(sum, 0, from_row(dfinal, part.asked));
    return sum;
  }

 private:
  void add(const TokenRun& run, int64_t begin, int64_t end, int64_t asked) {
    Part& part = parts_.emplace_back();
    part.begin = begin, part.asked = asked;
    for (const int64_t start : run.starts) {
      part.starts += start < begin;
      if (start >= begin && start < end) part.own_starts.push_back(start - begin);
    }
    part.run = rows_of(run, begin, end);
    part.run.initial = from_row(run.initial, part.starts);
  }

  const int64_t elements_;
  const DType type_;
  std::vector<Part> parts_;
  std::vector<std::vector<std::byte>> rooms_;
};

}  // namespace

void scan_asked(const LocalWork& work, const TokenRun& run, const ConstView& entering, const View& out,
                const View& final, const View& leaving) {
  Parts parts(run);
  ConstView coming = entering;
  for (size_t n = 0; n < parts.count(); ++n) {
    const Part& part = parts[n];
    const View state = parts.room();
    work.scan(part.run, coming, from_row(out, part.begin), {}, state);
    parts.add_to_row(final, part.asked, state);
    coming = state;
  }
  if (!leaving.data) return;
  const auto bytes = static_cast<size_t>(run.dim * run.dim_v * size_of(leaving.type));
  std::copy_n(static_cast<const std::byte*>(coming.data), bytes, static_cast<std::byte*>(leaving.data));
}

void apply_state_asked(const LocalWork& work, const TokenRun& run, const ConstView& state, const View& out,
                       const View& final) {
  Parts parts(run);
  ConstView coming = state;
  for (size_t n = 0; n < parts.count(); ++n) {
    Part& part = parts[n];
    const View left = parts.room();
    part.run.ends = part.passes();  // so that what is left of the state behind the part is given
    work.apply_state(part.run, coming, from_row(out, part.begin), part.passes() ? left : View{});
    if (!part.passes()) return;
    parts.add_to_row(final, part.asked, left);
    coming = left;
  }
}

void summarise_backward_asked(const LocalWork& work, const TokenRun& run, const ConstView& dout,
                              const ConstView& dfinal, const View& dstate) {
  Parts parts(run);
  size_t count = 0;  // of the parts that the document which enters reaches
  while (count < parts.count() && (count == 0 || parts[count - 1].passes())) ++count;
  ConstView following;
  for (size_t n = count; n-- > 0;) {
    Part& part = parts[n];
    const View to = n == 0 ? dstate : parts.room();
    part.run.ends = part.passes();  // so that what follows is a gradient of its last state
    const ConstView behind = part.passes() ? parts.behind(part, following, dfinal) : ConstView{};
    work.summarise_backward(part.run, from_row(dout, part.begin), behind, to);
    following = to;
  }
}

void scan_backward_asked(const LocalWork& work, const TokenRun& run, const ConstView& dout, const ConstView& dfinal,
                         const RunEnds& ends, const RunGradients& gradients) {
  Parts parts(run);
  std::vector<ConstView> entering{ends.state};
  for (size_t n = 0; n + 1 < parts.count(); ++n) {
    const View state = parts.room();
    work.scan(parts[n].run, entering.back(), {}, {}, state);  // the bits that forward gave
    entering.push_back(state);
  }
  ConstView following = ends.dstate;
  for (size_t n = parts.count(); n-- > 0;) {
    const Part& part = parts[n];
    const View to = n == 0 ? ends.leaving : parts.room();
    work.scan_backward(part.run, from_row(dout, part.begin), {},
                       {.state = entering[n], .dstate = parts.behind(part, following, dfinal), .leaving = to},
                       rows_of(gradients, part.begin, part.starts));
    following = to;
  }
}

}  // namespace weft::kernels::recurrence_internal
