// Tiles counted anew in each document: what canonical results of linear layers are computed by.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "weft/layout/layout.h"

namespace weft {

// The layout with every tile of a document on the rank that has the tile's middle token in `layout`, in the order of positions:
// borders move to the nearest multiple of `tile` from the document's begin, or to its end. `lengths` are the packed documents.
Layout rounded_to_document_tiles(const Layout& layout, const std::vector<int64_t>& lengths, int64_t tile);

// The first border between ranks, or between runs of one, that lies inside a tile of a document, if there is any.
std::optional<int64_t> first_cut_document_tile(const Layout& layout, const std::vector<int64_t>& lengths, int64_t tile);

}  // namespace weft
