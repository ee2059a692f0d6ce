// Segment-recurrent models by cells: sequential, in groups and over ranks as threads, against cell after cell and token after token
// of the memory's formulas in torch operators; results and all gradients in fp64.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/tensors.h"
#include "weft/base/error.h"
#include "weft/mask/testing.h"
#include "weft/torch/segment_run.h"
#include "weft/transport/run_threads.h"
#include "weft/transport/thread_transport.h"

namespace weft {
namespace {

constexpr int64_t kChannels = 5, kKeyDim = 4, kTokens = 7, kMemoryTokens = 3, kNu = 3;
constexpr double kSmallest = 1e-5;
[[maybe_unused]] const bool one_thread = (at::set_num_threads(1), true);  // each rank is one

using Tensors = std::vector<at::Tensor>;

// x; query, key, value and write of the memory; a and b of the layers. Most rows have features in common: where k . z is near
// 1e-5, rounding would grow as much.
Tensors random_model(int64_t segments, int64_t layers, at::ScalarType type = at::kDouble) {
  const auto random = [&](std::vector<int64_t> sizes, double mean, double size) {
    return at::randn(sizes, type).mul(size).add(mean);
  };
  return {random({segments, kTokens, kChannels}, 1, 0.5), random({layers, kChannels, kKeyDim}, 0.3, 0.3),
          random({layers, kChannels, kKeyDim}, 0.3, 0.3), random({layers, kChannels, kChannels}, 0, 0.5),
          random({layers, kChannels, 1}, 0, 0.5),         random({layers, kChannels, kChannels}, 0, 0.3),
          random({layers, kChannels, kChannels}, 0, 0.3)};
}
Tensors leaves(const Tensors& of) {
  Tensors list;
  for (const at::Tensor& t : of) list.push_back(t.detach().clone().requires_grad_(true));
  return list;
}

// Rows of a length that does not grow from layer to layer.
at::Tensor bounded(const at::Tensor& x) { return x * 2 / (x.square().mean(-1, true) + 1).sqrt(); }

// Tokens mix, so that the order of rows counts.
at::Tensor run_stacked(const at::Tensor& x, const Tensors& weights) {
  return bounded(x + x.bmm(weights[0]).bmm(x.transpose(1, 2)).softmax(-1).bmm(x).bmm(weights[1]));
}

at::Tensor features_of(const at::Tensor& row) {
  std::vector<at::Tensor> y, features;
  for (const double sign : {1.0, -1.0}) {
    for (int64_t i = 0; i < kKeyDim; ++i) y.push_back((row[i] * sign).clamp_min(0));
  }
  const auto count = static_cast<int64_t>(y.size());
  for (int64_t j = 1; j <= kNu; ++j) {
    for (int64_t i = 0; i < count; ++i) {
      features.push_back(y[static_cast<size_t>(i)] * y[static_cast<size_t>((i - j + count) % count)]);
    }
  }
  return at::stack(features);
}

// One layer's memory, as the formulas say it, a row at a time.
struct PlainMemory {
  at::Tensor w, z;  // undefined before the first segment

  at::Tensor read(const at::Tensor& x, const at::Tensor& query) const {
    if (!w.defined()) return x;
    Tensors rows;
    for (int64_t t = 0; t < x.size(0); ++t) {
      const at::Tensor u = features_of((x[t].unsqueeze(1) * query).sum(0));
      rows.push_back(x[t] + (u.unsqueeze(1) * w).sum(0) / ((u * z).sum() + kSmallest));
    }
    return at::stack(rows);
  }
  void write(const at::Tensor& rows, const at::Tensor& key, const at::Tensor& value, const at::Tensor& beta) {
    at::Tensor dw = at::zeros({2 * kNu * kKeyDim, kChannels}, rows.options()),
               dz = at::zeros({2 * kNu * kKeyDim}, rows.options());
    for (int64_t t = 0; t < rows.size(0); ++t) {
      const auto times = [&](const at::Tensor& matrix) { return (rows[t].unsqueeze(1) * matrix).sum(0); };
      const at::Tensor k = features_of(times(key));
      at::Tensor missing = times(value), gain = at::ones({}, rows.options());
      if (w.defined()) {
        missing = missing - (k.unsqueeze(1) * w).sum(0) / ((k * z).sum() + kSmallest);
        gain = (1 - (k * z).sum() / ((k * k).sum() + kSmallest)).clamp(0, 1).detach();
      }
      const at::Tensor strength = 1 / (1 + (-times(beta)).exp());
      dw = dw + strength * k.unsqueeze(1) * missing;
      dz = dz + gain * k;
    }
    w = w.defined() ? w + dw : dw, z = z.defined() ? z + dz : dz;
  }
};

at::Tensor cell_after_cell(const Tensors& model) {
  const int64_t layers = model[1].size(0);
  std::vector<PlainMemory> memories(static_cast<size_t>(layers));
  Tensors outs;
  for (const at::Tensor& segment : model[0].unbind()) {
    at::Tensor x = segment;
    for (int64_t l = 0; l < layers; ++l) {
      PlainMemory& memory = memories[static_cast<size_t>(l)];
      x = memory.read(x, model[1][l]);
      x = bounded(x + x.matmul(model[5][l]).matmul(x.t()).softmax(-1).matmul(x).matmul(model[6][l]));
      memory.write(x.narrow(0, kTokens - kMemoryTokens, kMemoryTokens), model[2][l], model[3][l], model[4][l]);
    }
    outs.push_back(x);
  }
  return at::stack(outs);
}

SegmentLayers layers_of(const Tensors& model) {
  return {.run = run_stacked,
          .weights = {model[5], model[6]},
          .memory = {model[1], model[2], model[3], model[4]},
          .tokens = kTokens,
          .memory_tokens = kMemoryTokens,
          .nu = kNu};
}

struct Results {
  at::Tensor out;
  Tensors gradients;  // of the model; undefined where `frozen`
};
Results over_ranks(const Tensors& model, const at::Tensor& dout, int ranks, CellOrder order, size_t frozen = 0) {
  const auto schedule = std::make_shared<CellSchedule>(make_cells(model[0].size(0), model[1].size(0), ranks, order));
  verify_cells(*schedule);
  Results all;
  std::vector<Tensors> each(static_cast<size_t>(ranks));
  ThreadTransport transport(ranks);
  run_threads(transport, [&](int rank) {
    const Range block = schedule->blocks[static_cast<size_t>(rank)];
    Tensors mine{model[0]};
    for (size_t i = 1; i < model.size(); ++i) mine.push_back(model[i].narrow(0, block.begin, block.size()));
    mine = leaves(mine);
    if (frozen > 0) mine[frozen].requires_grad_(false);
    const at::Tensor out =
        run_segments(rank == 0 ? mine[0] : at::Tensor(), layers_of(mine), schedule, transport.endpoint(rank));
    if (rank + 1 == ranks) {
      all.out = out.detach();
      out.backward(dout);
    } else {
      EXPECT_EQ(out.size(0), 0);
      out.sum().backward();
    }
    for (const at::Tensor& t : mine) each[static_cast<size_t>(rank)].push_back(t.grad());
  });
  all.gradients.push_back(each[0][0]);
  for (size_t i = 1; i < model.size(); ++i) {
    Tensors parts;
    for (const Tensors& of : each) {
      if (of[i].defined()) parts.push_back(of[i]);
    }
    all.gradients.push_back(parts.empty() ? at::Tensor() : at::cat(parts));
  }
  return all;
}

// In times of the largest number, or of 1.
double relative_distance(const at::Tensor& a, const at::Tensor& b) {
  return distance(a, b) / std::max(1.0, b.abs().max().item<double>());
}

struct Sizes {
  int64_t segments, layers;
};
constexpr Sizes kSizes[] = {{1, 4}, {2, 5}, {4, 4}, {7, 3}, {3, 1}};  // segments fewer than layers, as many, more; one

TEST(SegmentRun, EveryOrderAgainstCellAfterCell) {
  for (const Sizes& sizes : kSizes) {
    const Tensors model = leaves(random_model(sizes.segments, sizes.layers));
    const at::Tensor want = cell_after_cell(model), dout = at::randn(want.sizes(), at::kDouble);
    want.backward(dout);
    for (const CellOrder order : {CellOrder::sequential, CellOrder::diagonal}) {
      for (int ranks = 1; ranks <= std::min<int64_t>(3, sizes.layers); ++ranks) {
        SCOPED_TRACE(std::to_string(sizes.segments) + " x " + std::to_string(sizes.layers) + ", ranks " +
                     std::to_string(ranks) + (order == CellOrder::diagonal ? ", diagonal" : ", sequential"));
        const Results got = over_ranks(model, dout, ranks, order);
        EXPECT_LT(relative_distance(got.out, want.detach()), 1e-12);
        for (size_t i = 0; i < model.size(); ++i) {
          const at::Tensor zeros = at::zeros(model[i].sizes(), at::kDouble);
          EXPECT_LT(relative_distance(got.gradients[i].defined() ? got.gradients[i] : zeros,
                                      model[i].grad().defined() ? model[i].grad() : zeros),
                    1e-11)
              << "input " << i;
        }
      }
    }
  }
}

// The control of the test above: alone, a segment gives the same only where it is the first.
TEST(SegmentRun, MemoryIsReadFromTheSecondSegmentOn) {
  const at::NoGradGuard no_gradients;
  const Tensors model = random_model(3, 4);
  const auto run = [&](const at::Tensor& x) {
    Tensors other = model;
    other[0] = x;
    const auto schedule = std::make_shared<CellSchedule>(make_cells(x.size(0), 4, 1, CellOrder::diagonal));
    ThreadTransport transport(1);
    return run_segments(x, layers_of(other), schedule, transport.endpoint(0));
  };
  const at::Tensor all = run(model[0]);
  EXPECT_LT(relative_distance(all, cell_after_cell(model)), 1e-12);
  EXPECT_LT(relative_distance(run(model[0].narrow(0, 0, 1))[0], all[0]), 1e-12);
  for (const int64_t n : {1, 2}) EXPECT_GT(relative_distance(run(model[0].narrow(0, n, 1))[0], all[n]), 1e-3);
}

TEST(SegmentRun, FrozenWeightsHaveNoGradientAndChangeNoOther) {
  const Tensors model = random_model(4, 5);
  const at::Tensor dout = at::randn(model[0].sizes(), at::kDouble);
  const Results want = over_ranks(model, dout, 2, CellOrder::diagonal);
  for (const size_t frozen : {size_t{2}, size_t{5}}) {
    const Results got = over_ranks(model, dout, 2, CellOrder::diagonal, frozen);
    for (size_t i = 0; i < model.size(); ++i) {
      if (i == frozen) {
        EXPECT_FALSE(got.gradients[i].defined());
      } else {
        EXPECT_LT(relative_distance(got.gradients[i], want.gradients[i]), 1e-13) << "input " << i;
      }
    }
  }
}

TEST(SegmentRun, Fp32) {
  const Tensors model = random_model(5, 4, at::kFloat);
  Tensors wide;
  for (const at::Tensor& t : model) wide.push_back(t.to(at::kDouble));
  const Results got = over_ranks(model, at::randn(model[0].sizes(), at::kFloat), 2, CellOrder::diagonal);
  EXPECT_EQ(got.out.scalar_type(), at::kFloat);
  EXPECT_LT(relative_distance(got.out.to(at::kDouble), cell_after_cell(wide)), 1e-3);
}

TEST(SegmentRun, WhatDoesNotFitIsRefused) {
  const auto schedule = std::make_shared<CellSchedule>(make_cells(3, 2, 1, CellOrder::diagonal));
  const Tensors model = leaves(random_model(3, 2));
  const auto call = [&](const std::function<void(Tensors&, SegmentLayers&)>& change) {
    ThreadTransport transport(1);
    Tensors tensors = model;
    SegmentLayers layers = layers_of(model);
    change(tensors, layers);
    return refusal([&] { run_segments(tensors[0], layers, schedule, transport.endpoint(0)); });
  };
  const std::string who = "run_segments: ";
  EXPECT_EQ(call([](Tensors& t, SegmentLayers&) { t[0] = t[0].narrow(0, 0, 2); }),
            who + "x is [2, 7, 5] of Double; here it is [3, 7, 5] of Double");
  EXPECT_EQ(call([](Tensors&, SegmentLayers& l) { l.memory.value = l.memory.key; }),
            who + "memory.value is [2, 5, 4] of Double; here it is [2, 5, 5] of Double");
  EXPECT_EQ(call([](Tensors&, SegmentLayers& l) { l.memory.write = at::Tensor(); }),
            who + "memory.write is missing; here it is [2, 5, 1] of Double");
  EXPECT_EQ(call([](Tensors&, SegmentLayers& l) { l.weights[1] = l.weights[1].narrow(0, 0, 1); }),
            who + "weights are of this rank's 2 layers, one each in dimension 0, and of Double");
  EXPECT_EQ(call([](Tensors&, SegmentLayers& l) { l.memory_tokens = 8; }),
            who +
                "7 tokens, 8 memory tokens, nu 3; give at least 1 memory token, as many tokens, nu of 1, and a "
                "function to run");
  EXPECT_EQ(call([](Tensors&, SegmentLayers& l) {
              l.run = [](const at::Tensor& x, const Tensors&) { return x.narrow(1, 0, 6); };
            }),
            who + "the layers made [1, 6, 5] of Double from [1, 7, 5] of Double; give back the shape and type of x");
  ThreadTransport two(2);
  EXPECT_EQ(refusal([&] { run_segments(model[0], layers_of(model), schedule, two.endpoint(0)); }),
            who + "a schedule of 1 ranks on 2; make it for as many");
}

// The others wait for its activations, or for its gradients.
TEST(SegmentRun, AFailureOnOneRankStopsAll) {
  const auto schedule = std::make_shared<CellSchedule>(make_cells(4, 3, 3, CellOrder::diagonal));
  const Tensors model = random_model(4, 3);
  for (const int calls_before : {0, 3}) {
    ThreadTransport transport(3);
    EXPECT_EQ(refusal([&] {
                run_threads(transport, [&](int rank) {
                  Tensors mine{model[0]};
                  for (size_t i = 1; i < model.size(); ++i) mine.push_back(model[i].narrow(0, rank, 1));
                  mine = leaves(mine);
                  SegmentLayers layers = layers_of(mine);
                  int calls = 0;
                  layers.run = [&](const at::Tensor& x, const Tensors& weights) {
                    if (rank == 1 && calls++ == calls_before) throw Error(ErrorCode::usage, "this layer fails");
                    return run_stacked(x, weights);
                  };
                  const at::Tensor out =
                      run_segments(rank == 0 ? mine[0] : at::Tensor(), layers, schedule, transport.endpoint(rank));
                  out.sum().backward();
                });
              }),
              "this layer fails");
  }
}

TEST(SegmentRun, BackwardRunsOnce) {
  const auto schedule = std::make_shared<CellSchedule>(make_cells(3, 2, 1, CellOrder::diagonal));
  const Tensors model = leaves(random_model(3, 2));
  ThreadTransport transport(1);
  const at::Tensor loss = run_segments(model[0], layers_of(model), schedule, transport.endpoint(0)).sum();
  loss.backward({}, true);
  EXPECT_EQ(refusal([&] { loss.backward(); }),
            "run_segments: backward ran already, and its graph is gone; run forward again");
}

}  // namespace
}  // namespace weft
