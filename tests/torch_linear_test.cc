// Linear layers as a differentiable torch operation, ranks as threads: results and all gradients against the recurrence token
// by token in torch operators, in fp64, over methods and ranks; what is refused.
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "tests/tensors.h"
#include "weft/base/error.h"
#include "weft/methods/registry.h"
#include "weft/torch/attention.h"
#include "weft/torch/testing.h"
#include "weft/transport/run_threads.h"
#include "weft/transport/thread_transport.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

constexpr int64_t kHeads = 2, kDim = 3, kDimV = 6;

at::Tensor random(std::vector<int64_t> sizes) { return at::randn(sizes, at::kDouble); }
at::Tensor unit(const at::Tensor& t) { return t.div(t.pow(2).sum(-1, true).sqrt()); }

LinearInputs inputs_of(Layer layer, int64_t tokens, int64_t documents, int64_t householders = 1,
                       int64_t key_heads = kHeads) {
  const auto rows = [&](int64_t columns) { return random({tokens, kHeads, columns}); };
  LinearInputs in{.q = random({tokens, key_heads, kDim}), .k = random({tokens, key_heads, kDim}), .v = rows(kDimV)};
  if (has_gates(layer)) in.g = at::log_sigmoid(rows(decay_of(layer) == Decay::channel ? kDim : 1));
  if (traits_of(layer).mixing == Mixing::delta) in.k = unit(in.k), in.beta = at::sigmoid(rows(householders)).mul(2);
  if (householders > 1) {
    in.k = unit(random({tokens, key_heads, householders, kDim})).flatten(2);
    in.v = rows(householders * kDimV);
  }
  if (traits_of(layer).mixing == Mixing::low_rank) in.a = unit(rows(kDim)), in.b = in.a.mul(at::sigmoid(rows(1))).neg();
  if (const int64_t blocks = column_blocks(layer); blocks > 0) in.a = rows(blocks * kDimV).tanh().div(blocks);
  if (traits_of(layer).bonus) in.u = random({kHeads, kDim});
  in.initial_state = random({documents, kHeads, kDim, kDimV});
  return in;
}

constexpr at::Tensor LinearInputs::*kMembers[] = {&LinearInputs::q, &LinearInputs::k,    &LinearInputs::v,
                                                  &LinearInputs::g, &LinearInputs::beta, &LinearInputs::a,
                                                  &LinearInputs::b, &LinearInputs::u,    &LinearInputs::initial_state};

struct Case {
  Layer layer;
  std::string method, layout = {};
  std::vector<int64_t> lengths;
  int ranks;
  int64_t householders = 1, key_heads = kHeads;
};

Problem problem_of(const Case& c) {
  Problem problem = self_attention(Mask::documents(c.lengths, {.causal = true}),
                                   choose_layout(c.layout, c.method, c.lengths, c.ranks, {}), kHeads, kHeads, kDim);
  problem.layer = c.layer;
  if (decay_of(c.layer) == Decay::constant) problem.log_decay = retnet_log_decays(kHeads);
  problem.dim_v = kDimV;
  problem.householders = c.householders, problem.key_heads = c.key_heads;
  problem.backward = problem.initial_states = problem.final_states = true;
  problem.element = problem.wire = DType::fp64;
  return problem;
}

// The rows of a field that a rank has.
at::Tensor rows_of(const Problem& problem, const at::Tensor& whole, at::Tensor LinearInputs::*member, int rank) {
  if (member == &LinearInputs::u) return whole;
  std::vector<int64_t> rows = problem.query_layout.positions(rank);
  if (member == &LinearInputs::initial_state) {
    const std::vector<int64_t> tokens = rows;
    rows.clear();
    const auto bands = problem.mask.bands();
    for (size_t n = 0; n < bands.size(); ++n) {
      if (std::count(tokens.begin(), tokens.end(), bands[n].q.begin)) rows.push_back(static_cast<int64_t>(n));
    }
  }
  return whole.index_select(0, at::tensor(rows, at::kLong));
}

void compare(const Case& c) {
  SCOPED_TRACE(std::string(name_of(c.layer)) + " " + c.method + " ranks " + std::to_string(c.ranks));
  const Problem problem = problem_of(c);
  const Schedule schedule = make_schedule(c.method, problem);
  verify_or_throw(schedule);
  LinearInputs whole =
      inputs_of(c.layer, problem.mask.queries(), static_cast<int64_t>(c.lengths.size()), c.householders, c.key_heads);
  for (const auto member : kMembers) {
    if ((whole.*member).defined()) (whole.*member).requires_grad_(true);
  }
  // The gradient of a sum is one number everywhere: rows that are one row.
  const LinearResult want = linear_token_loop(problem, c.lengths, whole);
  want.out.sum().add(want.final_state.sum()).backward();

  std::vector<at::Tensor> du(static_cast<size_t>(c.ranks));
  ThreadTransport transport(c.ranks);
  run_threads(transport, [&](int rank) {
    BufferPool pool;
    const auto executor =
        std::make_shared<Executor>(schedule, rank, transport.endpoint(rank), kernels::reference_kernels(), pool);
    LinearInputs mine;
    for (const auto member : kMembers) {
      const at::Tensor& t = whole.*member;
      if (t.defined()) mine.*member = rows_of(problem, t.detach(), member, rank).clone().requires_grad_(true);
    }
    const LinearResult got = linear_attention(mine, executor);
    EXPECT_LT(distance(got.out, rows_of(problem, want.out.detach(), &LinearInputs::q, rank)), 1e-11);
    got.out.sum().add(got.final_state.sum()).backward();
    for (const auto member : kMembers) {
      if (!(mine.*member).defined()) continue;
      const at::Tensor grad = (mine.*member).grad();
      if (member == &LinearInputs::u) {
        du[static_cast<size_t>(rank)] = grad;
      } else {
        EXPECT_LT(distance(grad, rows_of(problem, (whole.*member).grad(), member, rank)), 1e-10)
            << "input " << &member - kMembers;
      }
    }
  });
  if (whole.u.defined()) {
    EXPECT_LT(distance(at::stack(du, 0).sum(0), whole.u.grad()), 1e-10);
  }
}

TEST(LinearAttention, EveryLayerAgainstTheTokenLoop) {
  for (const std::string_view name : linear_layer_names()) {
    for (const int ranks : {1, 2, 3}) compare({layer_of(name), "all-scan", {}, {7, 1, 20, 5}, ranks});
  }
}

TEST(LinearAttention, Householders) {
  for (const Layer layer : {Layer::deltanet, Layer::gdn, Layer::kda})
    compare({layer, "log-step", {}, {7, 1, 20, 5}, 3, 2});
}

TEST(LinearAttention, HeadsThatShareQueriesAndKeys) {
  for (const Method* method : linear_methods()) {
    compare({Layer::mamba2, std::string(method->name), {}, {7, 1, 20, 5}, 3, 1, 1});
    compare({Layer::gdn, std::string(method->name), {}, {7, 1, 20, 5}, 2, 2, 1});
  }
}

TEST(LinearAttention, EveryMethodAndItsLayouts) {
  for (const Method* method : linear_methods()) {
    compare({Layer::gdn, std::string(method->name), {}, {23, 4}, 3});
    compare({Layer::rwkv6, std::string(method->name), {}, {2}, 4});  // ranks without tokens
    if (method->name != "head-exchange") compare({Layer::gla, std::string(method->name), "zigzag", {31}, 2});
  }
}

TEST(LinearAttention, RowsThatAreOneRowAndGradientsOfSome) {
  const Case c{Layer::mamba2, "chain", {}, {12}, 1};
  const Problem problem = problem_of(c);
  const Schedule schedule = make_schedule(c.method, problem);
  ThreadTransport transport(1);
  run_threads(transport, [&](int) {
    BufferPool pool;
    const auto executor =
        std::make_shared<Executor>(schedule, 0, transport.endpoint(0), kernels::reference_kernels(), pool);
    LinearInputs in = inputs_of(c.layer, 12, 1);
    in.g = in.g.narrow(0, 0, 1).expand({12, kHeads, 1});
    in.v = in.v.transpose(1, 2).contiguous().transpose(1, 2);
    EXPECT_LT(distance(linear_attention(in, executor).out, linear_token_loop(problem, c.lengths, in).out), 1e-12);
    EXPECT_FALSE(linear_attention(in, executor).out.requires_grad());
    in.k.requires_grad_(true);
    linear_attention(in, executor).out.sum().backward();
    const at::Tensor grad = in.k.grad().clone();
    in.k.mutable_grad() = at::Tensor();
    linear_token_loop(problem, c.lengths, in).out.sum().backward();
    EXPECT_LT(distance(grad, in.k.grad()), 1e-12);
  });
}

TEST(LinearAttention, WhatDoesNotFitIsRefused) {
  const Case c{Layer::gdn, "chain", {}, {12}, 1};
  const Schedule schedule = make_schedule(c.method, problem_of(c));
  ThreadTransport transport(1);
  run_threads(transport, [&](int) {
    BufferPool pool;
    const auto executor =
        std::make_shared<Executor>(schedule, 0, transport.endpoint(0), kernels::reference_kernels(), pool);
    const auto refusal = [&](const std::function<void(LinearInputs&)>& change) -> std::string {
      LinearInputs in = inputs_of(c.layer, 12, 1);
      change(in);
      try {
        linear_attention(in, executor);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::usage);
        return error.what();
      }
      return "";
    };
    EXPECT_EQ(refusal([](LinearInputs&) {}), "");
    EXPECT_EQ(refusal([](LinearInputs& in) { in.beta = at::Tensor(); }),
              "linear_attention: beta is missing; this rank's plan needs [12, 2, 1] of fp64 on the CPU");
    EXPECT_EQ(refusal([](LinearInputs& in) {
                in.u = at::zeros({kHeads, kDim}, at::kDouble);
              }),
              "linear_attention: layer gdn has no u; leave it out");
    EXPECT_EQ(refusal([](LinearInputs& in) { in.v = in.q; }),
              "linear_attention: v is [12, 2, 3] of Double; this rank's plan needs [12, 2, 6] of fp64 on the CPU");
    EXPECT_NE(refusal([](LinearInputs& in) { in.g = in.g.neg(); }).find("at most 0"), std::string::npos);
  });
}

}  // namespace
}  // namespace weft
