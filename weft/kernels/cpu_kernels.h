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
void cpu_attend_backward(const TileOps& ops, const AttendBackwardArgs& args);

// Element-wise calls; types that a path has no code for (fp64) go to the reference loops.
void cpu_prepare_backward(const TileOps& ops, View delta, ConstView out, ConstView dout, ConstView dlse, Shape shape);
void cpu_merge(const TileOps& ops, View o, View lse, ConstView from_o, ConstView from_lse, Shape shape);
void cpu_add(const TileOps& ops, View to, ConstView from, Shape shape);
void cpu_convert(const TileOps& ops, View to, ConstView from, Shape shape);

// The operations around attention, by the path's FusedOps.
std::unique_ptr<FusedKernels> make_fused(const TileOps& ops);

}  // namespace weft::kernels
