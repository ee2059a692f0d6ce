// Element-wise kernels of the CPU paths: row by row through FusedOps. What involves fp64 is rare
// (only the oracle runs in it) and goes to the reference loops.
#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "weft/kernels/cpu_kernels.h"
#include "weft/kernels/element.h"

namespace weft::kernels {
namespace {

constexpr int64_t kChunk = 512;  // columns converted at once, on the stack

bool any_fp64(std::initializer_list<DType> types) {
  for (DType type : types) {
    if (type == DType::fp64) return true;
  }
  return false;
}

// The same elements as fewer, longer rows, where heads or rows follow each other without gaps in all views.
Shape joined(Shape shape, std::initializer_list<ConstView> views) {
  const auto all = [&](auto holds) { return std::all_of(views.begin(), views.end(), holds); };
  if (!all([&](const ConstView& v) { return shape.heads == 1 || v.head_stride == shape.columns; })) return shape;
  shape.columns *= shape.heads;
  shape.heads = 1;
  if (!all([&](const ConstView& v) { return v.row_stride == shape.columns; })) return shape;
  shape.columns *= shape.rows;
  shape.rows = shape.columns > 0 ? 1 : 0;
  return shape;
}

}  // namespace

void cpu_prepare_backward(const TileOps& ops, View delta, ConstView out, ConstView dout, ConstView dlse, Shape shape) {
  if (any_fp64({delta.type, out.type, dout.type}) || delta.type != DType::fp32 || out.type != DType::fp32 ||
      (dlse.data && dlse.type != DType::fp32)) {
    return reference_kernels().prepare_backward(delta, out, dout, dlse, shape);
  }
  ops.fused->delta({.delta = static_cast<float*>(delta.data),
                    .delta_row = delta.row_stride,
                    .delta_head = delta.head_stride,
                    .out = static_cast<const float*>(out.data),
                    .out_row = out.row_stride,
                    .out_head = out.head_stride,
                    .dout = dout.data,
                    .dout_type = dout.type,
                    .dout_row = dout.row_stride,
                    .dout_head = dout.head_stride,
                    .dlse = static_cast<const float*>(dlse.data),
                    .dlse_row = dlse.row_stride,
                    .dlse_head = dlse.head_stride,
                    .rows = shape.rows,
                    .heads = shape.heads,
                    .columns = shape.columns});
}

void cpu_merge(const TileOps& ops, View o, View lse, ConstView from_o, ConstView from_lse, Shape shape) {
  if (o.type != DType::fp32 || lse.type != DType::fp32 || from_lse.type != DType::fp32 || any_fp64({from_o.type})) {
    return reference_kernels().merge(o, lse, from_o, from_lse, shape);
  }
  ops.fused->merge({.o = static_cast<float*>(o.data),
                    .o_row = o.row_stride,
                    .o_head = o.head_stride,
                    .lse = static_cast<float*>(lse.data),
                    .lse_row = lse.row_stride,
                    .lse_head = lse.head_stride,
                    .from = from_o.data,
                    .from_type = from_o.type,
                    .from_row = from_o.row_stride,
                    .from_head = from_o.head_stride,
                    .from_lse = static_cast<const float*>(from_lse.data),
                    .from_lse_row = from_lse.row_stride,
                    .from_lse_head = from_lse.head_stride,
                    .rows = shape.rows,
                    .heads = shape.heads,
                    .columns = shape.columns});
}

void cpu_add(const TileOps& ops, View to, ConstView from, Shape shape) {
  if (to.type != DType::fp32 || from.type == DType::fp64) return reference_kernels().add(to, from, shape);
  shape = joined(shape, {to, from});
  for (int64_t head = 0; head < shape.heads; ++head) {
    const Rows target = {address(to, 0, head), to.type, to.row_stride};
    ops.fused->add({target, target, {address(from, 0, head), from.type, from.row_stride}, shape.rows, shape.columns});
  }
}

void cpu_convert(const TileOps& ops, View to, ConstView from, Shape shape) {
  if (to.type != from.type && any_fp64({to.type, from.type})) return reference_kernels().convert(to, from, shape);
  shape = joined(shape, {to, from});
  for_each_row(shape, [&](int64_t row, int64_t head) {
    void* target = address(to, row, head);
    const void* source = address(from, row, head);
    if (to.type == from.type) {
      std::memmove(target, source, static_cast<size_t>(shape.columns * size_of(to.type)));
    } else if (to.type == DType::fp32) {
      ops.to_float(source, from.type, static_cast<float*>(target), shape.columns);
    } else if (from.type == DType::fp32) {
      ops.from_float(static_cast<const float*>(source), to.type, target, shape.columns);
    } else {
      float chunk[kChunk];
      for (int64_t c = 0; c < shape.columns; c += kChunk) {
        const int64_t n = std::min(kChunk, shape.columns - c);
        ops.to_float(static_cast<const uint16_t*>(source) + c, from.type, chunk, n);
        ops.from_float(chunk, to.type, static_cast<uint16_t*>(target) + c, n);
      }
    }
  });
}

}  // namespace weft::kernels
