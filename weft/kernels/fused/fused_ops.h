// The part of FusedKernels that is compiled once per instruction set, as tile_ops.h is for attention: plain functions on
// raw pointers. Accumulator types are fp32 here.
#pragma once

#include "weft/kernels/fused/fused.h"

namespace weft::kernels {

// (o, lse) <- merge with (from, from_lse), as KernelSet::merge. Strides in elements, from row to row and head to head.
struct MergePartials {
  float* o;
  int64_t o_row, o_head;
  float* lse;
  int64_t lse_row, lse_head;
  const void* from;
  DType from_type;
  int64_t from_row, from_head;
  const float* from_lse;
  int64_t from_lse_row, from_lse_head;
  int64_t rows, heads, columns;
};

// delta = sum of out * dout over the columns, less dlse where that is not null.
struct DeltaRows {
  float* delta;
  int64_t delta_row, delta_head;
  const float* out;
  int64_t out_row, out_head;
  const void* dout;
  DType dout_type;
  int64_t dout_row, dout_head;
  const float* dlse;
  int64_t dlse_row, dlse_head;
  int64_t rows, heads, columns;
};

struct FusedOps {
  void (*merge)(const MergePartials& args);
  void (*delta)(const DeltaRows& args);
  void (*rms_norm)(const RmsNorm& args);
  void (*rms_norm_backward)(const RmsNormBackward& args);
  void (*rotate)(const Rotate& args);
  void (*swiglu)(const Swiglu& args);
  void (*swiglu_backward)(const SwigluBackward& args);
  void (*add)(const AddRows& args);
  void (*adamw)(const AdamWStep& args);
  // maximum = that of x[0 .. n), sum = that of exp(x - maximum); (-inf, 0) if all are -inf.
  void (*exp_sum)(const float* x, int64_t n, float* maximum, float* sum);
  // to = factor * exp(x - shift)
  void (*scaled_exp)(const float* x, int64_t n, float shift, float factor, void* to, DType type);
  RnnResidual (*rnn_step)(const RnnStep& args);
  void (*rnn_backward)(const RnnBackward& args);
  void (*rnn_correct)(const RnnCorrection& args);
};

}  // namespace weft::kernels
