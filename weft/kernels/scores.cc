#include "weft/kernels/scores.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "weft/kernels/element.h"

namespace weft::kernels {
namespace {

template <typename Args>
void check(const Args& args) {
  WEFT_CHECK(args.heads >= 0 && static_cast<size_t>(args.heads) == args.kv_head.size());
}

void add_row(const View& to, int64_t row, int64_t head, const std::vector<double>& sum) {
  for (size_t c = 0; c < sum.size(); ++c) {
    const int64_t column = static_cast<int64_t>(c);
    store(to, row, head, column, load(to, row, head, column) + sum[c]);
  }
}

void add_scaled(std::vector<double>& sum, double factor, const ConstView& from, int64_t row, int64_t head) {
  for (size_t c = 0; c < sum.size(); ++c) sum[c] += factor * load(from, row, head, static_cast<int64_t>(c));
}

}  // namespace

void multiply_into_scores(const ProductArgs<ConstView, ConstView, View>& args) {
  check(args);
  for (const Block& block : args.blocks) {
    const BandRectangle& band = block.band;
    for (int64_t q = band.q.begin; q < band.q.end; ++q) {
      if (args.stop) args.stop->poll();
      for (int64_t head = 0; head < args.heads; ++head) {
        const int64_t kv_head = args.kv_head[static_cast<size_t>(head)];
        for (int64_t k = band.k.begin; k < band.k.end; ++k) {
          if (!band.contains(q, k)) continue;
          double sum = 0;
          for (int64_t c = 0; c < args.columns; ++c) {
            sum += load(args.queries, q, head, c) * load(args.keys, k, kv_head, c);
          }
          store(args.scores, block.out_row + (q - band.q.begin), head, block.kv_grad_row + (k - band.k.begin),
                args.scale * sum);
        }
      }
    }
  }
}

void multiply_into_queries(const ProductArgs<View, ConstView, ConstView>& args) {
  check(args);
  std::vector<double> sum(static_cast<size_t>(args.columns));
  for (const Block& block : args.blocks) {
    const BandRectangle& band = block.band;
    for (int64_t q = band.q.begin; q < band.q.end; ++q) {
      if (args.stop) args.stop->poll();
      for (int64_t head = 0; head < args.heads; ++head) {
        std::fill(sum.begin(), sum.end(), 0.0);
        for (int64_t k = band.k.begin; k < band.k.end; ++k) {
          if (!band.contains(q, k)) continue;
          const double score = load(args.scores, q, head, block.kv_grad_row + (k - band.k.begin));
          add_scaled(sum, args.scale * score, args.keys, k, args.kv_head[static_cast<size_t>(head)]);
        }
        add_row(args.queries, block.out_row + (q - band.q.begin), head, sum);
      }
    }
  }
}

void multiply_into_keys(const ProductArgs<ConstView, View, ConstView>& args) {
  check(args);
  std::vector<double> sum(static_cast<size_t>(args.columns));
  for (const Block& block : args.blocks) {
    const BandRectangle& band = block.band;
    for (int64_t k = band.k.begin; k < band.k.end; ++k) {
      if (args.stop) args.stop->poll();
      for (int64_t head = 0; head < args.heads; ++head) {
        std::fill(sum.begin(), sum.end(), 0.0);
        for (int64_t q = band.q.begin; q < band.q.end; ++q) {
          if (!band.contains(q, k)) continue;
          const int64_t row = block.out_row + (q - band.q.begin), column = block.kv_grad_row + (k - band.k.begin);
          add_scaled(sum, args.scale * load(args.scores, row, head, column), args.queries, q, head);
        }
        add_row(args.keys, k, args.kv_head[static_cast<size_t>(head)], sum);
      }
    }
  }
}

void softmax(View probs, View lse, ConstView scores, Shape shape) {
  constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
  for (int64_t row = 0; row < shape.rows; ++row) {
    for (int64_t head = 0; head < shape.heads; ++head) {
      double largest = kMinusInfinity, sum = 0;
      for (int64_t c = 0; c < shape.columns; ++c) largest = std::max(largest, load(scores, row, head, c));
      const bool any = largest != kMinusInfinity;
      for (int64_t c = 0; any && c < shape.columns; ++c) sum += std::exp(load(scores, row, head, c) - largest);
      for (int64_t c = 0; c < shape.columns; ++c) {
        store(probs, row, head, c, any ? std::exp(load(scores, row, head, c) - largest) / sum : 0);
      }
      store(lse, row, head, 0, any ? largest + std::log(sum) : kMinusInfinity);
    }
  }
}

void softmax_backward(View dscores, ConstView probs, ConstView dprobs, Shape shape) {
  for (int64_t row = 0; row < shape.rows; ++row) {
    for (int64_t head = 0; head < shape.heads; ++head) {
      double delta = 0;
      for (int64_t c = 0; c < shape.columns; ++c) delta += load(probs, row, head, c) * load(dprobs, row, head, c);
      for (int64_t c = 0; c < shape.columns; ++c) {
        store(dscores, row, head, c, load(probs, row, head, c) * (load(dprobs, row, head, c) - delta));
      }
    }
  }
}

}  // namespace weft::kernels
