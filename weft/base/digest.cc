#include "weft/base/digest.h"

#include <algorithm>

namespace weft {

Digest& Digest::add(std::string_view bytes) {
  add(bytes.size());
  for (size_t at = 0; at < bytes.size(); at += 8) {
    uint64_t x = 0;  // little-endian whatever the machine, zero padded: the length before it tells the rest
    for (size_t i = at; i < std::min(at + 8, bytes.size()); ++i) {
      x |= static_cast<uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * (i - at));
    }
    word(x);
  }
  return *this;
}

std::string Digest::hex() const {
  std::string out(16, '0');
  uint64_t x = value();
  for (size_t i = 16; i-- > 0; x >>= 4) out[i] = "0123456789abcdef"[x & 15];
  return out;
}

}  // namespace weft
