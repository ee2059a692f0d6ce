// How fast block attention is on one core, per path of the processor: JSON lines on standard output.
//
//   attention_kernel_bench [--paths avx2] [--masks causal,full,docs8,docs50,long-tail,decode1,decode16] [--tokens 2048,4096]
//                          [--dims 64,128] [--dtypes fp32,bf16,fp16] [--heads 8] [--kv-heads 8] [--repeats 5]
//
// docsN: packed documents of N tokens each; long-tail: of log-normal lengths; both causal. decodeN: N queries against
// --tokens keys, rows of all heads side by side as everywhere here. GFLOP/s count the allowed pairs exactly: 4 * area *
// heads * dim forward (two products), 10 * area * heads * dim backward (five).
//
// Times are processor time of this thread, so another program on the core costs cache contents but is not counted. The
// peak of multiply-adds (for decode: of reading memory) is measured before every repeat; shares are medians over repeats.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "bench/fma_peak.h"
#include "weft/base/random.h"
#include "weft/kernels/kernels.h"

namespace {

using namespace weft;
using namespace weft::kernels;

template <typename Work>
double seconds(Work work) {
  const double begin = bench::thread_seconds();
  work();
  return bench::thread_seconds() - begin;
}
double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

// Lengths of packed documents: all of `length`, or for 0 log-normal with a median of 300.
std::vector<int64_t> document_lengths(int64_t tokens, int64_t length) {
  Random random(7);
  std::vector<int64_t> lengths;
  for (int64_t rest = tokens; rest > 0; rest -= lengths.back()) {
    const int64_t drawn = length ? length : static_cast<int64_t>(std::exp(5.7 + 1.3 * random.normal())) + 1;
    lengths.push_back(std::min(rest, drawn));
  }
  return lengths;
}

struct Problem {
  std::string mask;
  int64_t tokens, heads, kv_heads, dim;
  DType type;

  bool decode() const { return mask.starts_with("decode"); }
  int64_t queries() const { return decode() ? std::stoll(mask.substr(6)) : tokens; }
  std::vector<Block> blocks() const {
    const BandRectangle whole{.q = {0, queries()}, .k = {0, tokens}};
    if (mask == "full" || decode()) return {{.band = whole}};
    if (mask == "causal") return {{.band = {.q = whole.q, .k = whole.k, .hi = 0}}};
    const bool documents = mask.starts_with("docs");
    if (!documents && mask != "long-tail") throw Error(ErrorCode::usage, "unknown mask '" + mask + "'");
    std::vector<Block> all;
    int64_t at = 0;
    for (int64_t length : document_lengths(tokens, documents ? std::stoll(mask.substr(4)) : 0)) {
      const Range range{at, at + length};
      all.push_back({.band = {.q = range, .k = range, .hi = 0}, .out_row = at, .bundle_row = at, .kv_grad_row = at});
      at += length;
    }
    return all;
  }
};

// [rows, heads, dim] of any type, from the begin of a cache line on as torch's allocator has it; normal numbers, the same for
// every type up to rounding.
struct Tensor {
  struct alignas(64) Line {
    char bytes[64];
  };
  std::vector<Line> lines;
  size_t size;  // in bytes
  DType type;
  int64_t heads, columns;
  Tensor(int64_t rows, int64_t h, int64_t c, DType t, uint64_t seed = 0)
      : lines(rows * h * c * size_of(t) / 64 + 1), size(rows * h * c * size_of(t)), type(t), heads(h), columns(c) {
    if (seed == 0) return;
    Random random(seed);
    std::vector<float> values(c);
    for (int64_t r = 0; r < rows * h; ++r) {
      for (float& x : values) x = static_cast<float>(random.normal());
      const View at{data() + r * c * size_of(t), t, h * c, c};
      reference_kernels().convert(at, {values.data(), DType::fp32, c, c}, {1, 1, c});
    }
  }
  char* data() { return reinterpret_cast<char*>(lines.data()); }
  View view() { return {data(), type, heads * columns, columns}; }
};

// What the processor can do at most of what bounds the problem: GB/s or GFLOP/s.
double peak_of(const Problem& p, const std::string& path) {
  if (p.decode()) return bench::read_gb_per_second();
  return p.type == DType::bf16 ? bench::bf16_peak_gflops(path.c_str()) : bench::fma_peak_gflops(path.c_str());
}

void run(const KernelSet& kernels, const Problem& p, int repeats) {
  const int64_t rows = p.queries();
  Tensor q(rows, p.heads, p.dim, p.type, 1), k(p.tokens, p.kv_heads, p.dim, p.type, 2);
  Tensor v(p.tokens, p.kv_heads, p.dim, p.type, 3), dout(rows, p.heads, p.dim, p.type, 4);
  Tensor o(rows, p.heads, p.dim, DType::fp32), lse(rows, p.heads, 1, DType::fp32), delta = lse, dq = o;
  Tensor dk(p.tokens, p.kv_heads, p.dim, DType::fp32), dv = dk;
  std::vector<int32_t> kv_head;
  for (int64_t h = 0; h < p.heads; ++h) kv_head.push_back(static_cast<int32_t>(h * p.kv_heads / p.heads));
  const std::vector<Block> blocks = p.blocks();
  const AttendArgs forward = {.q = q.view(),
                              .k = k.view(),
                              .v = v.view(),
                              .o = o.view(),
                              .lse = lse.view(),
                              .heads = p.heads,
                              .kv_head = kv_head,
                              .dim = p.dim,
                              .dim_v = p.dim,
                              .scale = 1 / std::sqrt(static_cast<double>(p.dim)),
                              .blocks = blocks};
  const AttendBackwardArgs backward = {.q = q.view(),
                                       .k = k.view(),
                                       .v = v.view(),
                                       .dout = dout.view(),
                                       .lse = lse.view(),
                                       .delta = delta.view(),
                                       .dq = dq.view(),
                                       .dk = dk.view(),
                                       .dv = dv.view(),
                                       .heads = p.heads,
                                       .kv_head = kv_head,
                                       .dim = p.dim,
                                       .dim_v = p.dim,
                                       .scale = forward.scale,
                                       .blocks = blocks};
  double area = 0;
  for (const Block& block : blocks) area += static_cast<double>(block.band.area());
  const double work = area * static_cast<double>(p.heads * p.dim) * 1e-9;
  const double keys_gb = 1e-9 * static_cast<double>(k.size + v.size);
  const std::string path(kernels.name());

  std::vector<double> peaks, rates[2], shares[2];
  for (int repeat = -1; repeat < repeats; ++repeat) {  // the first run only warms up
    const double peak = peak_of(p, path);
    float* const lses = reinterpret_cast<float*>(lse.data());
    std::fill(lses, lses + rows * p.heads, -std::numeric_limits<float>::infinity());
    double times[2] = {seconds([&] { kernels.attend(forward); }), 0};
    kernels.prepare_backward(delta.view(), o.view(), dout.view(), {}, {rows, p.heads, p.dim});
    if (!p.decode()) times[1] = seconds([&] { kernels.attend_backward(backward); });
    if (repeat < 0) continue;
    peaks.push_back(peak);
    for (int step = 0; step < (p.decode() ? 1 : 2); ++step) {
      rates[step].push_back((p.decode() ? keys_gb : (step ? 10 : 4) * work) / times[step]);
      shares[step].push_back(rates[step].back() / peak);
    }
  }
  std::printf("{\"path\": \"%s\", \"mask\": \"%s\", \"dtype\": \"%s\", \"tokens\": %ld, \"heads\": %ld, ", path.c_str(),
              p.mask.c_str(), std::string(name_of(p.type)).c_str(), static_cast<long>(p.tokens),
              static_cast<long>(p.heads));
  std::printf("\"kv_heads\": %ld, \"dim\": %ld, ", static_cast<long>(p.kv_heads), static_cast<long>(p.dim));
  if (p.decode()) {
    std::printf("\"forward_gb_per_s\": %.2f, \"forward_of_memory\": %.3f, \"memory_gb_per_s\": %.2f}\n",
                median(rates[0]), median(shares[0]), median(peaks));
  } else {
    std::printf("\"forward_gflops\": %.1f, \"forward_of_peak\": %.3f, \"backward_gflops\": %.1f, ", median(rates[0]),
                median(shares[0]), median(rates[1]));
    std::printf("\"backward_of_peak\": %.3f, \"peak_gflops\": %.1f}\n", median(shares[1]), median(peaks));
  }
  std::fflush(stdout);
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == ',')
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

int run_all(int argc, char** argv) {
  std::map<std::string, std::string> options = {
      {"--masks", "causal,full"}, {"--tokens", "2048,4096"}, {"--dims", "64,128"}, {"--dtypes", "fp32"},
      {"--heads", "8"},           {"--kv-heads", "8"},       {"--repeats", "5"},   {"--paths", ""}};
  for (std::string_view path : available_cpu_paths()) {
    if (path == "emulated") continue;  // by name only
    options["--paths"] += (options["--paths"].empty() ? "" : ",") + std::string(path);
  }
  for (int i = 1; i < argc; i += 2) {
    if (!options.contains(argv[i]) || i + 1 == argc) {
      throw Error(ErrorCode::usage, std::string("unknown or incomplete option ") + argv[i]);
    }
    options[argv[i]] = argv[i + 1];
  }
  for (const std::string& path : split(options["--paths"])) {
    for (const std::string& mask : split(options["--masks"])) {
      for (const std::string& type : split(options["--dtypes"])) {
        for (const std::string& dim : split(options["--dims"])) {
          for (const std::string& tokens : split(options["--tokens"])) {
            run(cpu_kernels(path),
                {mask, std::stoll(tokens), std::stoll(options["--heads"]), std::stoll(options["--kv-heads"]),
                 std::stoll(dim), dtype_of(type)},
                std::stoi(options["--repeats"]));
          }
        }
      }
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) try { return run_all(argc, argv); } catch (const std::exception& error) {
  std::fprintf(stderr, "attention_kernel_bench: %s\n", error.what());
  return 2;
}
