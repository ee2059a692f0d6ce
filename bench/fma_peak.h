// What one core can do at most, measured: what kernels are held against. In processor time of this thread.
#pragma once

namespace weft::bench {

// Processor time of this thread: other programs take turns with it, and disturb only by their use of the memory.
double thread_seconds();

// fp32 GFLOP/s of independent FMAs on registers with the widest instructions that this processor
// has and that `path` ("portable", "avx2", "avx512", "avx512_bf16", "amx") may use; about 0.03 s.
double fma_peak_gflops(const char* path);

// bf16 GFLOP/s of `path`: of dot products of pairs on registers ("avx512_bf16"), of AMX products of 32 x 32 sums whose operands
// come from the nearest cache ("amx"), else as above, since bf16 is converted there. Call it only with a path that is
// available, which asks the system for AMX's tile registers.
double bf16_peak_gflops(const char* path);

// GB/s of reading 256 MiB in order, which is more than caches hold; about 0.05 s.
double read_gb_per_second();

}  // namespace weft::bench
