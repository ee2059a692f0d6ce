// Checks of kernel arguments and small helpers that every kernel set shares.
#pragma once

#include <cstdint>
#include <vector>

#include "weft/kernels/kernels.h"

namespace weft::kernels {

// Throw Error(internal) where types, head maps or sizes of a call contradict each other.
void check(const AttendArgs& args);
void check(const AttendBackwardArgs& args);

// Query heads that read the same key-value head, in order of first appearance: the order in which
// kernels work.
struct HeadGroup {
  int32_t kv_head = 0;
  std::vector<int32_t> heads;
};
std::vector<HeadGroup> group_heads(std::span<const int32_t> kv_head);

}  // namespace weft::kernels
