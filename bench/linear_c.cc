// A C interface to the local work of linear layers, for bench/linear_speed.py beside torch. Not installed.
#include <cstdio>
#include <cstring>

#include "weft/kernels/linear/recurrence.h"

using namespace weft;
using namespace weft::kernels;

extern "C" {

// All [heads, tokens, columns] and contiguous; fp32 where the kernels have sums. Null: the layer has no such input. State and dstate are of
// [heads, dim, dim_v], the transition [heads, 1, dim or dim * dim].
struct WeftLinear {
  const void *q, *k, *v, *a, *b, *dout;
  const float *g, *beta, *u;
  float *out, *dq, *dk, *dv, *dg, *dbeta, *da, *db, *du;
  float *state, *dstate, *transition;
  int64_t tokens, heads, dim, dim_v, gates, transition_size;
  int32_t dtype;
  double scale, log_decay;
};

// Parts by number: scan, scan_backward, summarise, transition, apply_state, summarise_backward, apply_dstate.
int weft_linear(const WeftLinear* c, int part) try {
  const DType type = static_cast<DType>(c->dtype);
  const auto in = [&](const void* data, int64_t head, int64_t columns, DType t) {
    if (!data) return ConstView{};
    return ConstView(static_cast<const char*>(data) + head * c->tokens * columns * size_of(t), t, columns, columns);
  };
  const auto sums = [&](float* data, int64_t head, int64_t columns) {
    if (!data) return View{};
    float* const from = data + head * c->tokens * columns;
    std::memset(from, 0, sizeof(float) * static_cast<size_t>(c->tokens * columns));
    return View{from, DType::fp32, columns, columns};
  };
  for (int64_t h = 0; h < c->heads; ++h) {
    const int64_t size = c->dim * c->dim_v;
    TokenRun run;
    run.q = in(c->q, h, c->dim, type), run.k = in(c->k, h, c->dim, type), run.v = in(c->v, h, c->dim_v, type);
    run.g = in(c->g, h, c->gates, DType::fp32), run.beta = in(c->beta, h, 1, DType::fp32);
    run.a = in(c->a, h, c->dim, type), run.b = in(c->b, h, c->dim, type);
    if (c->u) run.u = {c->u + h * c->dim, DType::fp32, c->dim, c->dim};
    run.decays = {.columns = c->g ? c->gates : 0, .log_decay = c->log_decay};
    run.rows = c->tokens, run.dim = c->dim, run.dim_v = c->dim_v, run.scale = c->scale;
    const auto block = [&](float* data, int64_t n) { return View{data ? data + h * n : nullptr, DType::fp32, n, n}; };
    const View state = block(c->state, size), dstate = block(c->dstate, size);
    const ConstView dout = in(c->dout, h, c->dim_v, type);
    const auto gradients = [&] {
      RunGradients to;
      to.dq = sums(c->dq, h, c->dim), to.dk = sums(c->dk, h, c->dim), to.dv = sums(c->dv, h, c->dim_v);
      to.dg = sums(c->dg, h, c->gates), to.dbeta = sums(c->dbeta, h, 1);
      to.da = sums(c->da, h, c->dim), to.db = sums(c->db, h, c->dim);
      if (c->du) {
        to.du = {c->du + h * c->dim, DType::fp32, c->dim, c->dim};
        std::memset(to.du.data, 0, sizeof(float) * static_cast<size_t>(c->dim));
      }
      return to;
    };
    switch (part) {
      case 0: scan(run, {}, sums(c->out, h, c->dim_v), {}, {}); break;
      case 1: scan_backward(run, dout, {}, {}, gradients()); break;
      case 2: summarise(run, state); break;
      case 3: transition(run, block(c->transition, c->transition_size)); break;
      case 4: apply_state(run, state, sums(c->out, h, c->dim_v), {}); break;
      case 5: summarise_backward(run, dout, {}, dstate); break;
      case 6: apply_dstate(run, dstate, state, gradients()); break;
      default: return 2;
    }
  }
  return 0;
} catch (const Error& error) {
  std::fprintf(stderr, "weft_linear: %s\n", error.what());
  return 1;
}

}  // extern "C"
