// The part of FusedKernels that is compiled once per instruction set, as tile_ops.h is for attention: plain functions on
// raw pointers. Accumulator types are fp32 here.
#pragma once

#include "weft/kernels/fused.h"

namespace weft::kernels {

struct FusedOps {
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
};

}  // namespace weft::kernels
