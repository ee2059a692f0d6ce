// The drivers of the CPU paths: they cut blocks into tiles and leave the arithmetic to a path's
// TileOps.
#pragma once

#include <memory>

#include "weft/kernels/checks.h"
#include "weft/kernels/kernels.h"
#include "weft/kernels/tile_ops.h"

namespace weft::kernels {

void cpu_attend(const TileOps& ops, const AttendArgs& args);
// One block of few queries, for the heads of these groups.
void cpu_attend_few(const TileOps& ops, const AttendArgs& args, std::span<const HeadGroup> groups, const Block& block);
// One block, or some of its queries, cut into tiles, for the heads of a group.
void cpu_attend_in_tiles(const TileOps& ops, const AttendArgs& args, const HeadGroup& group, const Block& block,
                         Range queries);
void cpu_attend_backward_in_tiles(const TileOps& ops, const AttendBackwardArgs& args, const HeadGroup& group,
                                  const Block& block);
// Whether a block has at most `most` queries and keys, and not so few queries that transposing the keys does not pay.
inline bool is_short(const Block& block, int64_t most) {
  const int64_t queries = block.band.q.size(), keys = block.band.k.size();
  return queries <= most && keys <= most && (queries > kFewQueries || keys <= kFewKeys * queries);
}
// One short block, one of args.blocks, for the heads of these groups.
void cpu_attend_short(const TileOps& ops, const AttendArgs& args, std::span<const HeadGroup> groups,
                      const Block& block);
void cpu_attend_backward_short(const TileOps& ops, const AttendBackwardArgs& args, std::span<const HeadGroup> groups,
                               const Block& block);
void cpu_attend_backward(const TileOps& ops, const AttendBackwardArgs& args);

// Element-wise calls; types that a path has no code for (fp64) go to the reference loops.
void cpu_prepare_backward(const TileOps& ops, View delta, ConstView out, ConstView dout, ConstView dlse, Shape shape);
void cpu_merge(const TileOps& ops, View o, View lse, ConstView from_o, ConstView from_lse, Shape shape);
void cpu_add(const TileOps& ops, View to, ConstView from, Shape shape);
void cpu_convert(const TileOps& ops, View to, ConstView from, Shape shape);

// The operations around attention, by the path's FusedOps.
std::unique_ptr<FusedKernels> make_fused(const TileOps& ops);

}  // namespace weft::kernels
