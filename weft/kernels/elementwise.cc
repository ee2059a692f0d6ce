// Element-wise kernels of the CPU paths: row by row through TileOps. What involves fp64 is rare
// (only the oracle runs in it) and goes to the reference loops.
#include <cmath>
#include <cstring>
#include <limits>

#include "weft/kernels/cpu_kernels.h"
#include "weft/kernels/element.h"

namespace weft::kernels {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr int64_t kChunk = 512;  // columns converted at once, on the stack

bool any_fp64(std::initializer_list<DType> types) {
  for (DType type : types) {
    if (type == DType::fp64) return true;
  }
  return false;
}

// Calls body(row, head) for every row and head, heads inside.
template <typename Body>
void for_each_row(const Shape& shape, Body body) {
  for (int64_t row = 0; row < shape.rows; ++row) {
    for (int64_t head = 0; head < shape.heads; ++head) body(row, head);
  }
}

// Calls body(column, n, floats of `from` in [column, column + n)), converting 16-bit rows piece by
// piece.
template <typename Body>
void for_each_chunk(const TileOps& ops, const void* from, DType type, int64_t columns, Body body) {
  if (type == DType::fp32) return body(int64_t{0}, columns, static_cast<const float*>(from));
  float chunk[kChunk];
  for (int64_t c = 0; c < columns; c += kChunk) {
    const int64_t n = std::min(kChunk, columns - c);
    ops.to_float(static_cast<const uint16_t*>(from) + c, type, chunk, n);
    body(c, n, static_cast<const float*>(chunk));
  }
}

}  // namespace

void cpu_prepare_backward(const TileOps& ops, View delta, ConstView out, ConstView dout, ConstView dlse, Shape shape) {
  if (any_fp64({delta.type, out.type, dout.type}) || delta.type != DType::fp32 || out.type != DType::fp32 ||
      (dlse.data && dlse.type != DType::fp32)) {
    return reference_kernels().prepare_backward(delta, out, dout, dlse, shape);
  }
  for_each_row(shape, [&](int64_t row, int64_t head) {
    const float* o = static_cast<const float*>(address(out, row, head));
    float sum = 0;
    for_each_chunk(ops, address(dout, row, head), dout.type, shape.columns,
                   [&](int64_t c, int64_t n, const float* values) { sum += ops.dot(o + c, values, n); });
    if (dlse.data) sum -= *static_cast<const float*>(address(dlse, row, head));
    *static_cast<float*>(address(delta, row, head)) = sum;
  });
}

void cpu_merge(const TileOps& ops, View o, View lse, ConstView from_o, ConstView from_lse, Shape shape) {
  if (o.type != DType::fp32 || lse.type != DType::fp32 || from_lse.type != DType::fp32 || any_fp64({from_o.type})) {
    return reference_kernels().merge(o, lse, from_o, from_lse, shape);
  }
  for_each_row(shape, [&](int64_t row, int64_t head) {
    float* ours = static_cast<float*>(address(lse, row, head));
    const float theirs = *static_cast<const float*>(address(from_lse, row, head));
    if (theirs == kMinusInfinity) return;
    float our_weight = 0, their_weight = 1, total = theirs;
    if (*ours != kMinusInfinity) {
      const float difference = -std::fabs(*ours - theirs), small = std::exp(difference);
      const float larger_weight = 1 / (1 + small), smaller_weight = small / (1 + small);
      const bool theirs_larger = theirs > *ours;
      our_weight = theirs_larger ? smaller_weight : larger_weight;
      their_weight = theirs_larger ? larger_weight : smaller_weight;
      total = (theirs_larger ? theirs : *ours) + std::log1p(small);
    }
    float* to = static_cast<float*>(address(o, row, head));
    for_each_chunk(
        ops, address(from_o, row, head), from_o.type, shape.columns,
        [&](int64_t c, int64_t n, const float* values) { ops.scale_add(to + c, our_weight, values, their_weight, n); });
    *ours = total;
  });
}

void cpu_add(const TileOps& ops, View to, ConstView from, Shape shape) {
  if (to.type != DType::fp32 || from.type == DType::fp64) return reference_kernels().add(to, from, shape);
  for_each_row(shape, [&](int64_t row, int64_t head) {
    float* target = static_cast<float*>(address(to, row, head));
    for_each_chunk(ops, address(from, row, head), from.type, shape.columns,
                   [&](int64_t c, int64_t n, const float* values) { ops.scale_add(target + c, 1, values, 1, n); });
  });
}

void cpu_convert(const TileOps& ops, View to, ConstView from, Shape shape) {
  if (to.type == from.type) {
    return for_each_row(shape, [&](int64_t row, int64_t head) {
      std::memmove(address(to, row, head), address(from, row, head), shape.columns * size_of(to.type));
    });
  }
  if (any_fp64({to.type, from.type})) return reference_kernels().convert(to, from, shape);
  for_each_row(shape, [&](int64_t row, int64_t head) {
    char* target = static_cast<char*>(address(to, row, head));
    for_each_chunk(ops, address(from, row, head), from.type, shape.columns,
                   [&](int64_t c, int64_t n, const float* values) {
                     ops.from_float(values, to.type, target + c * size_of(to.type), n);
                   });
  });
}

}  // namespace weft::kernels
