// The engine of engine_amx.inc.h in plain arithmetic, for processors without a matrix unit: what everything around the
// engine is tested with.
#pragma once

namespace weft::kernels {
namespace {

// c[16][16] += A B for one row tile and one pair tile.
WEFT_INLINE void multiply_tiles(float* c, int64_t c_stride, const uint16_t* a, const uint16_t* b) {
  typedef int32_t UnalignedIVec __attribute__((vector_size(4 * kLanes), aligned(2), may_alias));
  for (int m = 0; m < 16; ++m) {
    Vec sum = load(c + m * c_stride);
    for (int pair = 0; pair < 16; ++pair) {
      const IVec both = *(const UnalignedIVec*)(b + pair * 32);
      const IVec first = broadcast_int(a[m * 32 + pair * 2]) << 16, second = broadcast_int(a[m * 32 + pair * 2 + 1])
                                                                             << 16;
      sum = fma((Vec)first, (Vec)(both << 16), sum);
      sum = fma((Vec)second, (Vec)(both & ~0xffff), sum);
    }
    store(c + m * c_stride, sum);
  }
}

class Engine {
 public:
  void multiply(float* c, int64_t c_stride, bool add, const uint16_t* const* a, int64_t a_step,
                const uint16_t* const* b, int64_t b_step, int64_t depth) const {
    for (int m = 0; m < 32 && !add; ++m) {
      store(c + m * c_stride, Vec{});
      store(c + m * c_stride + 16, Vec{});
    }
    for (int row = 0; row < 2; ++row) {
      for (int column = 0; column < 2; ++column) {
        float* const sums = c + row * 16 * c_stride + column * 16;
        for (int64_t t = 0; t < depth; ++t) multiply_tiles(sums, c_stride, a[row] + t * a_step, b[column] + t * b_step);
      }
    }
  }
};

WEFT_INLINE void store_narrow(uint16_t* to, Vec first, Vec second) {
  store_bf16(to, first);
  store_bf16(to + kLanes, second);
}
WEFT_INLINE void store_pairs(uint16_t* to, Vec first, Vec second) {
  uint16_t rows[2][kLanes];
  store_bf16(rows[0], first);
  store_bf16(rows[1], second);
  for (int lane = 0; lane < kLanes; ++lane) {
    to[2 * lane] = rows[0][lane];
    to[2 * lane + 1] = rows[1][lane];
  }
}

}  // namespace
}  // namespace weft::kernels
