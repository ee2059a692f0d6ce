// The small operations around attention and matrix products: bytes a second, as a share of memcpy's in the same run.
//
//   fused_speed [MEGABYTES [PATH]]      of each operand (default 64, beyond the caches) and the processor's best path
//
// Every operation takes turns with memcpy of as many bytes; a share is the median over the pairs. Counted are the bytes that
// the operation must read and write, each once, and for memcpy those that it reads and those that it writes.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "bench/fma_peak.h"
#include "weft/base/random.h"
#include "weft/kernels/fused/fused.h"
#include "weft/kernels/kernels.h"

namespace {

using namespace weft;
using namespace weft::kernels;

double seconds_of(const std::function<void()>& work) {
  const double begin = bench::thread_seconds();
  work();
  return bench::thread_seconds() - begin;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// An operand: ordinary numbers of one type.
struct Array {
  DType type;
  std::vector<char> bytes;

  Array(int64_t count, DType t) : type(t), bytes(static_cast<size_t>(count * size_of(t))) {
    std::vector<float> some(4096);
    Random random(1);
    for (float& x : some) x = static_cast<float>(random.normal());
    for (int64_t i = 0; i < count; i += 4096) {
      const int64_t n = std::min<int64_t>(4096, count - i);
      cpu_kernels().convert({bytes.data() + i * size_of(t), t, n, n}, {some.data(), DType::fp32, n, n},
                            {.rows = 1, .heads = 1, .columns = n});
    }
  }
  Rows rows(int64_t columns) { return {bytes.data(), type, columns}; }
  View view(int64_t heads, int64_t columns) { return {bytes.data(), type, heads * columns, columns}; }
  double size() const { return static_cast<double>(bytes.size()); }
};

class Bench {
 public:
  Bench(int64_t megabytes, const KernelSet& kernels)
      : kernels_(kernels), fused_(kernels.fused()), count_(megabytes << 18), from_(count_, DType::fp32), to_(from_) {}

  void run() {
    for (const DType type : {DType::fp32, DType::bf16}) {
      attention(type);
      norms(type);
      rest(type);
    }
    Array weights(count_, DType::fp32), first = weights, second = weights, gradients = weights;
    measure("adamw", DType::fp32, 7 * weights.size(), [&] {
      const auto floats = [](Array& a) { return reinterpret_cast<float*>(a.bytes.data()); };
      fused_.adamw({floats(weights), floats(gradients), floats(first), floats(second), count_, 0.9f, 0.95f, 1e-8f, 1, 1,
                    1e-3f, 1});
    });
  }

 private:
  void attention(DType type) {
    const int64_t heads = 8, columns = 64, rows = count_ / (heads * columns);
    const Shape shape{rows, heads, columns};
    Array o(count_, DType::fp32), from(count_, type), lse(rows * heads, DType::fp32), other = lse, delta = lse;
    measure("merge", type, 2 * o.size() + from.size() + 3 * lse.size(), [&] {
      kernels_.merge(o.view(heads, columns), lse.view(heads, 1), from.view(heads, columns), other.view(heads, 1),
                     shape);
    });
    measure("delta", type, o.size() + from.size() + delta.size(), [&] {
      kernels_.prepare_backward(delta.view(heads, 1), o.view(heads, columns), from.view(heads, columns), {}, shape);
    });
    measure("finish", type, o.size() + from.size() + 2 * lse.size(), [&] {
      kernels_.finish(from.view(heads, columns), other.view(heads, 1), o.view(heads, columns), lse.view(heads, 1),
                      shape);
    });
  }

  void norms(DType type) {
    const int64_t columns = 1024, rows = count_ / columns;
    Array x(count_, type), y(count_, type), dx(count_, type), residual(count_, type);
    std::vector<float> weight(columns, 1.0f), dweight(columns), inverse(rows);
    measure("rms_norm", type, x.size() + y.size(), [&] {
      fused_.rms_norm({y.rows(columns), inverse.data(), x.rows(columns), weight.data(), 1e-5, rows, columns});
    });
    measure("rms_norm backward", type, x.size() + y.size() + dx.size() + residual.size(), [&] {
      fused_.rms_norm_backward({dx.rows(columns), dweight.data(), y.rows(columns), x.rows(columns),
                                residual.rows(columns), inverse.data(), weight.data(), rows, columns});
    });
  }

  void rest(DType type) {
    const int64_t heads = 16, dim = 64, columns = heads * dim, rows = count_ / columns;
    Array a(count_, type), b(count_, type), c(count_, type), d(count_, type), e(count_, type), f(count_, type);
    Array cos(rows * dim / 2, DType::fp32), sin = cos;
    measure("rotate", type, a.size() + b.size() + 2 * cos.size(), [&] {
      fused_.rotate(
          {b.rows(columns), a.rows(columns), dim, dim, cos.rows(dim / 2), sin.rows(dim / 2), false, rows, heads, dim});
    });
    measure("swiglu", type, 3 * a.size(), [&] {
      fused_.swiglu({c.rows(columns), a.rows(columns), b.rows(columns), rows, columns});
    });
    measure("swiglu backward", type, 6 * a.size(), [&] {
      fused_.swiglu_backward({d.rows(columns), e.rows(columns), f.rows(columns), c.rows(columns), a.rows(columns),
                              b.rows(columns), rows, columns});
    });
    measure("add", type, 3 * a.size(), [&] {
      fused_.add({c.rows(columns), a.rows(columns), b.rows(columns), rows, columns});
    });
    // As training uses it: the logits of one chunk of rows, which stay in a cache.
    const int64_t vocabulary = 4096, chunk = 512;
    Array logits(chunk * vocabulary, DType::fp32), gradient(chunk * vocabulary, type);
    const std::vector<int64_t> labels(chunk, 7);
    std::vector<double> lse(chunk, 0.0), picked(chunk);
    const Logits view = {logits.rows(vocabulary), labels.data(), 0, chunk, vocabulary};
    measure("cross entropy, in cache", type, 2 * logits.size() + gradient.size(), [&] {
      std::fill(lse.begin(), lse.end(), -std::numeric_limits<double>::infinity());
      fused_.log_sum_exp({view, lse.data(), picked.data()});
      fused_.cross_entropy_backward({view, gradient.rows(vocabulary), lse.data(), 1e-3});
    });
  }

  void measure(const char* name, DType type, double bytes, const std::function<void()>& work) {
    constexpr int kPairs = 15;
    work();
    std::vector<double> shares, rates, copies;
    for (int i = 0; i < kPairs; ++i) {
      const double copy =
          2 * from_.size() / seconds_of([&] { std::memcpy(to_.bytes.data(), from_.bytes.data(), from_.bytes.size()); });
      const double rate = bytes / seconds_of(work);
      copies.push_back(copy);
      rates.push_back(rate);
      shares.push_back(rate / copy);
    }
    std::printf("%-24s %-5s %7.1f GB/s  memcpy %6.1f GB/s  share %.2f\n", name, std::string(name_of(type)).c_str(),
                median(rates) * 1e-9, median(copies) * 1e-9, median(shares));
    std::fflush(stdout);
  }

  const KernelSet& kernels_;
  const FusedKernels& fused_;
  const int64_t count_;
  Array from_, to_;
};

}  // namespace

int main(int argc, char** argv) {
  try {
    const KernelSet& kernels = argc > 2 ? cpu_kernels(argv[2]) : cpu_kernels();
    std::printf("path %s, one thread\n", std::string(kernels.name()).c_str());
    Bench(argc > 1 ? std::max(1, std::atoi(argv[1])) : 64, kernels).run();
  } catch (const Error& error) {
    std::fprintf(stderr, "fused_speed: %s\n", error.what());
    return 2;
  }
}
