// Gated associative memory over ranks as threads: results and all gradients against a token at a time of each document, in fp64, on
// every layout; documents apart; what is refused.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "tests/tensors.h"
#include "weft/base/error.h"
#include "weft/layout/testing.h"
#include "weft/torch/associative_memory.h"
#include "weft/transport/run_threads.h"
#include "weft/transport/thread_transport.h"

namespace weft {
namespace {

constexpr int64_t kChannels = 4, kSlots = 7, kWidth = 3;
[[maybe_unused]] const bool one_thread = (at::set_num_threads(1), true);  // each rank is one

// x, gates, taps, bias, memory, values; the last two may be one.
using Tensors = std::vector<at::Tensor>;

Tensors random_tensors(int64_t tokens, bool values) {
  const auto random = [](std::vector<int64_t> sizes) { return at::randn(sizes, at::kDouble); };
  Tensors all{random({tokens, kChannels}), random({tokens, 2 * kChannels}), random({kChannels, kWidth}),
              random({kChannels}), random({kSlots, kChannels})};
  if (values) all.push_back(random({kSlots, kChannels}));
  return all;
}
Tensors leaves(const Tensors& of) {
  Tensors list;
  for (const at::Tensor& t : of) list.push_back(t.detach().clone().requires_grad_(true));
  return list;
}

at::Tensor token_by_token(const Tensors& t, const std::vector<int64_t>& documents) {
  const at::Tensor &x = t[0], &memory = t[4], &values = t.back();
  std::vector<at::Tensor> rows;
  int64_t begin = 0;
  for (const int64_t length : documents) {
    for (int64_t i = begin; i < begin + length; ++i) {
      at::Tensor local = t[3];
      for (int64_t j = 0; j < kWidth; ++j) {
        const int64_t from = i - kWidth + 1 + j;
        if (from >= begin) local = local + t[2].select(1, j) * x[from];
      }
      const at::Tensor scores = (memory * x[i]).sum(1).exp();
      const at::Tensor found = (values * (scores / scores.sum()).unsqueeze(1)).sum(0);
      const auto gate = [&](int64_t first) { return 1 / (1 + (-t[1][i].narrow(0, first, kChannels)).exp()); };
      rows.push_back(gate(0) * local + gate(kChannels) * found);
    }
    begin += length;
  }
  return at::stack(rows);
}

struct Results {
  at::Tensor out;
  Tensors gradients;
};
Results over_ranks(const Tensors& given, const at::Tensor& dout, const std::vector<int64_t>& documents,
                   const Layout& layout) {
  const Halo halo = make_halo(documents, layout, kWidth);
  verify_halo(halo);
  Results all{at::zeros(dout.sizes(), dout.options()), {}};
  for (const at::Tensor& t : given) all.gradients.push_back(at::zeros(t.sizes(), t.options()));
  std::vector<Results> each(static_cast<size_t>(layout.ranks()));
  ThreadTransport transport(layout.ranks());
  run_threads(transport, [&](int rank) {
    const at::Tensor places = at::tensor(layout.positions(rank), at::kLong);
    const auto seat = std::make_shared<HaloExchange>(halo, rank, transport.endpoint(rank));
    Tensors mine = given;
    mine[0] = mine[0].index_select(0, places), mine[1] = mine[1].index_select(0, places);
    mine = leaves(mine);
    AssociativeWeights weights{.taps = mine[2], .bias = mine[3], .memory = mine[4]};
    if (mine.size() > 5) weights.values = mine[5];
    const at::Tensor out = gated_associative_memory(mine[0], mine[1], weights, seat);
    out.backward(dout.index_select(0, places));
    Results& result = each[static_cast<size_t>(rank)];
    result.out = out.detach();
    for (const at::Tensor& t : mine) result.gradients.push_back(t.grad());
  });
  for (int rank = 0; rank < layout.ranks(); ++rank) {
    const at::Tensor places = at::tensor(layout.positions(rank), at::kLong);
    const Results& result = each[static_cast<size_t>(rank)];
    all.out.index_copy_(0, places, result.out);
    for (size_t n = 0; n < given.size(); ++n) {
      if (n < 2) {
        all.gradients[n].index_copy_(0, places, result.gradients[n]);
      } else {
        all.gradients[n].add_(result.gradients[n]);
      }
    }
  }
  return all;
}

TEST(GatedAssociativeMemory, EveryLayoutTokenByToken) {
  for (const std::vector<int64_t>& documents : {std::vector<int64_t>{19}, {3, 1, 1, 12, 2}}) {
    const int64_t tokens = std::accumulate(documents.begin(), documents.end(), int64_t{0});
    for (const bool values : {false, true}) {
      const Tensors given = leaves(random_tensors(tokens, values));
      const at::Tensor dout = at::randn({tokens, kChannels}, at::kDouble), want = token_by_token(given, documents);
      want.backward(dout);
      for (const std::string_view name : layout_names()) {
        for (const int ranks : {1, 3, 5}) {
          SCOPED_TRACE(std::string(name) + " ranks " + std::to_string(ranks));
          const Results got = over_ranks(given, dout, documents, make_layout(name, documents, ranks));
          EXPECT_LT(distance(got.out, want.detach()), 1e-13);
          for (size_t n = 0; n < given.size(); ++n) {
            EXPECT_LT(distance(got.gradients[n], given[n].grad()), 1e-12) << "input " << n;
          }
        }
      }
    }
  }
}

// NaN in one document moves no bit of the others.
TEST(GatedAssociativeMemory, DocumentsStayApart) {
  const std::vector<int64_t> documents = {6, 1, 20, 3};
  const Tensors given = random_tensors(30, true);
  Tensors other = given;
  other[0] = given[0].clone();
  other[0].narrow(0, 7, 20).fill_(std::numeric_limits<double>::quiet_NaN());
  const at::Tensor dout = at::randn({30, kChannels}, at::kDouble);
  for (const std::string_view name : layout_names()) {
    const Layout layout = make_layout(name, documents, 4);
    const Results before = over_ranks(given, dout, documents, layout),
                  after = over_ranks(other, dout, documents, layout);
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 7}, {27, 3}}) {
      EXPECT_TRUE(at::equal(before.out.narrow(0, first, count), after.out.narrow(0, first, count))) << name;
      EXPECT_TRUE(at::equal(before.gradients[0].narrow(0, first, count), after.gradients[0].narrow(0, first, count)))
          << name;
    }
    EXPECT_TRUE(after.out.narrow(0, 7, 20).isnan().all().item<bool>());
  }
}

TEST(GatedAssociativeMemory, WhatDoesNotFitIsRefused) {
  const Halo halo = make_halo({8}, Layout::contiguous(8, 1), 3);
  ThreadTransport transport(1);
  run_threads(transport, [&](int) {
    const auto seat = std::make_shared<HaloExchange>(halo, 0, transport.endpoint(0));
    const auto refusal = [&](const std::function<void(Tensors&)>& change) -> std::string {
      Tensors t = random_tensors(8, true);
      change(t);
      try {
        gated_associative_memory(t[0], t[1], {.taps = t[2], .bias = t[3], .memory = t[4], .values = t[5]}, seat);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::usage);
        return error.what();
      }
      return "";
    };
    const std::string who = "gated_associative_memory: ";
    EXPECT_EQ(refusal([](Tensors&) {}), "");
    EXPECT_EQ(refusal([](Tensors& t) { t[1] = t[0]; }),
              who + "gates are [8, 4]; for this x they are [8, 8], local ones first");
    EXPECT_EQ(refusal([](Tensors& t) { t[4] = t[4].t(); }), who + "memory is [4, 7]; for this x it is [slots, 4]");
    EXPECT_EQ(refusal([](Tensors& t) { t[5] = t[5].narrow(0, 0, 3); }),
              who + "values are [3, 4]; for this memory they are [7, 4]");
    EXPECT_NE(refusal([](Tensors& t) { t[4] = t[4].to(at::kFloat); }).find("give all of one type"), std::string::npos);
    EXPECT_EQ(refusal([](Tensors& t) { t[2] = t[2].narrow(1, 0, 2); }),
              "short_convolution: weight is [4, 2]; for this x and plan it is [4, 3] (channels, width)");
  });
}

}  // namespace
}  // namespace weft
