#include "bench/fma_peak.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <time.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace weft::bench {

double thread_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

namespace {

typedef float Vec4 __attribute__((vector_size(16)));
typedef float Vec8 __attribute__((vector_size(32)));
typedef float Vec16 __attribute__((vector_size(64)));

// Twelve independent chains hide the latency of every known core, and all stay in registers.
template <typename Vec>
__attribute__((always_inline)) inline void chains(int64_t rounds, float* sink) {
  constexpr int kLanes = sizeof(Vec) / sizeof(float);
  Vec c[12], a = {}, b = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    a[lane] = 0.999f;
    b[lane] = 0.001f;
  }
#pragma GCC unroll 16
  for (int i = 0; i < 12; ++i) c[i] = a + static_cast<float>(i);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < 12; ++i) c[i] = c[i] * a + b;
  }
#pragma GCC unroll 16
  for (int i = 0; i < 12; ++i) {
    for (int lane = 0; lane < kLanes; ++lane) sink[lane] += c[i][lane];
  }
}

void portable(int64_t rounds, float* sink) { chains<Vec4>(rounds, sink); }
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void avx2(int64_t rounds, float* sink) { chains<Vec8>(rounds, sink); }
__attribute__((target("avx512f"))) void avx512(int64_t rounds, float* sink) { chains<Vec16>(rounds, sink); }
#endif

}  // namespace

double fma_peak_gflops(const char* path) {
  void (*run)(int64_t, float*) = portable;
  int lanes = 4;
#if defined(__x86_64__)
  if (std::string_view(path) == "avx2" || std::string_view(path) == "emulated") run = avx2, lanes = 8;
  if (std::string_view(path).starts_with("avx512") || std::string_view(path) == "amx") run = avx512, lanes = 16;
#endif
  constexpr int64_t kRounds = 500'000;
  float sink[16] = {};
  run(kRounds, sink);  // reach the clock rate
  double best = 0;
  for (int repeat = 0; repeat < 10; ++repeat) {
    const double begin = thread_seconds();
    run(kRounds, sink);
    const double gflops = 2.0 * 12 * lanes * kRounds / (thread_seconds() - begin) * 1e-9;
    if (gflops > best) best = gflops;
  }
  volatile float keep = sink[0];
  static_cast<void>(keep);
  return best;
}

#if defined(__x86_64__)
namespace {

// 64 KiB of operands would not fit the nearest cache; 16 KiB do.
__attribute__((target("amx-tile,amx-bf16"))) void amx(int64_t rounds) {
  alignas(64) static uint16_t operands[16][512] = {};
  alignas(64) uint8_t configuration[64] = {1};
  for (int tile = 0; tile < 8; ++tile) configuration[16 + 2 * tile] = 64, configuration[48 + tile] = 16;
  __asm__ volatile("" ::"r"(configuration), "r"(operands) : "memory");
  _tile_loadconfig(configuration);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t round = 0; round < rounds; ++round) {
    for (int step = 0; step < 16; step += 4) {
      _tile_loadd(4, operands[step], 64);
      _tile_loadd(6, operands[step + 1], 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, operands[step + 2], 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, operands[step + 3], 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_release();
}

// As chains; nobody must see that they are equal.
__attribute__((target("avx512f,avx512bf16"))) void dots(int64_t rounds) {
  __m512 c[12] = {};
  __m512bh a = {}, b = {};
  __asm__ volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 16
  for (int i = 0; i < 12; ++i) __asm__ volatile("" : "+v"(c[i]));
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < 12; ++i) c[i] = _mm512_dpbf16_ps(c[i], a, b);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 12; ++i) __asm__ volatile("" ::"v"(c[i]));
}

// The best of ten, in GFLOP/s, of a loop with so many operations a round.
double best_gflops(void (*run)(int64_t), int64_t rounds, double operations) {
  run(rounds);
  double best = 0;
  for (int repeat = 0; repeat < 10; ++repeat) {
    const double begin = thread_seconds();
    run(rounds);
    const double gflops = operations * static_cast<double>(rounds) / (thread_seconds() - begin) * 1e-9;
    if (gflops > best) best = gflops;
  }
  return best;
}

}  // namespace

double bf16_peak_gflops(const char* path) {
  if (std::string_view(path) == "amx") return best_gflops(amx, 50'000, 2.0 * 16 * 16 * 16 * 32);
  if (std::string_view(path) == "avx512_bf16") return best_gflops(dots, 500'000, 2.0 * 12 * 16 * 2);
  return fma_peak_gflops(path);
}
#else
double bf16_peak_gflops(const char* path) { return fma_peak_gflops(path); }
#endif

double read_gb_per_second() {
  static const std::vector<uint64_t> memory(size_t{1} << 25, 1);
  const double begin = thread_seconds();
  uint64_t sum[4] = {};
  for (size_t i = 0; i < memory.size(); i += 8) {
    for (size_t j = 0; j < 8; ++j) sum[j % 4] += memory[i + j];
  }
  const double seconds = thread_seconds() - begin;
  volatile uint64_t keep = sum[0] + sum[1] + sum[2] + sum[3];
  static_cast<void>(keep);
  return 1e-9 * static_cast<double>(memory.size() * sizeof(uint64_t)) / seconds;
}

}  // namespace weft::bench
