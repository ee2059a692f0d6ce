// Short convolution and token shift over ranks as threads: results and all gradients against torch's conv1d of each document, in
// fp64; the same bits for every number of ranks; documents apart, bit for bit; bytes that travel; what is refused.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "tests/tensors.h"
#include "weft/base/error.h"
#include "weft/base/test_level.h"
#include "weft/layout/testing.h"
#include "weft/torch/short_convolution.h"
#include "weft/torch/testing.h"
#include "weft/transport/run_threads.h"
#include "weft/transport/thread_transport.h"

namespace weft {
namespace {

constexpr int64_t kChannels = 5;
[[maybe_unused]] const bool one_thread = (at::set_num_threads(1), true);  // each rank is one

int64_t tokens_of(const std::vector<int64_t>& documents) {
  return std::accumulate(documents.begin(), documents.end(), int64_t{0});
}

at::Tensor local(const at::Tensor& whole, const Layout& layout, int rank) {
  return whole.index_select(0, at::tensor(layout.positions(rank), at::kLong));
}

// What travels is counted on the way.
class CountingEndpoint final : public Endpoint {
 public:
  CountingEndpoint(Endpoint& under, std::atomic<int64_t>& bytes, std::atomic<int64_t>& messages)
      : under_(under), bytes_(bytes), messages_(messages) {}
  int rank() const override { return under_.rank(); }
  int ranks() const override { return under_.ranks(); }
  std::unique_ptr<Pending> post(Transfer transfer) override {
    for (const OutgoingMessage& message : transfer.send) {
      ++messages_;
      for (const OutgoingPart& part : message.parts) bytes_ += part.bytes;
    }
    return under_.post(std::move(transfer));
  }
  void end_phase() override { under_.end_phase(); }
  void fail(std::exception_ptr error) noexcept override { under_.fail(std::move(error)); }
  void recall() noexcept override { under_.recall(); }
  const StopFlag& stop_flag() const override { return under_.stop_flag(); }
  double waiting_seconds() const override { return under_.waiting_seconds(); }

 private:
  Endpoint& under_;
  std::atomic<int64_t>&bytes_, &messages_;
};

struct Whole {
  at::Tensor x, weight, bias, dout;
};
struct Results {
  at::Tensor out, dx, dweight, dbias;
  int64_t bytes = 0, messages = 0;
};

// All ranks together; without a weight: token shift.
Results over_ranks(const Whole& given, const std::vector<int64_t>& documents, const Layout& layout, int64_t width) {
  const Halo halo = make_halo(documents, layout, width);
  verify_halo(halo);
  Results all{.out = at::zeros(given.x.sizes(), given.x.options()),
              .dx = at::zeros(given.x.sizes(), given.x.options()),
              .dweight = {},
              .dbias = {}};
  std::vector<at::Tensor> dweights(static_cast<size_t>(layout.ranks())), dbiases = dweights, outs = dweights,
                                                                         dxs = dweights;
  std::atomic<int64_t> bytes{0}, messages{0};
  ThreadTransport transport(layout.ranks());
  run_threads(transport, [&](int rank) {
    CountingEndpoint endpoint(transport.endpoint(rank), bytes, messages);
    const auto seat = std::make_shared<HaloExchange>(halo, rank, endpoint);
    const at::Tensor x = local(given.x, layout, rank).requires_grad_(true);
    const auto leaf = [](const at::Tensor& t) { return t.defined() ? t.clone().requires_grad_(true) : at::Tensor(); };
    const at::Tensor weight = leaf(given.weight), bias = leaf(given.bias);
    const at::Tensor out = weight.defined() ? short_convolution(x, weight, bias, seat) : token_shift(x, seat);
    out.backward(local(given.dout, layout, rank));
    const auto r = static_cast<size_t>(rank);
    outs[r] = out.detach(), dxs[r] = x.grad();
    if (weight.defined()) dweights[r] = weight.grad();
    if (bias.defined()) dbiases[r] = bias.grad();
  });
  for (int rank = 0; rank < layout.ranks(); ++rank) {
    const at::Tensor places = at::tensor(layout.positions(rank), at::kLong);
    all.out.index_copy_(0, places, outs[static_cast<size_t>(rank)]);
    all.dx.index_copy_(0, places, dxs[static_cast<size_t>(rank)]);
  }
  if (given.weight.defined()) all.dweight = at::stack(dweights).sum(0);
  if (given.bias.defined()) all.dbias = at::stack(dbiases).sum(0);
  all.bytes = bytes, all.messages = messages;
  return all;
}

Whole inputs(const std::vector<int64_t>& documents, int64_t width, at::ScalarType type = at::kDouble) {
  const int64_t tokens = tokens_of(documents);
  return {at::randn({tokens, kChannels}, type), at::randn({kChannels, width}, type), at::randn({kChannels}, type),
          at::randn({tokens, kChannels}, type)};
}

TEST(ShortConvolution, EveryLayoutAgainstConv1d) {
  const std::vector<std::vector<int64_t>> packings = {{29}, {1}, {3, 1, 1, 17, 2}, {1, 1, 1}, {12, 12, 12}};
  const bool all = test_level() > 1;
  constexpr int some[] = {3, 7, 1, 2};
  size_t round = 0;
  for (const std::vector<int64_t>& documents : packings) {
    for (const int64_t width : all ? std::vector<int64_t>{1, 2, 3, 4, 9} : std::vector<int64_t>{2, 4, 9}) {
      const Whole given = inputs(documents, width);
      const at::Tensor x = given.x.clone().requires_grad_(true), weight = given.weight.clone().requires_grad_(true),
                       bias = given.bias.clone().requires_grad_(true);
      const at::Tensor want = convolution_by_document(x, weight, bias, documents);
      want.backward(given.dout);
      for (const std::string_view name : layout_names()) {
        for (const int ranks : all ? std::vector<int>{1, 2, 3, 4, 7, 32} : std::vector<int>{some[++round % 4]}) {
          SCOPED_TRACE(std::string(name) + " ranks " + std::to_string(ranks) + " width " + std::to_string(width));
          const Layout layout = make_layout(name, documents, ranks);
          const Results got = over_ranks(given, documents, layout, width);
          EXPECT_LT(distance(got.out, want.detach()), 1e-12);
          EXPECT_LT(distance(got.dx, x.grad()), 1e-12);
          EXPECT_LT(distance(got.dweight, weight.grad()), 1e-11);
          EXPECT_LT(distance(got.dbias, bias.grad()), 1e-11);
          const Halo halo = make_halo(documents, layout, width);
          EXPECT_EQ(got.bytes, 2 * halo.rows() * kChannels * 8);
          EXPECT_EQ(got.messages, 2 * halo.messages());
        }
      }
    }
  }
}

TEST(ShortConvolution, AnyRunsInAnyOrder) {
  Random random(7);
  for (int round = 0; round < (test_level() > 1 ? 300 : 30); ++round) {
    const int64_t tokens = random.uniform(1, 60), width = random.uniform(2, 6);
    const std::vector<int64_t> documents = random_lengths(random, tokens);
    const Whole given = inputs(documents, width);
    const at::Tensor x = given.x.clone().requires_grad_(true);
    const at::Tensor want = convolution_by_document(x, given.weight, given.bias, documents);
    want.backward(given.dout);
    const int ranks = static_cast<int>(random.uniform(1, 6));
    const Results got =
        over_ranks(given, documents, Layout::from_runs(tokens, random_runs(random, tokens, ranks)), width);
    EXPECT_LT(distance(got.out, want.detach()), 1e-12);
    EXPECT_LT(distance(got.dx, x.grad()), 1e-12);
  }
}

TEST(ShortConvolution, TheSameBitsForEveryRankAndLayout) {
  const std::vector<int64_t> documents = {3, 1, 40, 2, 18};
  const Whole given = inputs(documents, 4, at::kFloat);
  const Results one = over_ranks(given, documents, Layout::contiguous(tokens_of(documents), 1), 4);
  for (const std::string_view name : layout_names()) {
    for (const int ranks : {3, 40}) {
      const Results many = over_ranks(given, documents, make_layout(name, documents, ranks), 4);
      EXPECT_TRUE(at::equal(many.out, one.out)) << name << " " << ranks;
    }
  }
}

TEST(ShortConvolution, TokenShiftMovesRows) {
  const std::vector<int64_t> documents = {3, 1, 1, 17, 2};
  Whole given = inputs(documents, 2);
  given.weight = given.bias = at::Tensor();
  given.x[5][0] = -0.0;
  given.x[6][1] = std::numeric_limits<double>::infinity();
  at::Tensor want = at::zeros(given.x.sizes(), given.x.options()), dx = want.clone();
  int64_t begin = 0;
  for (const int64_t length : documents) {
    want.narrow(0, begin + 1, length - 1).copy_(given.x.narrow(0, begin, length - 1));
    dx.narrow(0, begin, length - 1).copy_(given.dout.narrow(0, begin + 1, length - 1));
    begin += length;
  }
  for (const std::string_view name : layout_names()) {
    for (const int ranks : {1, 3, 7}) {
      const Results got = over_ranks(given, documents, make_layout(name, documents, ranks), 2);
      EXPECT_TRUE(at::equal(got.out, want)) << name << " " << ranks;
      EXPECT_TRUE(at::equal(got.dx, dx)) << name << " " << ranks;
    }
  }
}

// Other numbers, NaN too, in one document move no bit of the others.
TEST(ShortConvolution, DocumentsStayApart) {
  const std::vector<int64_t> documents = {6, 1, 30, 3};
  for (const std::string_view name : layout_names()) {
    for (const int ranks : {1, 5}) {
      const Layout layout = make_layout(name, documents, ranks);
      const Whole given = inputs(documents, 4, at::kFloat);
      Whole other = given;
      other.x = given.x.clone(), other.dout = given.dout.clone();
      other.x.narrow(0, 7, 30).fill_(std::numeric_limits<double>::quiet_NaN());
      other.dout.narrow(0, 7, 30).fill_(std::numeric_limits<double>::quiet_NaN());
      const Results before = over_ranks(given, documents, layout, 4), after = over_ranks(other, documents, layout, 4);
      for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 7}, {37, 3}}) {
        EXPECT_TRUE(at::equal(before.out.narrow(0, first, count), after.out.narrow(0, first, count))) << name;
        EXPECT_TRUE(at::equal(before.dx.narrow(0, first, count), after.dx.narrow(0, first, count))) << name;
      }
    }
  }
}

TEST(ShortConvolution, RowsTravelInTheirTypeAndGradientsInThatOfSums) {
  const std::vector<int64_t> documents = {40};
  const Layout layout = Layout::zigzag(40, 4);
  const Whole given = inputs(documents, 4, at::kBFloat16);
  const Results got = over_ranks(given, documents, layout, 4);
  EXPECT_EQ(got.bytes, 6 * 3 * kChannels * (2 + 4));
  const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble).requires_grad_(true); };
  const at::Tensor x = wide(given.x), weight = wide(given.weight), bias = wide(given.bias);
  const at::Tensor want = convolution_by_document(x, weight, bias, documents);
  want.backward(given.dout.to(at::kDouble));
  EXPECT_LT(distance(got.out.to(at::kDouble), want.detach()), 0.05);
  EXPECT_LT(distance(got.dx.to(at::kDouble), x.grad()), 0.05);
}

TEST(ShortConvolution, WhatDoesNotFitIsRefused) {
  const Halo halo = make_halo({8}, Layout::contiguous(8, 1), 3);
  ThreadTransport transport(1);
  run_threads(transport, [&](int) {
    const auto seat = std::make_shared<HaloExchange>(halo, 0, transport.endpoint(0));
    const at::Tensor x = at::zeros({8, 2}), weight = at::zeros({2, 3});
    EXPECT_NO_THROW(short_convolution(x, weight, {}, seat));
    EXPECT_EQ(
        refusal([&] {
          short_convolution(at::zeros({7, 2}), weight, {}, seat);
        }),
        "short_convolution: x is [7, 2] of Float; this rank's plan needs [8, channels] of a floating type on the CPU");
    EXPECT_EQ(refusal([&] {
                short_convolution(x, at::zeros({2, 4}), {}, seat);
              }),
              "short_convolution: weight is [2, 4]; for this x and plan it is [2, 3] (channels, width)");
    EXPECT_EQ(refusal([&] { short_convolution(x, weight, at::zeros({3}), seat); }),
              "short_convolution: bias is [3]; for this x it is [2]");
    EXPECT_EQ(refusal([&] { token_shift(x, seat); }), "token_shift: the plan is of width 3, not 2");
  });
}

}  // namespace
}  // namespace weft
