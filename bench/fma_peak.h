// The rate of fused multiply-adds of one core, measured: what kernels are held against.
#pragma once

namespace weft::bench {

// fp32 GFLOP/s of independent FMAs on registers with the widest instructions that this processor
// has and that `path` ("portable", "avx2", "avx512") may use; about 0.2 s.
double fma_peak_gflops(const char* path);

}  // namespace weft::bench
