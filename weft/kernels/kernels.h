// Kernels: block attention and the small operations around it, on raw pointers.
//
// A kernel knows rows, heads and diagonals; it does not know ranks, token positions or schedules. Whoever calls it
// has translated "these queries, these keys, this mask" into band rectangles over row numbers.
//
//   const KernelSet& kernels = cpu_kernels();               // the best the processor has, or what WEFT_KERNEL names
//   kernels.attend({.q = q, .k = k, .v = v, .o = o, .lse = lse, .heads = 8, .kv_head = map,
//                   .dim = 64, .dim_v = 64, .scale = 0.125, .blocks = blocks});
//
// Conventions, all paths: partial results are (o, lse) with o normalised over the keys seen so far and lse the natural
// logarithm of the sum of exp(scale * q.k); the empty partial is (0, -inf). Softmax statistics, partials and
// gradients are fp32 for fp32, bf16 and fp16 inputs and fp64 for fp64 inputs. Products are taken in fp32, too; where bf16 is
// multiplied by hardware ("amx", "avx512_bf16") weights are rounded to bf16 where inputs are bf16. The same call gives the same bits.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "weft/base/dtype.h"
#include "weft/base/memory.h"
#include "weft/base/stop.h"
#include "weft/mask/band.h"

namespace weft {
class WorkerPool;
}
namespace weft::kernels {

class FusedKernels;
template <typename T>
struct BlockOps;

// One field of a value in memory: element (row, head, column) lies at data + row * row_stride + head * head_stride +
// column, counted in elements of `type`. Columns are contiguous. lse and delta have one column.
struct View {
  void* data = nullptr;
  DType type = DType::fp32;
  int64_t row_stride = 0;
  int64_t head_stride = 0;
};
struct ConstView {
  const void* data = nullptr;
  DType type = DType::fp32;
  int64_t row_stride = 0;
  int64_t head_stride = 0;

  ConstView() = default;
  ConstView(const void* d, DType t, int64_t row, int64_t head) : data(d), type(t), row_stride(row), head_stride(head) {}
  ConstView(const View& v) : data(v.data), type(v.type), row_stride(v.row_stride), head_stride(v.head_stride) {}
};

// A piece of the (query, key) plane. `band.q` are rows of q, `band.k` rows of k and v, and lo <= k row - q row <= hi.
// The blocks of one call are disjoint sets of pairs, in ascending order of (band.q.begin, band.k.begin).
struct Block {
  BandRectangle band;
  int64_t out_row = 0;      // row of o and lse (forward) or of dq (backward) that belongs to q row band.q.begin
  int64_t bundle_row = 0;   // row of dout, lse and delta that belongs to q row band.q.begin; backward only
  int64_t kv_grad_row = 0;  // row of dk and dv that belongs to k row band.k.begin; backward only
  int64_t q_position = 0;   // position in the sequence of q row band.q.begin, the rows after it follow on; and
  int64_t k_position = 0;   // of k row band.k.begin: what canonical kernels cut tiles by
};

// o, lse <- merge(o, lse, attention of q over the keys that the blocks allow).
struct AttendArgs {
  ConstView q;                       // [rows, heads, dim], element type
  ConstView k;                       // [rows, kv heads, dim], same type
  ConstView v;                       // [rows, kv heads, dim_v], same type
  View o;                            // [rows, heads, dim_v], fp32 (fp64 for fp64 inputs), read and written
  View lse;                          // [rows, heads], same type as o, read and written
  int64_t heads = 0;                 // query heads 0 .. heads-1 of q, o and lse
  std::span<const int32_t> kv_head;  // [heads] which head of k and v query head h reads
  int64_t dim = 0;                   // columns of q and k
  int64_t dim_v = 0;                 // columns of v and o
  double scale = 1;                  // multiplies q.k
  std::span<const Block> blocks;
  const StopFlag* stop = nullptr;  // polled per tile; raises Error(stopped)
  int64_t tile = 0;                // canonical kernels only: positions per tile
  WorkerPool* pool = nullptr;      // CPU paths share the work among these threads; the bits do not depend on it
};

// With s = scale * q.k, p = exp(s - lse), ds = p * (dout.v - delta), over the pairs that the blocks allow:
//   dq += scale * ds k,   dk += scale * ds^T q,   dv += p^T dout.        (FlashAttention-2, arXiv 2307.08691, alg. 2)
// lse and delta are those of the whole row, not of the block. An output whose data is null is not computed.
// Rows with lse = -inf contribute nothing.
struct AttendBackwardArgs {
  ConstView q, k, v;     // as in AttendArgs
  ConstView dout;        // [rows, heads, dim_v], element type
  ConstView lse, delta;  // [rows, heads], fp32 (fp64)
  View dq;               // [rows, heads, dim], fp32 (fp64), added to
  View dk, dv;           // [rows, kv heads, dim or dim_v], fp32 (fp64), added to; head index kv_head[h]
  int64_t heads = 0;
  std::span<const int32_t> kv_head;  // indexes k, v, dk and dv alike
  int64_t dim = 0;
  int64_t dim_v = 0;
  double scale = 1;
  std::span<const Block> blocks;
  const StopFlag* stop = nullptr;
  int64_t tile = 0;
  WorkerPool* pool = nullptr;
};

// Shape of an element-wise call: rows x heads x columns, each View giving its own strides.
struct Shape {
  int64_t rows = 0;
  int64_t heads = 0;
  int64_t columns = 0;
};

// Calls body(row, head) for every row and head, heads inside.
template <typename Body>
void for_each_row(const Shape& shape, const Body& body) {
  for (int64_t row = 0; row < shape.rows; ++row) {
    for (int64_t head = 0; head < shape.heads; ++head) body(row, head);
  }
}

// One implementation of every kernel for one device. Stateless and safe to use from several threads at once.
class KernelSet {
 public:
  virtual ~KernelSet() = default;

  // "reference", "portable", "avx2", "avx512", ...
  virtual std::string_view name() const = 0;
  // Whether inputs of this element type are accepted.
  virtual bool supports(DType element) const = 0;

  virtual void attend(const AttendArgs& args) const = 0;
  virtual void attend_backward(const AttendBackwardArgs& args) const = 0;

  // delta[row, head] = sum over columns of dout * out (minus dlse where given), in the type of delta.
  virtual void prepare_backward(View delta, ConstView out, ConstView dout, ConstView dlse, Shape shape) const = 0;
  // (o, lse) <- merge of two partials with columns = dim_v; the identity (0, -inf) is handled by selection.
  virtual void merge(View o, View lse, ConstView from_o, ConstView from_lse, Shape shape) const = 0;
  // to += from, both in the accumulator type, or `from` in a 16-bit wire type.
  virtual void add(View to, ConstView from, Shape shape) const = 0;
  // to = from, converting between any two types (round to nearest even).
  virtual void convert(View to, ConstView from, Shape shape) const = 0;
  // Partials become results: out and lse in any type; without data where not wanted. columns = dim_v.
  virtual void finish(View out, View lse, ConstView partial_o, ConstView partial_lse, Shape shape) const;

  // `elements` numbers, one after the other, of fp32 or fp64.
  virtual void fill(View to, double value, int64_t elements) const;

  // Where all that is handed to the kernels lies.
  virtual const Memory& memory() const { return host_memory(); }
  // The type in which a block's results leave the kernel before they are added to what is there: the accumulator's, or for
  // kernels that round each block's, the element's (docs/numerics.md).
  virtual DType partial(DType element) const { return element == DType::fp64 ? DType::fp64 : DType::fp32; }

  // The kernels with the same arithmetic whose accumulators are exact sums (DType::sum2 and so on; canonical.h), or null.
  virtual const KernelSet* canonical() const { return nullptr; }
  // The same path's operations around attention (fused.h).
  virtual const FusedKernels& fused() const;
  // The same path's products in fp32 for linear layers (recurrence.h): plain loops where it has none.
  virtual const BlockOps<float>& blocks() const;
};

// Plain loops, accumulating in fp64 and rounding once to the output type: what everything else is compared with.
const KernelSet& reference_kernels();

// The CPU kernels: the path named by WEFT_KERNEL, else the best the processor has. Throws Error(usage) when
// WEFT_KERNEL names an unknown path, or one that this processor lacks: never a fallback.
const KernelSet& cpu_kernels();

// A CPU path by name ("portable", "avx2", "avx512", "avx512_bf16", "amx", and for tests "emulated": AMX's and AVX-512's
// arithmetic on AVX2); Error(usage) as above.
const KernelSet& cpu_kernels(std::string_view path);

// Names of the CPU paths that this processor can run, those that are only taken by name first, then slowest first; the last
// is what it has best.
std::vector<std::string_view> available_cpu_paths();

// Whether this processor's best path multiplies bf16 by hardware, and faster than fp32.
bool has_fast_bf16();

// Names of all CPU paths in this build, slowest first.
std::vector<std::string_view> known_cpu_paths();

}  // namespace weft::kernels
