// The engine of processors with AMX: eight tile registers, four of sums and two for each side.
#pragma once

#include "weft/kernels/matrix/narrow_avx512.inc.h"

namespace weft::kernels {
namespace {

struct TileConfiguration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfiguration) == 64);

// What was written to memory is there for the tile instructions: gcc 12's intrinsics do not say that they read it.
WEFT_INLINE void finish_writes(const void* to) { __asm__ volatile("" ::"r"(to) : "memory"); }

// The unit is set up while one lives.
class Engine {
 public:
  Engine() {
    alignas(64) const TileConfiguration configuration;
    finish_writes(&configuration);
    _tile_loadconfig(&configuration);
  }
  ~Engine() { _tile_release(); }

  // c[32][32], rows c_stride floats apart, += or = sum over t < depth of A_t B_t; two row tiles of A_t at a[0] + t * a_step
  // and a[1] + t * a_step, two pair tiles of B_t likewise.
  void multiply(float* c, int64_t c_stride, bool add, const uint16_t* const* a, int64_t a_step,
                const uint16_t* const* b, int64_t b_step, int64_t depth) const {
    const int64_t row = c_stride * 4;
    finish_writes(c);
    if (add) {
      _tile_loadd(0, c, row);
      _tile_loadd(1, c + 16, row);
      _tile_loadd(2, c + 16 * c_stride, row);
      _tile_loadd(3, c + 16 * c_stride + 16, row);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int64_t t = 0; t < depth; ++t) {
      _tile_loadd(4, a[0] + t * a_step, 64);
      _tile_loadd(6, b[0] + t * b_step, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, b[1] + t * b_step, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, a[1] + t * a_step, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, row);
    _tile_stored(1, c + 16, row);
    _tile_stored(2, c + 16 * c_stride, row);
    _tile_stored(3, c + 16 * c_stride + 16, row);
  }
};

}  // namespace
}  // namespace weft::kernels
