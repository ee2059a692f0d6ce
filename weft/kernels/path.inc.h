// The algorithm of every CPU path, over the SIMD type that the including file chose.
#pragma once

#include "weft/kernels/tile_ops.h"
// The order matters: each builds on those before it.
// clang-format off
#include "weft/kernels/vector.inc.h"
#include "weft/kernels/microkernel.inc.h"
#include "weft/kernels/band_range.inc.h"
#include "weft/kernels/rows.inc.h"
#include "weft/kernels/fused/convert_rows.inc.h"
#include "weft/kernels/transpose.inc.h"
#include "weft/kernels/pack.inc.h"
#include "weft/kernels/canonical/exact_rows.inc.h"
#include "weft/kernels/forward_tile.inc.h"
#include "weft/kernels/few_rows.inc.h"
#include "weft/kernels/backward_tile.inc.h"
#include "weft/kernels/lanes.inc.h"
#include "weft/kernels/short_blocks.inc.h"
#include "weft/kernels/fused/partials.inc.h"
#include "weft/kernels/fused/rms_norm.inc.h"
#include "weft/kernels/fused/rotate.inc.h"
#include "weft/kernels/fused/activations.inc.h"
#include "weft/kernels/fused/swiglu.inc.h"
#include "weft/kernels/fused/rnn_cell.inc.h"
#include "weft/kernels/fused/rnn_rows.inc.h"
#include "weft/kernels/fused/cross_entropy.inc.h"
#include "weft/kernels/fused/adamw.inc.h"
#include "weft/kernels/blocks.inc.h"
// clang-format on

namespace weft::kernels {
namespace {

static_assert(kForwardKeyTile % kPanel == 0 && kBackwardKeyTile % kPanel == 0);
static_assert(kMostTileOfKeys <= kForwardKeyTile);  // one pass over the keys: see canonical_cpu.cc
static_assert(kForwardQueryTile % kStrip == 0 && kBackwardQueryTile % kStrip == 0);

constexpr FusedOps kFusedOps = {merge_partials,  delta,      rms_norm, rms_norm_backward, rotate,     swiglu,
                                swiglu_backward, add_rows,   adamw,    exp_sum,           scaled_exp, rnn_step,
                                rnn_backward,    rnn_correct};

constexpr TileOps tile_ops(const char* name) {
  return {name,          kStrip,         kPanel,      kShortForward, kShortBackward, pack_rows,  pack_columns,
          forward_tile,  finish_forward, forward_few, merge_row,     backward_tile,  add_strips, add_panels,
          forward_short, backward_short, rows_finite, add_row,       to_float,       from_float, transpose_strip,
          all_finite,    add_exactly,    &kFusedOps,  &kBlockOps};
}

}  // namespace
}  // namespace weft::kernels
