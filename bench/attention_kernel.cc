// Times of block attention on one core, per path of the processor: JSON lines on standard output.
//
//   attention_kernel [path ...]      all paths that this machine has, if none is given
//
// Causal attention over [tokens, heads, dim] in fp32. GFLOP/s count the allowed pairs exactly: 4 *
// area * heads * dim forward (two products), 10 * area * heads * dim backward (five).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "bench/fma_peak.h"
#include "weft/base/random.h"
#include "weft/kernels/kernels.h"

namespace {

using namespace weft;
using namespace weft::kernels;

// Median of several runs of `work`, in seconds.
template <typename Work>
double median_seconds(int repeats, Work work) {
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

struct Problem {
  int64_t tokens, heads, kv_heads, dim;
};

void run(const KernelSet& kernels, const Problem& problem, double peak) {
  const auto [tokens, heads, kv_heads, dim] = problem;
  Random random(1);
  const auto values = [&](int64_t columns) {
    std::vector<float> all(tokens * columns);
    for (float& x : all) x = static_cast<float>(random.normal());
    return all;
  };
  std::vector<float> q = values(heads * dim), k = values(kv_heads * dim), v = values(kv_heads * dim);
  std::vector<float> dout = values(heads * dim), o(q.size()), lse(tokens * heads), delta(lse.size());
  std::vector<float> dq(q.size()), dk(k.size()), dv(v.size());
  std::vector<int32_t> kv_head(heads);
  for (int64_t h = 0; h < heads; ++h) kv_head[h] = static_cast<int32_t>(h * kv_heads / heads);
  const std::vector<Block> blocks = {{.band = {.q = {0, tokens}, .k = {0, tokens}, .hi = 0}}};
  const auto view = [&](std::vector<float>& data, int64_t field_heads, int64_t columns) {
    return View{data.data(), DType::fp32, field_heads * columns, columns};
  };
  const AttendArgs forward = {.q = view(q, heads, dim),
                              .k = view(k, kv_heads, dim),
                              .v = view(v, kv_heads, dim),
                              .o = view(o, heads, dim),
                              .lse = view(lse, heads, 1),
                              .heads = heads,
                              .kv_head = kv_head,
                              .dim = dim,
                              .dim_v = dim,
                              .scale = 0.125,
                              .blocks = blocks};
  const AttendBackwardArgs backward = {.q = forward.q,
                                       .k = forward.k,
                                       .v = forward.v,
                                       .dout = view(dout, heads, dim),
                                       .lse = view(lse, heads, 1),
                                       .delta = view(delta, heads, 1),
                                       .dq = view(dq, heads, dim),
                                       .dk = view(dk, kv_heads, dim),
                                       .dv = view(dv, kv_heads, dim),
                                       .heads = heads,
                                       .kv_head = kv_head,
                                       .dim = dim,
                                       .dim_v = dim,
                                       .scale = 0.125,
                                       .blocks = blocks};
  const int repeats = tokens <= 4096 ? 5 : 3;
  const double forward_seconds = median_seconds(repeats, [&] {
    std::fill(lse.begin(), lse.end(), -std::numeric_limits<float>::infinity());
    kernels.attend(forward);
  });
  kernels.prepare_backward(view(delta, heads, 1), view(o, heads, dim), backward.dout, {}, {tokens, heads, dim});
  const double backward_seconds = median_seconds(repeats, [&] { kernels.attend_backward(backward); });
  const double work = static_cast<double>(blocks[0].band.area()) * heads * dim * 1e-9;
  std::printf(
      "{\"path\": \"%s\", \"tokens\": %ld, \"heads\": %ld, \"kv_heads\": %ld, \"dim\": %ld, "
      "\"forward_seconds\": %.5f, \"forward_gflops\": %.1f, \"forward_of_peak\": %.3f, "
      "\"backward_seconds\": %.5f, \"backward_gflops\": %.1f, \"backward_of_peak\": %.3f, "
      "\"fma_peak_gflops\": %.1f}\n",
      std::string(kernels.name()).c_str(), static_cast<long>(tokens), static_cast<long>(heads),
      static_cast<long>(kv_heads), static_cast<long>(dim), forward_seconds, 4 * work / forward_seconds,
      4 * work / forward_seconds / peak, backward_seconds, 10 * work / backward_seconds,
      10 * work / backward_seconds / peak, peak);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> paths(argv + 1, argv + argc);
  if (paths.empty()) {
    for (std::string_view path : available_cpu_paths()) paths.emplace_back(path);
  }
  try {
    for (const std::string& path : paths) {
      const KernelSet& kernels = cpu_kernels(path);
      const double peak = weft::bench::fma_peak_gflops(path.c_str());
      for (const Problem& problem :
           {Problem{2048, 8, 8, 64}, Problem{4096, 8, 8, 64}, Problem{2048, 8, 8, 128}, Problem{4096, 8, 2, 128}}) {
        run(kernels, problem, peak);
      }
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "attention_kernel: %s\n", error.what());
    return 2;
  }
}
