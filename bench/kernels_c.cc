// A C interface to the block-attention kernels, for benchmarks that load them into Python beside
// torch. Not installed.
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "bench/fma_peak.h"
#include "weft/kernels/kernels.h"

using namespace weft;
using namespace weft::kernels;

extern "C" {

// One sequence under one causal or full mask. Strides count elements: (row, head) of q, o, dq,
// dout; of k, v, dk, dv; lse and delta are [heads, tokens].
struct WeftAttention {
  const void *q, *k, *v, *dout;
  float *o, *lse, *delta, *dq, *dk, *dv;
  int64_t tokens, heads, kv_heads, dim;
  int64_t q_row, q_head, k_row, k_head;
  int32_t dtype;  // of DType
  int32_t causal;
  double scale;
};

}  // extern "C"

namespace {

struct Call {
  std::vector<int32_t> kv_head;
  std::vector<Block> blocks;
  View lse, delta;
  DType type;

  explicit Call(const WeftAttention& a) : type(static_cast<DType>(a.dtype)) {
    for (int64_t h = 0; h < a.heads; ++h) kv_head.push_back(static_cast<int32_t>(h * a.kv_heads / a.heads));
    blocks.push_back({.band = {.q = {0, a.tokens}, .k = {0, a.tokens}, .hi = a.causal ? 0 : kUnboundedAbove}});
    lse = {a.lse, DType::fp32, 1, a.tokens};
    delta = {a.delta, DType::fp32, 1, a.tokens};
  }
};

int reported(const Error& error) {
  std::fprintf(stderr, "weft_kernels_c: %s\n", error.what());
  return 1;
}

}  // namespace

extern "C" {

const char* weft_kernel_name() {
  static std::string name(cpu_kernels().name());
  return name.c_str();
}

double weft_fma_peak_gflops() { return bench::fma_peak_gflops(weft_kernel_name()); }

// That of bf16 products, GFLOP/s.
double weft_bf16_peak_gflops() { return bench::bf16_peak_gflops(weft_kernel_name()); }

// From empty accumulators.
int weft_attend(const WeftAttention* a) try {
  const Call call(*a);
  for (int64_t i = 0; i < a->heads * a->tokens; ++i) a->lse[i] = -std::numeric_limits<float>::infinity();
  cpu_kernels().attend({.q = {a->q, call.type, a->q_row, a->q_head},
                        .k = {a->k, call.type, a->k_row, a->k_head},
                        .v = {a->v, call.type, a->k_row, a->k_head},
                        .o = {a->o, DType::fp32, a->q_row, a->q_head},
                        .lse = call.lse,
                        .heads = a->heads,
                        .kv_head = call.kv_head,
                        .dim = a->dim,
                        .dim_v = a->dim,
                        .scale = a->scale,
                        .blocks = call.blocks});
  return 0;
} catch (const Error& error) {
  return reported(error);
}

// Gradients start at zero; includes prepare_backward.
int weft_attend_backward(const WeftAttention* a) try {
  const Call call(*a);
  const ConstView dout = {a->dout, call.type, a->q_row, a->q_head};
  std::memset(a->dq, 0, sizeof(float) * a->heads * a->tokens * a->dim);
  std::memset(a->dk, 0, sizeof(float) * a->kv_heads * a->tokens * a->dim);
  std::memset(a->dv, 0, sizeof(float) * a->kv_heads * a->tokens * a->dim);
  const KernelSet& kernels = cpu_kernels();
  kernels.prepare_backward(call.delta, {a->o, DType::fp32, a->q_row, a->q_head}, dout, {},
                           {a->tokens, a->heads, a->dim});
  kernels.attend_backward({.q = {a->q, call.type, a->q_row, a->q_head},
                           .k = {a->k, call.type, a->k_row, a->k_head},
                           .v = {a->v, call.type, a->k_row, a->k_head},
                           .dout = dout,
                           .lse = call.lse,
                           .delta = call.delta,
                           .dq = {a->dq, DType::fp32, a->q_row, a->q_head},
                           .dk = {a->dk, DType::fp32, a->k_row, a->k_head},
                           .dv = {a->dv, DType::fp32, a->k_row, a->k_head},
                           .heads = a->heads,
                           .kv_head = call.kv_head,
                           .dim = a->dim,
                           .dim_v = a->dim,
                           .scale = a->scale,
                           .blocks = call.blocks});
  return 0;
} catch (const Error& error) {
  return reported(error);
}

}  // extern "C"
