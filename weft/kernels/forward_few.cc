// attend of a few queries on the CPU (decode, and the ends of short documents): keys are cut into chunks of fixed length whose
// partial results are merged in order. All heads meet a chunk before the next one comes, since their rows lie side by side:
// what is read is one piece of memory, in order.
#include "weft/kernels/checks.h"
#include "weft/kernels/cpu_kernels.h"
#include "weft/kernels/driver.h"

namespace weft::kernels {
namespace {

class FewQueries {
 public:
  FewQueries(const TileOps& ops, const AttendArgs& args, std::span<const HeadGroup> groups, const Block& block)
      : ops_(ops),
        args_(args),
        block_(block),
        band_(shrink(block.band)),
        scratch_(thread_scratch()),
        dim_(round_up(args.dim, ops.strip)),
        dim_v_(round_up(args.dim_v, ops.strip)) {
    int64_t most = 0, all = 0;
    for (const HeadGroup& group : groups) {
      groups_.push_back({&group, band_.q.size() * static_cast<int64_t>(group.heads.size()), all});
      most = std::max(most, groups_.back().rows);
      all += round_up(groups_.back().rows, kFewRowsMultiple);
    }
    limits_.resize(static_cast<size_t>(2 * most));
    q_ = zeros(scratch_.q, all * dim_);
    state_ = scratch_.state.get(2 * most);
    o_ = scratch_.o.get(most * dim_v_);
    work_ = scratch_.scores.get(kFewKeys * (dim_ + dim_v_ + round_up(most, kFewRowsMultiple)));
  }

  void run() {
    for (const Group& group : groups_) read_queries(group);
    for (int64_t key = band_.k.begin; key < band_.k.end; key += kFewChunk) {
      if (args_.stop) args_.stop->poll();
      for (size_t g = 0; g < groups_.size(); ++g) run_chunk(g, intersect(band_.k, {key, key + kFewChunk}));
    }
  }

 private:
  struct Group {
    const HeadGroup* heads;
    int64_t rows;   // of queries: row head * queries + query
    int64_t first;  // row in q_
  };
  int32_t head_of(const Group& group, int64_t row) const {
    return group.heads->heads[static_cast<size_t>(row / band_.q.size())];
  }

  // As floats and followed by zeros.
  void read_queries(const Group& group) {
    for (int64_t row = 0; row < group.rows; ++row) {
      float* const to = q_ + (group.first + row) * dim_;
      const void* const from = address(args_.q, band_.q.begin + row % band_.q.size(), head_of(group, row));
      ops_.to_float(from, args_.q.type, to, args_.dim);
      for (int64_t c = 0; c < args_.dim; ++c) to[c] *= static_cast<float>(args_.scale * kLog2E);
    }
  }

  // What a group asks for of the keys behind `keys` while it works: of rows of all heads, side by side, a share; else the rows
  // of its own head.
  RowsIn share_of_next(const ConstView& view, size_t g, Range keys, int64_t columns) const {
    const Range next = intersect(band_.k, {keys.end, keys.end + kFewChunk});
    const int64_t heads = static_cast<int64_t>(groups_.size()), head = static_cast<int64_t>(g);
    if (view.head_stride != columns) return rows_of(view, next, groups_[g].heads->kv_head, columns);
    const Range share = {next.begin + next.size() * head / heads, next.begin + next.size() * (head + 1) / heads};
    return rows_of(view, share, groups_[0].heads->kv_head, columns * heads);
  }

  void run_chunk(size_t g, Range keys) {
    const Group& group = groups_[g];
    for (int64_t row = 0; row < group.rows; ++row) {
      const int64_t query = band_.q.begin + row % band_.q.size();
      const Range seen = intersect(keys, {query + band_.lo, query + band_.hi + 1});
      limits_[static_cast<size_t>(row)] = seen.begin - keys.begin;
      limits_[static_cast<size_t>(group.rows + row)] = seen.end - keys.begin;
    }
    float *const maximum = state_, *const sum = state_ + group.rows;
    ops_.forward_few({.rows = group.rows,
                      .k = rows_of(args_.k, keys, group.heads->kv_head, args_.dim),
                      .v = rows_of(args_.v, keys, group.heads->kv_head, args_.dim_v),
                      .next_k = share_of_next(args_.k, g, keys, args_.dim),
                      .next_v = share_of_next(args_.v, g, keys, args_.dim_v),
                      .q = q_ + group.first * dim_,
                      .q_stride = dim_,
                      .begin = limits_.data(),
                      .end = limits_.data() + group.rows,
                      .maximum = maximum,
                      .sum = sum,
                      .o = o_,
                      .o_stride = dim_v_,
                      .scratch = work_});
    for (int64_t row = 0; row < group.rows; ++row) {
      const int32_t head = head_of(group, row);
      const int64_t out = block_.out_row + band_.q.begin + row % band_.q.size() - block_.band.q.begin;
      ops_.merge_row(static_cast<float*>(address(args_.o, out, head)),
                     static_cast<float*>(address(args_.lse, out, head)), o_ + row * dim_v_, maximum[row], sum[row],
                     args_.dim_v);
    }
  }

  const TileOps& ops_;
  const AttendArgs& args_;
  const Block& block_;
  const BandRectangle band_;
  Scratch& scratch_;
  const int64_t dim_, dim_v_;  // padded
  std::vector<Group> groups_;
  std::vector<int64_t> limits_;
  float *q_, *state_, *o_, *work_;
};

}  // namespace

void cpu_attend_few(const TileOps& ops, const AttendArgs& args, std::span<const HeadGroup> groups, const Block& block) {
  if (shrink(block.band).q.empty()) return;
  FewQueries(ops, args, groups, block).run();
}

}  // namespace weft::kernels
