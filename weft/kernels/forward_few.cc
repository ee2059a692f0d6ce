// attend of a few queries on the CPU (decode, and the ends of short documents): the keys of a head are cut into chunks of
// fixed length whose partial results are merged in order.
#include "weft/kernels/checks.h"
#include "weft/kernels/cpu_kernels.h"
#include "weft/kernels/driver.h"

namespace weft::kernels {

void cpu_attend_few(const TileOps& ops, const AttendArgs& args, const HeadGroup& group, const Block& block) {
  const BandRectangle band = shrink(block.band);
  if (band.q.empty()) return;
  Scratch& scratch = thread_scratch();
  const int64_t queries = band.q.size(), rows = queries * static_cast<int64_t>(group.heads.size());
  const int64_t padded_rows = round_up(rows, kFewRowsMultiple);
  const int64_t dim = round_up(args.dim, ops.strip), dim_v = round_up(args.dim_v, ops.strip);

  // Row head * queries + query, as floats and followed by zeros.
  float* const q = zeros(scratch.q, padded_rows * dim);
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t head = group.heads[static_cast<size_t>(row / queries)];
    float* const to = q + row * dim;
    ops.to_float(address(args.q, band.q.begin + row % queries, head), args.q.type, to, args.dim);
    for (int64_t c = 0; c < args.dim; ++c) to[c] *= static_cast<float>(args.scale * kLog2E);
  }
  float* const state = scratch.state.get(2 * rows);
  float* const o = scratch.o.get(rows * dim_v);
  float* const work = scratch.scores.get(kFewKeys * (dim + dim_v + padded_rows));
  std::vector<int64_t> limits(static_cast<size_t>(2 * rows));

  for (int64_t key = band.k.begin; key < band.k.end; key += kFewChunk) {
    const Range keys = intersect(band.k, {key, key + kFewChunk});
    if (args.stop) args.stop->poll();
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t query = band.q.begin + row % queries;
      const Range seen = intersect(keys, {query + band.lo, query + band.hi + 1});
      limits[static_cast<size_t>(row)] = seen.begin - key;
      limits[static_cast<size_t>(rows + row)] = seen.end - key;
    }
    ops.forward_few({.rows = rows,
                     .k = rows_of(args.k, keys, group.kv_head, args.dim),
                     .v = rows_of(args.v, keys, group.kv_head, args.dim_v),
                     .q = q,
                     .q_stride = dim,
                     .begin = limits.data(),
                     .end = limits.data() + rows,
                     .maximum = state,
                     .sum = state + rows,
                     .o = o,
                     .o_stride = dim_v,
                     .scratch = work});
    for (int64_t row = 0; row < rows; ++row) {
      const int32_t head = group.heads[static_cast<size_t>(row / queries)];
      const int64_t out = block.out_row + band.q.begin + row % queries - block.band.q.begin;
      ops.merge_row(static_cast<float*>(address(args.o, out, head)), static_cast<float*>(address(args.lse, out, head)),
                    o + row * dim_v, state[row], state[rows + row], args.dim_v);
    }
  }
}

}  // namespace weft::kernels
