// The micro-kernels of the AVX2 path, in assembly: 12 multiply-adds and 8 loads a step, and what counts the steps once in
// four. A core that shares its front end with another thread starts no more than some three instructions a cycle; gcc's
// loop has 24 a step and no unrolled form that keeps the accumulators in registers, and is 15 to 20 % slower there.
#pragma once

namespace weft::kernels {
namespace {

// Row r of step u: c[r][j] += a[u * step + r * row] * b[u][j], offsets of a in bytes. Two registers in turn, so that a
// broadcast need not wait for the products of the one before.
// clang-format off
#define WEFT_ROW(step, row, u, r, x)                                                                            \
  "vbroadcastss " #step "*" #u "+" #row "*" #r "(%[a]), %%ymm" #x "\n\tvfmadd231ps %%ymm12, %%ymm" #x ", %[c" #r \
  "0]\n\tvfmadd231ps %%ymm13, %%ymm" #x ", %[c" #r "1]\n\t"
#define WEFT_STEP(step, row, u)                                                                 \
  "vmovups 64*" #u "(%[b]), %%ymm12\n\tvmovups 64*" #u "+32(%[b]), %%ymm13\n\t"                 \
  WEFT_ROW(step, row, u, 0, 14) WEFT_ROW(step, row, u, 1, 15) WEFT_ROW(step, row, u, 2, 14)     \
  WEFT_ROW(step, row, u, 3, 15) WEFT_ROW(step, row, u, 4, 14) WEFT_ROW(step, row, u, 5, 15)
#define WEFT_FOUR_STEPS(step, row)                                                     \
  "1:\n\t" WEFT_STEP(step, row, 0) WEFT_STEP(step, row, 1) WEFT_STEP(step, row, 2)     \
  WEFT_STEP(step, row, 3) "add $4*" #step ", %[a]\n\tadd $256, %[b]\n\tcmp %[end], %[b]\n\tjne 1b"
#define WEFT_C_ROW(r) [c##r##0] "+x"(c.row[r][0]), [c##r##1] "+x"(c.row[r][1])
#define WEFT_MULTIPLY(step, row)                                                                               \
  asm volatile(WEFT_FOUR_STEPS(step, row)                                                                      \
               : WEFT_C_ROW(0), WEFT_C_ROW(1), WEFT_C_ROW(2), WEFT_C_ROW(3), WEFT_C_ROW(4), WEFT_C_ROW(5),     \
                 [a] "+r"(a), [b] "+r"(b)                                                                      \
               : [end] "r"(end)                                                                                \
               : "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc")
// clang-format on

WEFT_INLINE void multiply(Tile& c, const float* a, const float* b, int64_t depth) {
  const float* const end = b + depth / 4 * 4 * kStrip;
  if (b != end) WEFT_MULTIPLY(24, 4);
  multiply_rows(c, a, 1, kPanel, b, kStrip, depth % 4);
}

WEFT_INLINE void multiply_lanes(Tile& c, const float* a, const float* b) {
  const float* const end = b + kStrip * kStrip;
  WEFT_MULTIPLY(4, 64);
}

#undef WEFT_ROW
#undef WEFT_STEP
#undef WEFT_FOUR_STEPS
#undef WEFT_C_ROW
#undef WEFT_MULTIPLY

}  // namespace
}  // namespace weft::kernels
