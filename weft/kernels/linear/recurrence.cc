#include "weft/kernels/linear/recurrence.h"

#include <cmath>

#include "weft/kernels/linear/asked.h"
#include "weft/kernels/linear/chunk_math.h"
#include "weft/kernels/linear/columns.h"

namespace weft::kernels {
namespace {

using namespace recurrence_internal;

const LocalWork& work_of(const TokenRun& run) {
  if (run.blocks > 0) return columns_work;
  if (run.householders > 1) return product_work;
  return run.beta.data || run.a.data ? low_rank_work : diagonal_work;
}

// to (+)= a b or a^T b, a [dim, dim] and the others [dim, columns], contiguous.
template <typename T>
void multiply_whole(const KernelSet* kernels, const T* a, bool transposed, const T* b, int64_t dim, int64_t columns,
                    bool add, T* to) {
  const Blocks<T> blocks(block_ops_of<T>(kernels));
  BlockMatrix<T> left, right, product;
  const auto read = [&](const T* from, int64_t width, BlockMatrix<T>& matrix) {
    matrix.shape(dim, width);
    for (int64_t r = 0; r < dim; ++r) std::copy_n(from + r * width, width, matrix.row(r));
  };
  read(a, dim, left);
  read(b, columns, right);
  if (transposed) {
    blocks.transposed_product(left, right, product);
  } else {
    blocks.product(left, right, product);
  }
  if (!add) std::fill_n(to, dim * columns, T{0});
  blocks.ops.add(product, 1, dim, columns, {to, columns});
}

void add_decayed(const Composition& p, const View& to) {
  for (int64_t c = 0; c < p.dim; ++c) {
    const double kept = p.transition.data ? load(p.transition, 0, 0, p.decays.columns == 1 ? 0 : c)
                                          : std::exp(static_cast<double>(p.rows) * p.decays.log_decay);
    for (int64_t d = c * p.dim_v; d < (c + 1) * p.dim_v && kept != 0; ++d)
      store(to, 0, 0, d, load(ConstView(to), 0, 0, d) + kept * load(p.near, 0, 0, d));
  }
}

template <typename T>
void add_through_columns(const Composition& p, T* to) {
  const ColumnMap<T> map{numbers<T>(p.transition), p.blocks, p.dim_v / p.blocks};
  for (int64_t r = 0; r < p.dim; ++r) {
    const T* const from = numbers<T>(p.near) + r * p.dim_v;
    if (p.transposed) {
      map.add_transposed(from, to + r * p.dim_v);
    } else {
      map.add(from, to + r * p.dim_v);
    }
  }
}

// Calls f(T{}) with the type of a state.
template <typename F>
void in_type(DType type, F&& f) {
  if (type == DType::fp64) {
    f(double{});
  } else {
    f(float{});
  }
}

}  // namespace

void summarise(const TokenRun& run, const View& state) { work_of(run).summarise(run, state); }

void transition(const TokenRun& run, const View& to) { work_of(run).transition(run, to); }

void summarise_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const View& dstate) {
  const LocalWork& work = work_of(run);
  if (!run.asked.empty()) return summarise_backward_asked(work, run, dout, dfinal, dstate);
  work.summarise_backward(run, dout, dfinal, dstate);
}

void scan(const TokenRun& run, const ConstView& entering, const View& out, const View& final, const View& leaving) {
  const LocalWork& work = work_of(run);
  if (!run.asked.empty()) return scan_asked(work, run, entering, out, final, leaving);
  work.scan(run, entering, out, final, leaving);
}

void apply_state(const TokenRun& run, const ConstView& state, const View& out, const View& final) {
  const LocalWork& work = work_of(run);
  if (!run.asked.empty()) return apply_state_asked(work, run, state, out, final);
  work.apply_state(run, state, out, final);
}

void scan_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal, const RunEnds& ends,
                   const RunGradients& gradients) {
  const LocalWork& work = work_of(run);
  if (!run.asked.empty()) return scan_backward_asked(work, run, dout, dfinal, ends, gradients);
  work.scan_backward(run, dout, dfinal, ends, gradients);
}

void apply_dstate(const TokenRun& run, const ConstView& dstate, const ConstView& state, const RunGradients& gradients) {
  work_of(run).apply_dstate(run, dstate, state, gradients);
}

void compose_states(const Composition& p, const View& joined) {
  in_type(joined.type, [&](auto t) {
    using T = decltype(t);
    std::copy_n(numbers<T>(p.far), p.dim * p.dim_v, numbers<T>(joined));
    if (p.cut) return;
    if (p.blocks > 0) return add_through_columns(p, numbers<T>(joined));
    if (!p.mixes_rows) return;
    multiply_whole(p.kernels, numbers<T>(p.transition), p.transposed, numbers<T>(p.near), p.dim, p.dim_v, true,
                   numbers<T>(joined));
  });
  if (!p.cut && !p.mixes_rows && p.blocks == 0) add_decayed(p, joined);
}

void multiply_transitions(const ConstView& earlier, const ConstView& later, int64_t columns, bool mixes_rows,
                          const View& joined, const KernelSet* kernels) {
  in_type(joined.type, [&](auto t) {
    using T = decltype(t);
    const T *first = numbers<T>(earlier), *second = numbers<T>(later);
    T* const to = numbers<T>(joined);
    if (mixes_rows) {
      multiply_whole(kernels, second, false, first, columns, columns, false, to);
    } else {
      for (int64_t c = 0; c < columns; ++c) to[c] = first[c] * second[c];
    }
  });
}

void multiply_column_transitions(const ConstView& earlier, const ConstView& later, int64_t dim_v, int64_t blocks,
                                 const View& joined) {
  in_type(joined.type, [&](auto t) {
    using T = decltype(t);
    std::fill_n(numbers<T>(joined), blocks * dim_v, T{0});
    const ColumnMap<T> second{numbers<T>(later), blocks, dim_v / blocks};
    second.add_after(numbers<T>(earlier), numbers<T>(joined));
  });
}

}  // namespace weft::kernels
