// What transports share that pack a message into one buffer: its size, and a number that both ends compute from what the
// message is, so that a receiver notices when it gets another one.
#pragma once

#include <cstdint>
#include <vector>

#include "weft/transport/transport.h"

namespace weft {

// Before the parts of a message: its label.
inline constexpr int64_t kPackedHeader = 8;

// Of OutgoingParts or of the IncomingParts that they are received as. `kind` says what else both ends shall agree in.
template <typename Parts>
uint64_t packed_label(const Parts& parts, uint64_t kind = 0) {
  uint64_t hash = 0x9e3779b97f4a7c15u ^ kind;
  for (const auto& part : parts) hash = (hash ^ part.label) * 0xd6e8feb86659fd93u;
  return hash;
}

// With the header.
template <typename Parts>
int64_t packed_bytes(const Parts& parts) {
  int64_t sum = kPackedHeader;
  for (const auto& part : parts) sum += part.bytes;
  return sum;
}

// Both do not touch the header. `buffer` lies in the same memory.
inline void pack_parts(const std::vector<OutgoingPart>& parts, std::byte* buffer, const Memory& memory) {
  std::byte* next = buffer + kPackedHeader;
  for (const OutgoingPart& part : parts) {
    const Region whole{next, 1, part.bytes, part.bytes};
    memory.copy(part.regions, {&whole, 1});
    next += part.bytes;
  }
}
inline void unpack_parts(const std::byte* buffer, std::vector<IncomingPart>& parts, const Memory& memory) {
  const std::byte* next = buffer + kPackedHeader;
  for (IncomingPart& part : parts) {
    const Region whole{const_cast<std::byte*>(next), 1, part.bytes, part.bytes};
    memory.copy({&whole, 1}, part.regions);
    next += part.bytes;
    part.owner.reset();
  }
}

}  // namespace weft
