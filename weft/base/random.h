// Random numbers that are the same, bit for bit, on every machine, compiler and library.
//
//   Random random(seed, /*stream=*/3);
//   random.uniform(10);          // 0 .. 9, unbiased
//   random.uniform(4, 8);        // 4, 5, 6 or 7
//   random.uniform();            // [0, 1)
//   random.normal();             // mean 0, variance 1
//
// The standard distributions give other numbers on every library, so data made "by seed" could not
// be compared. Streams of one seed are independent: give each tensor, rank or worker its own number
// instead of drawing in turn. The generator is xoshiro256** (Blackman and Vigna 2018) seeded
// through splitmix64; the normals are Marsaglia's polar method with a logarithm of our own, since
// libraries differ in the last bit of theirs.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <span>
#include <utility>

#include "weft/base/error.h"

namespace weft {

class Random {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0);

  // 64 random bits.
  uint64_t bits() {
    const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  // A whole number in [0, end); end > 0.
  int64_t uniform(int64_t end);
  // A whole number in [begin, end); begin < end, and end - begin fits int64.
  int64_t uniform(int64_t begin, int64_t end) { return begin + uniform(end - begin); }
  // A multiple of 2^-53 in [0, 1).
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  // Standard normal.
  double normal();

  // All orders equally likely.
  template <typename T>
  void shuffle(std::span<T> items) {
    for (size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[static_cast<size_t>(uniform(static_cast<int64_t>(i)))]);
    }
  }

 private:
  std::array<uint64_t, 4> state_;
  double spare_normal_ = 0;  // the polar method makes two at a time
  bool has_spare_ = false;
};

}  // namespace weft
