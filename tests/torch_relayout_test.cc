// Changes of layout over ranks as threads: every row where the new layout wants it, bit for bit, and gradients back at their tokens.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "weft/layout/testing.h"
#include "weft/torch/relayout_exchange.h"
#include "weft/transport/run_threads.h"
#include "weft/transport/thread_transport.h"

namespace weft {
namespace {

[[maybe_unused]] const bool one_thread = (at::set_num_threads(1), true);  // each rank is one

// Through `change` and back by the gradient, of all of x and dy.
void go_through(const Relayout& change, const at::Tensor& x, const at::Tensor& dy) {
  ThreadTransport transport(change.to.ranks());
  run_threads(transport, [&](int rank) {
    const at::Tensor before = row_indices(change.from.positions(rank)), after = row_indices(change.to.positions(rank));
    const auto seat = std::make_shared<RelayoutExchange>(change, rank, transport.endpoint(rank));
    const at::Tensor mine = x.index_select(0, before).t().contiguous().t().requires_grad_(true);
    const at::Tensor got = relayout(mine, seat);
    EXPECT_TRUE(at::equal(got.detach(), x.index_select(0, after)));
    got.backward(dy.index_select(0, after));
    EXPECT_TRUE(at::equal(mine.grad(), dy.index_select(0, before)));
  });
}

TEST(Relayout, EveryRowThereAndBack) {
  for (const std::vector<int64_t>& documents : {std::vector<int64_t>{23}, {3, 1, 1, 12, 2}, {1}}) {
    const int64_t tokens = std::accumulate(documents.begin(), documents.end(), int64_t{0});
    for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16}) {
      const at::Tensor x = at::randn({tokens, 3}).to(type), dy = at::randn({tokens, 3}).to(type);
      for (const std::string_view from : layout_names()) {
        for (const int ranks : {1, 3, 5}) {
          SCOPED_TRACE(std::string(from) + " ranks " + std::to_string(ranks));
          const Layout zigzag = Layout::zigzag(tokens, ranks), other = make_layout(from, documents, ranks);
          go_through(make_relayout(other, zigzag), x, dy);
          go_through(make_relayout(zigzag, other), x, dy);
        }
      }
    }
  }
}

TEST(Relayout, AnyRunsInAnyOrder) {
  Random random(2);
  for (int round = 0; round < 40; ++round) {
    const int64_t tokens = random.uniform(1, 60);
    const int ranks = static_cast<int>(random.uniform(1, 6));
    const auto any = [&] { return Layout::from_runs(tokens, random_runs(random, tokens, ranks)); };
    const Layout from = any();
    go_through(make_relayout(from, any()), at::randn({tokens, 2}), at::randn({tokens, 2}));
  }
}

TEST(Relayout, OtherRowsAreRefused) {
  const Relayout change = make_relayout(Layout::contiguous(8, 1), Layout::zigzag(8, 1));
  ThreadTransport transport(1);
  const auto seat = std::make_shared<RelayoutExchange>(change, 0, transport.endpoint(0));
  EXPECT_EQ(refusal([&] {
              relayout(at::randn({7, 2}), seat);
            }),
            "relayout: x is [7, 2] of Float; this rank has [8, columns] of a floating type on the CPU");
  EXPECT_THROW(relayout(at::randn({8}), seat), Error);
  EXPECT_THROW(relayout(at::randn({8, 2}).to(at::kInt), seat), Error);
}

}  // namespace
}  // namespace weft
