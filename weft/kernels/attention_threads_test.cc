// A pool of threads changes nothing but the time: the same bits for every number of threads.
#include <gtest/gtest.h>

#include "weft/base/worker_pool.h"
#include "weft/kernels/testing.h"

namespace weft::kernels {
namespace {

// Queries enough for several pieces of work per head; two blocks that share queries.
AttentionCase large_case(int64_t heads, int64_t kv_heads) {
  AttentionCase c;
  Random random(11);
  c.q_rows = 3500, c.k_rows = 260;
  c.heads = heads, c.kv_heads = kv_heads;
  for (int64_t h = 0; h < heads; ++h) c.kv_head.push_back(static_cast<int32_t>(h * kv_heads / heads));
  c.dim = c.dim_v = 16;
  c.scale = 0.25;
  c.blocks = {{.band = {.q = {0, 3500}, .k = {0, 100}}},
              {.band = {.q = {0, 3300}, .k = {100, 260}, .lo = -3000, .hi = 150}, .kv_grad_row = 100},
              {.band = {.q = {3495, 3500}, .k = {100, 260}}, .out_row = 3495, .bundle_row = 3495, .kv_grad_row = 100}};
  const auto make = [&](int64_t rows, int64_t field_heads, int64_t columns) {
    Field field({rows, field_heads, columns}, DType::fp32);
    field.randomize(random);
    return field;
  };
  c.q = make(3500, heads, 16), c.dout = c.q, c.o = c.q, c.dq = c.q;
  c.k = make(260, kv_heads, 16), c.v = make(260, kv_heads, 16), c.dk = c.k, c.dv = c.v;
  c.lse = make(3500, heads, 1), c.delta = c.lse;
  c.bundle_lse = c.lse;
  c.bundle_lse.fill([](int64_t, int64_t, int64_t) { return 6.0; });
  return c;
}

class AttentionThreads : public testing::TestWithParam<std::string_view> {};
INSTANTIATE_TEST_SUITE_P(All, AttentionThreads, testing::ValuesIn(available_cpu_paths()),
                         [](const auto& param_info) { return std::string(param_info.param); });

TEST_P(AttentionThreads, TheSameBits) {
  const KernelSet& kernels = cpu_kernels(GetParam());
  for (const auto& [heads, kv_heads] : {std::pair{3, 3}, {2, 1}}) {
    AttentionCase alone = large_case(heads, kv_heads);
    const AttentionCase start = alone;
    kernels.attend(alone.forward());
    kernels.attend_backward(alone.backward());
    for (int threads : {1, 2, 5}) {
      WorkerPool pool(threads);
      AttentionCase shared = start;
      AttendArgs forward = shared.forward();
      AttendBackwardArgs backward = shared.backward();
      forward.pool = backward.pool = &pool;
      kernels.attend(forward);
      kernels.attend_backward(backward);
      EXPECT_EQ(shared.o.bytes, alone.o.bytes) << threads;
      EXPECT_EQ(shared.lse.bytes, alone.lse.bytes) << threads;
      EXPECT_EQ(shared.dq.bytes, alone.dq.bytes) << threads;
      EXPECT_EQ(shared.dk.bytes, alone.dk.bytes) << threads;
      EXPECT_EQ(shared.dv.bytes, alone.dv.bytes) << threads;
    }
  }
}

TEST_P(AttentionThreads, RaisedFlagStops) {
  WorkerPool pool(3);
  AttentionCase c = large_case(3, 1);
  StopFlag stop;
  stop.raise();
  AttendArgs forward = c.forward();
  AttendBackwardArgs backward = c.backward();
  forward.stop = backward.stop = &stop;
  forward.pool = backward.pool = &pool;
  EXPECT_THROW(cpu_kernels(GetParam()).attend(forward), Error);
  EXPECT_THROW(cpu_kernels(GetParam()).attend_backward(backward), Error);
}

}  // namespace
}  // namespace weft::kernels
