// For tests: attention in tiles at every size, those that a path leaves to its kernels of short blocks too.
#pragma once

#include <string_view>

#include "weft/kernels/cpu_kernels.h"

namespace weft::kernels {

// Of an available path.
inline const TileOps& tile_ops_of(std::string_view path) {
#if defined(__x86_64__)
  if (path == "emulated") return wide_tile_ops();
  if (path == "avx2") return avx2_tile_ops();
  if (path != "portable") return avx512_tile_ops();
#endif
  return portable_tile_ops();
}

inline void attend_in_tiles(std::string_view path, const AttendArgs& args) {
  for (const HeadGroup& group : group_heads(args.kv_head)) {
    for (const Block& block : args.blocks) cpu_attend_in_tiles(tile_ops_of(path), args, group, block, block.band.q);
  }
}
inline void attend_backward_in_tiles(std::string_view path, const AttendBackwardArgs& args) {
  for (const HeadGroup& group : group_heads(args.kv_head)) {
    for (const Block& block : args.blocks) cpu_attend_backward_in_tiles(tile_ops_of(path), args, group, block);
  }
}

}  // namespace weft::kernels
