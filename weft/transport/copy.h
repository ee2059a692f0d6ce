// Copies the bytes of one list of regions into another that is cut differently.
#pragma once

#include <span>

#include "weft/transport/transport.h"

namespace weft {

// Both lists hold the same number of bytes and do not overlap.
void copy_regions(std::span<const Region> from, std::span<const Region> to);

}  // namespace weft
