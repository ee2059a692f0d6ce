// A 64-bit digest with the same value on every machine: how ranks check that they derived the same
// plan.
//
//   Digest digest;
//   digest.add(tokens).add("zigzag");
//   digest.value();   // equal on all ranks, or they disagree about an input
//
// Every piece is framed (strings carry their length), so ("ab", "c") and ("a", "bc") differ. Not
// cryptographic.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

namespace weft {

// A bijection of 64 bits in which every input bit moves about half of the output bits (splitmix64's
// finaliser).
constexpr uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class Digest {
 public:
  // Equal values of different integer types give the same digest.
  template <std::integral T>
  Digest& add(T value) {
    return word(static_cast<uint64_t>(static_cast<int64_t>(value)));
  }
  Digest& add(double value) { return word(std::bit_cast<uint64_t>(value)); }
  Digest& add(std::string_view bytes);
  Digest& add(const char* text) { return add(std::string_view(text)); }

  uint64_t value() const { return mix64(state_); }
  // 16 hexadecimal digits.
  std::string hex() const;

 private:
  Digest& word(uint64_t x) {
    state_ = mix64((state_ ^ x) + 0x9e3779b97f4a7c15u) * 0xd6e8feb86659fd93u;
    return *this;
  }
  uint64_t state_ = 0x243f6a8885a308d3u;
};

}  // namespace weft
