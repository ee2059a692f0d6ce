// The products of blocks.inc.h on whole panels of the AVX2 path, in assembly for the reason that microkernel_avx2.inc.h
// gives. The left operand as it lies or transposed: one of its strides is a constant of the loop.
#pragma once

namespace weft::kernels {
namespace {

// clang-format off
#define WEFT_BLOCK_ROW(at, r, x)                                                                        \
  "vbroadcastss " at ", %%ymm" #x "\n\tvfmadd231ps %%ymm12, %%ymm" #x ", %[c" #r                        \
  "0]\n\tvfmadd231ps %%ymm13, %%ymm" #x ", %[c" #r "1]\n\t"
#define WEFT_BLOCK_B(at) "vmovups " at ", %%ymm12\n\tvmovups 32" at ", %%ymm13\n\t"
// Step u of a as it lies: its rows are `row` bytes apart.
#define WEFT_ROWS_STEP(u, at_b)                                                                         \
  WEFT_BLOCK_B(at_b)                                                                                    \
  WEFT_BLOCK_ROW("4*" #u "(%[a])", 0, 14) WEFT_BLOCK_ROW("4*" #u "(%[a],%[row],1)", 1, 15)              \
  WEFT_BLOCK_ROW("4*" #u "(%[a],%[row],2)", 2, 14) WEFT_BLOCK_ROW("4*" #u "(%[a],%[row3],1)", 3, 15)    \
  WEFT_BLOCK_ROW("4*" #u "(%[a],%[row],4)", 4, 14) WEFT_BLOCK_ROW("4*" #u "(%[a],%[row5],1)", 5, 15)
// A step of a transposed: its rows lie side by side.
#define WEFT_COLUMNS_STEP(at_a, at_b)                                                                   \
  WEFT_BLOCK_B(at_b)                                                                                    \
  WEFT_BLOCK_ROW(at_a, 0, 14) WEFT_BLOCK_ROW("4" at_a, 1, 15) WEFT_BLOCK_ROW("8" at_a, 2, 14)           \
  WEFT_BLOCK_ROW("12" at_a, 3, 15) WEFT_BLOCK_ROW("16" at_a, 4, 14) WEFT_BLOCK_ROW("20" at_a, 5, 15)
#define WEFT_BLOCK_C(r) [c##r##0] "=&x"(c.row[r][0]), [c##r##1] "=&x"(c.row[r][1])
#define WEFT_BLOCK_CLEAR(r) "vxorps %[c" #r "0], %[c" #r "0], %[c" #r "0]\n\tvxorps %[c" #r "1], %[c" #r "1], %[c" #r "1]\n\t"
#define WEFT_BLOCK_BEGIN WEFT_BLOCK_CLEAR(0) WEFT_BLOCK_CLEAR(1) WEFT_BLOCK_CLEAR(2) WEFT_BLOCK_CLEAR(3) \
  WEFT_BLOCK_CLEAR(4) WEFT_BLOCK_CLEAR(5) "1:\n\t"
#define WEFT_BLOCK_RESULT WEFT_BLOCK_C(0), WEFT_BLOCK_C(1), WEFT_BLOCK_C(2), WEFT_BLOCK_C(3), WEFT_BLOCK_C(4), \
  WEFT_BLOCK_C(5), [a] "+r"(a), [b] "+r"(b), [rounds] "+r"(rounds)
#define WEFT_BLOCK_CLOBBERS "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc"
// clang-format on

// C = the sum of the first depth / 4 * 4 steps; a and b move on.
WEFT_INLINE void multiply_fours(Tile& c, const float*& a, int64_t a_row, int64_t a_column, const float*& b,
                                int64_t b_row, int64_t depth) {
  int64_t rounds = depth / 4;
  if (rounds == 0) {
    c = {};
    return;
  }
  const int64_t b1 = 4 * b_row, b3 = 12 * b_row;
  if (a_column == 1) {
    const int64_t row = 4 * a_row, row3 = 12 * a_row, row5 = 20 * a_row;
    asm volatile(WEFT_BLOCK_BEGIN WEFT_ROWS_STEP(0, "(%[b])") WEFT_ROWS_STEP(1, "(%[b],%[b1],1)")
                     WEFT_ROWS_STEP(2, "(%[b],%[b1],2)") WEFT_ROWS_STEP(
                         3, "(%[b],%[b3],1)") "add $16, %[a]\n\tlea (%[b],%[b1],4), %[b]\n\tdec %[rounds]\n\tjne 1b"
                 : WEFT_BLOCK_RESULT
                 : [row] "r"(row), [row3] "r"(row3), [row5] "r"(row5), [b1] "r"(b1), [b3] "r"(b3)
                 : WEFT_BLOCK_CLOBBERS);
    return;
  }
  const int64_t a1 = 4 * a_column, a3 = 12 * a_column;
  asm volatile(
      WEFT_BLOCK_BEGIN WEFT_COLUMNS_STEP("(%[a])", "(%[b])") WEFT_COLUMNS_STEP("(%[a],%[a1],1)", "(%[b],%[b1],1)")
          WEFT_COLUMNS_STEP("(%[a],%[a1],2)", "(%[b],%[b1],2)") WEFT_COLUMNS_STEP(
              "(%[a],%[a3],1)",
              "(%[b],%[b3],1)") "lea (%[a],%[a1],4), %[a]\n\tlea (%[b],%[b1],4), %[b]\n\tdec %[rounds]\n\tjne 1b"
      : WEFT_BLOCK_RESULT
      : [a1] "r"(a1), [a3] "r"(a3), [b1] "r"(b1), [b3] "r"(b3)
      : WEFT_BLOCK_CLOBBERS);
}

#undef WEFT_BLOCK_ROW
#undef WEFT_BLOCK_B
#undef WEFT_ROWS_STEP
#undef WEFT_COLUMNS_STEP
#undef WEFT_BLOCK_C
#undef WEFT_BLOCK_CLEAR
#undef WEFT_BLOCK_BEGIN
#undef WEFT_BLOCK_RESULT
#undef WEFT_BLOCK_CLOBBERS

}  // namespace
}  // namespace weft::kernels
