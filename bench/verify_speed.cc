// How fast the verifier reads schedules: seconds, instructions per second and peak memory of a forward + backward
// proof, streamed.
//
//   build-bench/bench/verify_speed [RANKS [TOKENS_PER_RANK [HEADS [METHOD]]]]
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "weft/methods/registry.h"
#include "weft/verify/verify.h"

namespace {

int64_t argument(int argc, char** argv, int which, int64_t otherwise) {
  if (argc <= which) return otherwise;
  const int64_t value = std::atoll(argv[which]);
  if (value > 0) return value;
  std::fprintf(
      stderr,
      "verify_speed: '%s' is not a positive number; use verify_speed [RANKS [TOKENS_PER_RANK [HEADS [METHOD]]]]\n",
      argv[which]);
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  const int ranks = static_cast<int>(argument(argc, argv, 1, 1024));
  const int64_t per_rank = argument(argc, argv, 2, 1024), heads = argument(argc, argv, 3, 64);
  std::printf("%d ranks, %lld tokens each, %lld heads, causal, forward + backward\n", ranks,
              static_cast<long long>(per_rank), static_cast<long long>(heads));
  std::printf("%-12s %10s %14s %12s %10s  %s\n", "method", "seconds", "instructions", "M per s", "peak MB", "verdict");
  for (const weft::Method* method : weft::all_methods()) {
    if (argc > 4 && method->name != argv[4]) continue;
    const auto start = std::chrono::steady_clock::now();
    weft::Problem problem =
        weft::self_attention(weft::Mask::of(ranks * per_rank, {.causal = true}),
                             weft::layout_of(method->name, {ranks * per_rank}, ranks), heads, heads / 8, 128);
    problem.backward = true;
    const weft::Report report = weft::verify(weft::make_schedule(method->name, problem));
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    std::printf("%-12s %10.3f %14lld %12.2f %10ld  %s\n", std::string(method->name).c_str(), seconds,
                static_cast<long long>(report.instructions), static_cast<double>(report.instructions) / seconds / 1e6,
                usage.ru_maxrss / 1024, report.ok() ? "right" : report.problems[0].text.c_str());
    std::fflush(stdout);
  }
}
