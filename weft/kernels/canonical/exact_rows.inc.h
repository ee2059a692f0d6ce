// Adding floats to a row of exact sums of two bins (exact_sum.h), a vector of doubles at a time: the arithmetic of
// ExactSum<2>::of and merge without branches.
#pragma once

namespace weft::kernels {
namespace {

typedef uint64_t UVec __attribute__((vector_size(8 * kDoubles)));
typedef float UnalignedHalf __attribute__((vector_size(4 * kDoubles), aligned(4), may_alias));
typedef double AliasedDouble __attribute__((may_alias));
typedef int64_t UnalignedWords __attribute__((vector_size(8 * kDoubles), aligned(8), may_alias));

WEFT_INLINE LVec load_words(const int64_t* p) { return *(const UnalignedWords*)p; }
WEFT_INLINE void store_words(int64_t* p, LVec v) { *(UnalignedWords*)p = v; }

// The whole number nearest to x, |x| < 2^51: as an integer, and taken from x.
struct Digit {
  LVec integer;
  DVec rest;
};
WEFT_INLINE Digit digit_of(DVec x) {
  const DVec magic = 0x1.8p52 - DVec{};  // in its binade neighbours differ by 1, so low bits count whole numbers
  const DVec shifted = x + magic;
  return {(LVec)shifted - (LVec)magic, x - (shifted - magic)};
}

// Adds x, not subnormal and not so small that the lowest bin matters, to the sums (word, low).
WEFT_INLINE void add_anywhere(DVec x, LVec word, LVec low, int64_t* sums, int64_t* lower) {
  const UVec exponent = ((UVec)x >> 52) & 0x7ff;
  const UVec place = exponent + (kBinBias - 1023);
  const LVec counts = (LVec)(exponent != 0);
  const LVec index = (LVec)(place >> 5) & counts;
  const UVec scaled = ((UVec)x & 0x800fffffffffffff) | (((place & 31) + 1023) << 52);  // 1 <= |scaled| < 2^32
  const Digit high = digit_of((DVec)(scaled & (UVec)counts));
  const LVec digit = digit_of(high.rest * 0x1p32).integer, top = high.integer << 8;
  const LVec down = (word & kIndexMask) - index;
  const LVec risen = (LVec)(down < 0), same = (LVec)(down == 0);
  store_words(sums, select(risen, top | index, word + (top & same)));
  store_words(lower, select(risen, digit + ((word >> 8) & (LVec)(down == -1)),
                            low + (digit & same) + (high.integer & (LVec)(down == 1))));
}

// sums[i] += from[i] * factor * 2^(32 * bins), for finite numbers. A sum that is not finite stays as it is, since its index
// is above all others.
static void add_exactly(const float* from, double factor, int64_t bins, int64_t* sums, int64_t n) {
  const double magnitude = factor < 0 ? -factor : factor;
  int64_t* const lower = sums + n;
  int64_t i = 0;
  if (bins > -16 && magnitude > 0x1p-100 && magnitude < 0x1p100) {
    const int64_t power = (1023 + 32 * bins) << 52;
    const double scale = factor * *(const AliasedDouble*)&power;
    const DVec sign = -0.0 - DVec{}, one = 1.0 - DVec{}, end = 0x1p32 - DVec{};
    for (; i + kDoubles <= n; i += kDoubles) {
      const DVec x = __builtin_convertvector(*(const UnalignedHalf*)(from + i), DVec) * scale;
      const LVec word = load_words(sums + i), low = load_words(lower + i);
      // x in units of the sums' own top bins, by exponent arithmetic modulo 2^64; where a sum is empty or not finite,
      // the unit is nonsense and far outside all x.
      const DVec unit = (DVec)(((uint64_t)(1023 + kBinBias) << 52) - ((UVec)word << 57));
      const DVec scaled = x * unit, size = (DVec)((LVec)scaled & ~(LVec)sign);
      if (any_word((LVec)(size < one) | (LVec)(size >= end))) {  // some number lies in another bin than its sum
        add_anywhere(x, word, low, sums + i, lower + i);
        continue;
      }
      const Digit high = digit_of(scaled);
      store_words(sums + i, word + (high.integer << 8));
      store_words(lower + i, low + digit_of(high.rest * 0x1p32).integer);
    }
  }
  for (; i < n; ++i) add_one_exactly(from[i] * factor, bins, sums + i, n);
}

}  // namespace
}  // namespace weft::kernels
