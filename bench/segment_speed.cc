// Diagonal Batching: a segment-recurrent model one cell at a time, in diagonal groups, and as a pipeline of two ranks.
//
//   segment_speed [SEGMENTS [LAYERS [TOKENS [CHANNELS]]]]      default 32 8 64 128
//
// One thread for each rank, fp32, forward and backward, the orders in turn; reported are the medians of five rounds and of the
// ratios within a round. A layer is attention within the segment and a feed-forward part, with 4 memory tokens.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "weft/base/error.h"
#include "weft/torch/segment_run.h"
#include "weft/transport/run_threads.h"
#include "weft/transport/thread_transport.h"

namespace {

using namespace weft;

struct Sizes {
  int64_t segments = 32, layers = 8, tokens = 64, channels = 128;
};
constexpr int64_t kMemoryTokens = 4, kKeyDim = 16;

at::Tensor normed(const at::Tensor& x) { return x / (x.square().mean(-1, true) + 1e-5).sqrt(); }

at::Tensor run_layers(const at::Tensor& x, const std::vector<at::Tensor>& weights) {
  const at::Tensor n = normed(x), q = n.bmm(weights[0]);
  const at::Tensor y = x + q.bmm(n.transpose(1, 2)).softmax(-1).bmm(n).bmm(weights[1]);
  return y + normed(y).bmm(weights[2]).relu().bmm(weights[3]);
}

// A rank's layers, all needing gradients.
SegmentLayers make_layers(const Sizes& s, int64_t layers) {
  const auto weight = [&](int64_t rows, int64_t columns) {
    return at::randn({layers, rows, columns}).div(static_cast<double>(s.channels)).requires_grad_(true);
  };
  const int64_t c = s.channels;
  return {.run = run_layers,
          .weights = {weight(c, c), weight(c, c), weight(c, 4 * c), weight(4 * c, c)},
          .memory = {weight(c, kKeyDim), weight(c, kKeyDim), weight(c, c), weight(c, 1)},
          .tokens = s.tokens,
          .memory_tokens = kMemoryTokens};
}

double seconds_of(const Sizes& s, int ranks, CellOrder order) {
  const auto schedule = std::make_shared<const CellSchedule>(make_cells(s.segments, s.layers, ranks, order));
  verify_cells(*schedule);
  ThreadTransport transport(ranks);
  std::vector<SegmentLayers> layers;
  for (const Range& block : schedule->blocks) layers.push_back(make_layers(s, block.size()));
  const at::Tensor segments = at::randn({s.segments, s.tokens, s.channels});
  const auto begin = std::chrono::steady_clock::now();
  run_threads(transport, [&](int rank) {
    at::set_num_threads(1);
    const at::Tensor x = rank == 0 ? segments : at::Tensor();
    run_segments(x, layers[static_cast<size_t>(rank)], schedule, transport.endpoint(rank)).sum().backward();
  });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void compare(const Sizes& s) {
  struct Way {
    const char* name;
    int ranks;
    CellOrder order;
    std::vector<double> seconds{}, ratios{};
  };
  std::vector<Way> ways{{"one cell at a time", 1, CellOrder::sequential},
                        {"diagonal groups", 1, CellOrder::diagonal},
                        {"pipeline of 2 ranks, one cell at a time", 2, CellOrder::sequential},
                        {"pipeline of 2 ranks, diagonal groups", 2, CellOrder::diagonal}};
  for (int round = -1; round < 5; ++round) {  // the first does not count
    for (Way& way : ways) {
      const double seconds = seconds_of(s, way.ranks, way.order);
      if (round < 0) continue;
      way.seconds.push_back(seconds);
      way.ratios.push_back(ways[0].seconds.back() / seconds);
    }
  }
  std::printf("%lld segments of %lld tokens, %lld layers of %lld channels, forward and backward\n",
              static_cast<long long>(s.segments), static_cast<long long>(s.tokens), static_cast<long long>(s.layers),
              static_cast<long long>(s.channels));
  for (const Way& way : ways) {
    std::printf("  %-42s %8.1f ms  %5.2f x\n", way.name, 1000 * median(way.seconds), median(way.ratios));
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Sizes s;
    int64_t* const sizes[] = {&s.segments, &s.layers, &s.tokens, &s.channels};
    for (int i = 1; i < argc && i <= 4; ++i) *sizes[i - 1] = std::max(1, std::atoi(argv[i]));
    s.tokens = std::max(s.tokens, kMemoryTokens);
    s.layers = std::max<int64_t>(s.layers, 2);
    compare(s);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "segment_speed: %s\n", error.what());
    return 2;
  }
}
