// Tokens that read all of their document, the later ones too: sums of the same functions, without an order. Documents of a run
// by themselves, and the gradient of q, which is out of dout and the state's transpose.
#include <vector>

#include "weft/base/error.h"
#include "weft/kernels/linear/part.h"

namespace weft::kernels {
namespace {

using namespace recurrence_internal;

// A state, or its gradient, and the bytes that it takes.
class Room {
 public:
  Room(const TokenRun& run, DType type)
      : bytes_(static_cast<size_t>(run.dim * run.dim_v * size_of(type))),
        view_{bytes_.data(), type, run.dim * run.dim_v, run.dim * run.dim_v} {}
  const View& view() const { return view_; }

 private:
  std::vector<std::byte> bytes_;
  View view_;
};

DType sums_of(const TokenRun& run) { return run.k.type == DType::fp64 ? DType::fp64 : DType::fp32; }

// Calls f(first row, the run) for each document. The run begins with one.
template <typename F>
void for_each_document(const TokenRun& run, F&& f) {
  WEFT_CHECK(!run.starts.empty() && run.starts[0] == 0);
  for (size_t n = 0; n < run.starts.size(); ++n) {
    const int64_t begin = run.starts[n], end = n + 1 < run.starts.size() ? run.starts[n + 1] : run.rows;
    f(begin, rows_of(run, begin, end));
  }
}

}  // namespace

void scan_both_ways(const TokenRun& run, const View& out) {
  const Room state(run, sums_of(run));
  for_each_document(run, [&](int64_t begin, const TokenRun& document) {
    summarise(document, state.view());
    apply_state(document, state.view(), from_row(out, begin), {});
  });
}

void scan_both_ways_backward(const TokenRun& run, const ConstView& dout, const RunGradients& gradients) {
  const Room state(run, sums_of(run)), dstate(run, sums_of(run));
  for_each_document(run, [&](int64_t begin, const TokenRun& document) {
    const ConstView rows = from_row(dout, begin);
    const RunGradients sums = recurrence_internal::rows_of(gradients, begin, 0);
    summarise(document, state.view());
    apply_state_to_dout(document, rows, state.view(), sums.dq);
    summarise_backward(document, rows, {}, dstate.view());
    apply_dstate(document, dstate.view(), {}, sums);
  });
}

void apply_state_to_dout(const TokenRun& run, const ConstView& dout, const ConstView& state, const View& dq) {
  const Room transposed(run, state.type);
  for (int64_t c = 0; c < run.dim; ++c) {
    for (int64_t d = 0; d < run.dim_v; ++d)
      store(transposed.view(), 0, 0, d * run.dim + c, load(state, 0, 0, c * run.dim_v + d));
  }
  TokenRun turned = run;
  turned.q = dout;
  turned.dim = run.dim_v, turned.dim_v = run.dim;
  apply_state(turned, transposed.view(), dq, {});
}

}  // namespace weft::kernels
