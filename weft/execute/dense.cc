#include "weft/execute/dense.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>

#include "weft/base/error.h"

namespace weft {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

double round_to(DType type, double x) {
  const float narrow = static_cast<float>(x);
  switch (type) {
    case DType::fp64: return x;
    case DType::fp32: return narrow;
    case DType::bf16: return bf16_to_float(float_to_bf16(narrow));
    case DType::fp16: return fp16_to_float(float_to_fp16(narrow));
    default: break;
  }
  return x;
}

// The keys that each query sees, as ranges of positions.
std::vector<std::vector<Range>> keys_seen(const Mask& mask) {
  std::vector<std::vector<Range>> seen(static_cast<size_t>(mask.queries()));
  for (int64_t q = 0; q < mask.queries(); ++q) {
    for (const BandRectangle& band : mask.bands_meeting({q, q + 1}, {0, mask.keys()})) {
      if (!band.q.contains(q)) continue;
      const Range keys = intersect(band.k, {q + band.lo, q + band.hi + 1});
      if (!keys.empty()) seen[static_cast<size_t>(q)].push_back(keys);
    }
  }
  return seen;
}

// One head of a tensor [tokens, heads, columns], in the type of the sums.
template <typename Sum>
class HeadRows {
 public:
  HeadRows(const std::vector<double>& tensor, int64_t heads, int64_t head, int64_t columns) : columns_(columns) {
    const int64_t row = heads * columns;
    const int64_t tokens = static_cast<int64_t>(tensor.size()) / row;
    values_.reserve(static_cast<size_t>(tokens * columns));
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t c = 0; c < columns; ++c) {
        values_.push_back(static_cast<Sum>(tensor[static_cast<size_t>(t * row + head * columns + c)]));
      }
    }
  }
  HeadRows(int64_t tokens, int64_t columns)
      : columns_(columns), values_(static_cast<size_t>(tokens * columns), Sum(0)) {}

  Sum* operator[](int64_t row) { return values_.data() + row * columns_; }
  const Sum* operator[](int64_t row) const { return values_.data() + row * columns_; }
  // Writes it to its head of a tensor, rounded.
  void put(std::vector<double>& tensor, int64_t heads, int64_t head, DType type) const {
    const int64_t tokens = static_cast<int64_t>(values_.size()) / columns_;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t c = 0; c < columns_; ++c) {
        tensor[static_cast<size_t>((t * heads + head) * columns_ + c)] =
            round_to(type, values_[static_cast<size_t>(t * columns_ + c)]);
      }
    }
  }

 private:
  int64_t columns_;
  std::vector<Sum> values_;
};

template <typename Sum>
Sum dot(const Sum* a, const Sum* b, int64_t count) {
  Sum sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

template <typename Sum>
void add_scaled(Sum* to, Sum factor, const Sum* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] += factor * from[i];
}

// The work of one kv head and of the query heads that read it; nothing else touches its results.
template <typename Sum>
class KvHead {
 public:
  KvHead(const std::vector<std::vector<Range>>& seen, const DenseShape& shape, const DenseInputs& inputs,
         DType precision, DenseAttention& results, const StopFlag* stop)
      : seen_(seen), shape_(shape), inputs_(inputs), precision_(precision), results_(results), stop_(stop) {}

  void run(int64_t kv_head) {
    const HeadRows<Sum> k(inputs_.k, shape_.kv_heads, kv_head, shape_.dim);
    const HeadRows<Sum> v(inputs_.v, shape_.kv_heads, kv_head, shape_.dim_v);
    const int64_t keys = static_cast<int64_t>(inputs_.k.size()) / (shape_.kv_heads * shape_.dim);
    HeadRows<Sum> dk(keys, shape_.dim), dv(keys, shape_.dim_v);
    const int64_t group = shape_.heads / shape_.kv_heads;
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      query_head(head, k, v, dk, dv);
    }
    if (inputs_.dout.empty()) return;
    dk.put(results_.dk, shape_.kv_heads, kv_head, precision_);
    dv.put(results_.dv, shape_.kv_heads, kv_head, precision_);
  }

 private:
  Sum rounded(Sum x) const { return static_cast<Sum>(round_to(precision_, x)); }

  void query_head(int64_t head, const HeadRows<Sum>& k, const HeadRows<Sum>& v, HeadRows<Sum>& dk, HeadRows<Sum>& dv) {
    const int64_t queries = static_cast<int64_t>(seen_.size());
    const HeadRows<Sum> q(inputs_.q, shape_.heads, head, shape_.dim);
    HeadRows<Sum> out(queries, shape_.dim_v), dq(queries, shape_.dim);
    const bool backward = !inputs_.dout.empty();
    const HeadRows<Sum> dout =
        backward ? HeadRows<Sum>(inputs_.dout, shape_.heads, head, shape_.dim_v) : HeadRows<Sum>(0, shape_.dim_v);
    for (int64_t row = 0; row < queries; ++row) {
      if (stop_) stop_->poll();
      const double lse = forward_row(row, q[row], k, v, out[row]);
      results_.lse[static_cast<size_t>(row * shape_.heads + head)] = lse;
      if (backward) backward_row(row, q[row], k, v, out[row], dout[row], dq[row], dk, dv);
    }
    out.put(results_.out, shape_.heads, head, precision_);
    if (backward) dq.put(results_.dq, shape_.heads, head, precision_);
  }

  // Leaves the weights of the row in weights_.
  double forward_row(int64_t row, const Sum* q, const HeadRows<Sum>& k, const HeadRows<Sum>& v, Sum* out) {
    weights_.clear();
    Sum largest = static_cast<Sum>(kMinusInfinity);
    for_each_key(row, [&](int64_t key) {
      const Sum score = rounded(static_cast<Sum>(shape_.scale) * dot(q, k[key], shape_.dim));
      weights_.push_back(score);
      largest = std::max(largest, score);
    });
    if (weights_.empty()) return kMinusInfinity;
    Sum sum = 0;
    for (Sum& weight : weights_) sum += weight = std::exp(weight - largest);
    for (Sum& weight : weights_) weight = rounded(weight / sum);
    size_t n = 0;
    for_each_key(row, [&](int64_t key) { add_scaled(out, weights_[n++], v[key], shape_.dim_v); });
    for (int64_t c = 0; c < shape_.dim_v; ++c) out[c] = rounded(out[c]);
    return static_cast<double>(largest + std::log(sum));
  }

  void backward_row(int64_t row, const Sum* q, const HeadRows<Sum>& k, const HeadRows<Sum>& v, const Sum* out,
                    const Sum* dout, Sum* dq, HeadRows<Sum>& dk, HeadRows<Sum>& dv) {
    const Sum delta = dot(out, dout, shape_.dim_v);
    size_t n = 0;
    for_each_key(row, [&](int64_t key) {
      const Sum weight = weights_[n++];
      const Sum dweight = rounded(dot(dout, v[key], shape_.dim_v));
      const Sum dscore = static_cast<Sum>(shape_.scale) * rounded(weight * (dweight - delta));
      add_scaled(dq, dscore, k[key], shape_.dim);
      add_scaled(dk[key], dscore, q, shape_.dim);
      add_scaled(dv[key], weight, dout, shape_.dim_v);
    });
  }

  template <typename F>
  void for_each_key(int64_t row, F&& f) const {
    for (const Range& range : seen_[static_cast<size_t>(row)]) {
      for (int64_t key = range.begin; key < range.end; ++key) f(key);
    }
  }

  const std::vector<std::vector<Range>>& seen_;
  const DenseShape& shape_;
  const DenseInputs& inputs_;
  const DType precision_;
  DenseAttention& results_;
  const StopFlag* stop_;
  std::vector<Sum> weights_;
};

// Calls work(0), ..., work(count - 1), on as many threads as there are cores; rethrows the first error.
template <typename F>
void in_parallel(int64_t count, F&& work) {
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::exception_ptr error;
  const auto run = [&] {
    try {
      for (int64_t i; (i = next++) < count;) work(i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
      next = count;
    }
  };
  std::vector<std::thread> helpers;
  const int64_t cores = std::max(1u, std::thread::hardware_concurrency());
  for (int64_t i = 1; i < std::min(cores, count); ++i) helpers.emplace_back(run);
  run();
  for (std::thread& helper : helpers) helper.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace

DenseAttention dense_attention(const Mask& mask, const DenseShape& shape, const DenseInputs& inputs, DType precision,
                               const StopFlag* stop) {
  WEFT_CHECK(static_cast<int64_t>(inputs.q.size()) == mask.queries() * shape.heads * shape.dim);
  WEFT_CHECK(static_cast<int64_t>(inputs.k.size()) == mask.keys() * shape.kv_heads * shape.dim);
  WEFT_CHECK(static_cast<int64_t>(inputs.v.size()) == mask.keys() * shape.kv_heads * shape.dim_v);
  DenseAttention results;
  results.out.resize(static_cast<size_t>(mask.queries() * shape.heads * shape.dim_v));
  results.lse.resize(static_cast<size_t>(mask.queries() * shape.heads));
  if (!inputs.dout.empty()) {
    WEFT_CHECK(inputs.dout.size() == results.out.size());
    results.dq.resize(inputs.q.size());
    results.dk.resize(inputs.k.size());
    results.dv.resize(inputs.v.size());
  }
  const auto seen = keys_seen(mask);
  in_parallel(shape.kv_heads, [&](int64_t kv_head) {
    if (precision == DType::fp64) {
      KvHead<double>(seen, shape, inputs, precision, results, stop).run(kv_head);
    } else {
      KvHead<float>(seen, shape, inputs, precision, results, stop).run(kv_head);
    }
  });
  return results;
}

}  // namespace weft
