// For tests of nonlinear recurrent networks: one case as plain data, the cells token by token, and the operation over ranks as
// threads.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "weft/methods/registry.h"
#include "weft/torch/para_rnn.h"
#include "weft/transport/run_threads.h"
#include "weft/transport/thread_transport.h"
#include "weft/verify/verify.h"

namespace weft {

inline constexpr int64_t kRnnChannels = 6;

struct RnnCase {
  RnnCell cell = RnnCell::gru;
  std::vector<int64_t> documents = {23};
  int ranks = 1;
  std::string method = "log-step", layout = {};
  int64_t heads = 1;
  bool initial = false;
  NewtonOptions options = {};

  int64_t tokens() const { return std::accumulate(documents.begin(), documents.end(), int64_t{0}); }
  std::string describe() const {
    return std::string(name_of(cell)) + " " + method + " '" + layout + "', ranks " + std::to_string(ranks) +
           ", heads " + std::to_string(heads) + (initial ? ", initial states" : "");
  }
  Problem problem(at::ScalarType type) const {
    Problem made = self_attention(Mask::documents(documents, {.causal = true}),
                                  choose_layout(layout, method, documents, ranks, {}), heads, heads, 1);
    made.layer = cell == RnnCell::gru ? Layer::elementwise : Layer::pairwise;
    made.dim_v = state_rows(cell) * kRnnChannels / heads;
    made.backward = true;
    made.element = type == at::kDouble ? DType::fp64 : DType::fp32;
    made.wire = made.accumulator();
    return made;
  }
};

struct RnnTensors {
  at::Tensor x, a, peephole, initial;
  std::vector<at::Tensor*> all() { return {&x, &a, &peephole, &initial}; }
};
inline RnnTensors random_inputs(const RnnCase& c, at::ScalarType type = at::kDouble) {
  RnnTensors t{at::randn({c.tokens(), 3, kRnnChannels}, type), at::randn({3, kRnnChannels}, type), {}, {}};
  if (c.cell == RnnCell::lstm) t.peephole = at::randn({2, kRnnChannels}, type);
  if (c.initial) {
    t.initial = at::randn({static_cast<int64_t>(c.documents.size()), state_rows(c.cell), kRnnChannels}, type).mul(1.5);
  }
  return t;
}

// The equations, a token at a time.
inline std::pair<at::Tensor, at::Tensor> token_loop(const RnnCase& c, const RnnTensors& in) {
  std::vector<at::Tensor> outs, finals;
  int64_t t = 0;
  for (size_t n = 0; n < c.documents.size(); ++n) {
    const at::Tensor zero = at::zeros({kRnnChannels}, in.x.options().requires_grad(false));
    const auto given = [&](int64_t row) {
      return in.initial.defined() ? in.initial[static_cast<int64_t>(n)][row] : zero;
    };
    const bool gru = c.cell == RnnCell::gru;
    at::Tensor cell = given(0), h = given(gru ? 0 : 1);
    for (const int64_t end = t + c.documents[n]; t < end; ++t) {
      const auto gate = [&](int64_t i, const at::Tensor& read) { return in.a[i] * read + in.x[t][i]; };
      if (gru) {
        const at::Tensor z = gate(0, h).sigmoid(), r = gate(1, h).sigmoid();
        h = z * gate(2, h * r).tanh() + (1 - z) * h;
      } else {
        const at::Tensor f = (gate(0, h) + in.peephole[0] * cell).sigmoid();
        cell = f * cell + (1 - f) * gate(2, h).tanh();
        h = (gate(1, h) + in.peephole[1] * cell).sigmoid() * cell.tanh();
      }
      outs.push_back(h);
    }
    finals.push_back(gru ? h.unsqueeze(0) : at::stack({cell, h}));
  }
  return {at::stack(outs), at::stack(finals)};
}

struct RnnRun {
  at::Tensor out, final_state;
  RnnTensors gradients;
  int iterations = 0;
};

// Over all ranks, with gradients from dout and dfinal.
inline RnnRun over_ranks(const RnnCase& c, const RnnTensors& in, const at::Tensor& dout, const at::Tensor& dfinal) {
  const Problem problem = c.problem(in.x.scalar_type());
  const Schedule schedule = make_schedule(c.method, problem);
  verify_or_throw(schedule);
  const Halo halo = make_halo(c.documents, problem.query_layout, 2);
  verify_halo(halo);
  const auto like = [](const at::Tensor& t) { return t.defined() ? at::zeros(t.sizes(), t.options()) : at::Tensor(); };
  RnnRun got{like(dout), like(dfinal), {like(in.x), {}, {}, like(in.initial)}, 0};
  std::vector<RnnRun> each(static_cast<size_t>(c.ranks));
  std::vector<at::Tensor> tokens(each.size()), begun(each.size()), ended(each.size());
  ThreadTransport transport(c.ranks);
  run_threads(transport, [&](int rank) {
    const auto r = static_cast<size_t>(rank);
    const std::vector<int64_t> positions = problem.query_layout.positions(rank);
    const auto documents_with = [&](bool first) {
      std::vector<int64_t> list;
      int64_t begin = 0;
      for (size_t n = 0; n < c.documents.size(); ++n) {
        const int64_t token = first ? begin : begin + c.documents[n] - 1;
        if (std::count(positions.begin(), positions.end(), token)) list.push_back(static_cast<int64_t>(n));
        begin += c.documents[n];
      }
      return at::tensor(list, at::kLong);
    };
    tokens[r] = at::tensor(positions, at::kLong), begun[r] = documents_with(true), ended[r] = documents_with(false);
    BufferPool pool;
    const ScheduledSequence ranks(
        std::make_shared<Executor>(schedule, rank, transport.endpoint(rank), kernels::reference_kernels(), pool),
        std::make_shared<HaloExchange>(halo, rank, transport.endpoint(rank)));
    const auto leaf = [](const at::Tensor& t) {
      return t.defined() ? t.detach().clone().requires_grad_(true) : at::Tensor();
    };
    RnnTensors mine{leaf(in.x.index_select(0, tokens[r])), leaf(in.a), leaf(in.peephole),
                    in.initial.defined() ? leaf(in.initial.index_select(0, begun[r])) : at::Tensor()};
    const RnnResult result = para_rnn(
        c.cell, {.x = mine.x, .parameters = {mine.a, mine.peephole}, .initial_state = mine.initial}, ranks, c.options);
    const at::Tensor loss = (result.out * dout.index_select(0, tokens[r])).sum() +
                            (result.final_state * dfinal.index_select(0, ended[r])).sum();
    loss.backward();
    const auto grad = [](const at::Tensor& t) { return t.defined() ? t.grad() : at::Tensor(); };
    each[r] = {result.out.detach(),
               result.final_state.detach(),
               {grad(mine.x), grad(mine.a), grad(mine.peephole), grad(mine.initial)},
               result.iterations};
  });
  std::vector<at::Tensor> da, dp;
  for (size_t r = 0; r < each.size(); ++r) {
    got.out.index_copy_(0, tokens[r], each[r].out);
    got.final_state.index_copy_(0, ended[r], each[r].final_state);
    got.gradients.x.index_copy_(0, tokens[r], each[r].gradients.x);
    if (in.initial.defined()) got.gradients.initial.index_copy_(0, begun[r], each[r].gradients.initial);
    da.push_back(each[r].gradients.a), dp.push_back(each[r].gradients.peephole);
    got.iterations = each[r].iterations;
    EXPECT_EQ(each[r].iterations, each[0].iterations);
  }
  got.gradients.a = at::stack(da).sum(0);
  if (in.peephole.defined()) got.gradients.peephole = at::stack(dp).sum(0);
  return got;
}

}  // namespace weft
