// attend and attend_backward of one block of few queries and keys on the CPU: a short document. Rows are read where they lie,
// as long as they are fp32 in whole vectors. While one head is computed the rows of the next one, which may be that of the next
// block, are asked of memory: a few columns of each, between those of other heads, are nothing that a processor foresees.
#include "weft/kernels/checks.h"
#include "weft/kernels/cpu_kernels.h"
#include "weft/kernels/driver.h"

namespace weft::kernels {
namespace {

// Rows as floats, with room for whole vectors: in place, or a copy.
RowsOf<const float> float_rows(const TileOps& ops, ScratchBuffer& buffer, const RowsIn& rows) {
  const int64_t stride = round_up(rows.columns, ops.strip / 2);
  if (rows.type == DType::fp32 && rows.columns == stride) return {static_cast<const float*>(rows.data), rows.stride};
  float* const to = buffer.get(rows.rows * stride);
  ops.blocks->read(rows.data, rows.type, rows.stride, rows.rows, rows.columns, 0, {to, stride});
  return {to, stride};
}

// Transposed, with zeros behind the rows up to whole vectors.
RowsOf<const float> float_columns(const TileOps& ops, ScratchBuffer& buffer, const RowsIn& rows, double factor) {
  const int64_t stride = round_up(rows.rows, ops.strip / 2);
  float* const to = buffer.get(rows.columns * stride);
  ops.pack_rows(rows, stride, static_cast<float>(factor), to);
  return {to, stride};
}

// One head of a block: what is computed at once.
struct ShortHead {
  const Block* block;
  const HeadGroup* group;
  int32_t head;
  BandRectangle band;  // of the block, shrunk

  int64_t kv_head() const { return group->kv_head; }
  // Row of an output or input that has row `first` where the block begins.
  Range query_rows(int64_t first) const {
    const int64_t begin = first + band.q.begin - block->band.q.begin;
    return {begin, begin + band.q.size()};
  }
  Range key_rows(int64_t first) const {
    const int64_t begin = first + band.k.begin - block->band.k.begin;
    return {begin, begin + band.k.size()};
  }
};

// Calls compute(head, next) for all heads of the groups, where next is what comes after, or has no queries. Blocks are short
// that have at most `most` queries and keys.
template <typename Args, typename Compute>
void for_each_head(const Args& args, std::span<const HeadGroup> groups, const Block& block, int64_t most,
                   const Compute& compute) {
  const Block* const following = &block + 1;
  const bool follows = following < args.blocks.data() + args.blocks.size() && is_short(*following, most);
  if (groups.empty()) return;
  ShortHead here = {&block, &groups[0], 0, shrink(block.band)};
  if (here.band.q.empty()) return;
  for (size_t g = 0; g < groups.size(); ++g) {
    here.group = &groups[g];
    for (size_t i = 0; i < here.group->heads.size(); ++i) {
      if (args.stop) args.stop->poll();
      here.head = here.group->heads[i];
      ShortHead next = here;
      if (i + 1 < here.group->heads.size()) {
        next.head = here.group->heads[i + 1];
      } else if (g + 1 < groups.size()) {
        next.group = &groups[g + 1], next.head = next.group->heads[0];
      } else {
        next = {following, &groups[0], groups[0].heads[0], follows ? shrink(following->band) : BandRectangle{}};
      }
      compute(here, next);
    }
  }
}

// The cache lines of rows that a next head needs.
class LinesToCome {
 public:
  // With room for `steps` of a product behind them.
  LinesToCome(std::vector<const void*>& lines, int64_t steps) : lines_(lines), steps_(steps) { lines_.clear(); }

  void add(const ConstView& view, Range rows, int64_t head, int64_t columns) {
    constexpr uintptr_t kLine = 64;
    if (!view.data) return;
    const uintptr_t first = reinterpret_cast<uintptr_t>(address(view, rows.begin, head));
    const uintptr_t stride = static_cast<uintptr_t>(view.row_stride) * size_of(view.type);
    const uintptr_t bytes = static_cast<uintptr_t>(columns) * size_of(view.type);
    const size_t before = lines_.size(), most = static_cast<size_t>(rows.size()) * (bytes / kLine + 2);
    lines_.resize(before + most);
    const void** to = lines_.data() + before;
    for (uintptr_t row = first; row != first + stride * static_cast<uintptr_t>(rows.size()); row += stride) {
      for (uintptr_t at = row / kLine * kLine; at < row + bytes; at += kLine) *to++ = reinterpret_cast<const void*>(at);
    }
    lines_.resize(static_cast<size_t>(to - lines_.data()));
  }
  CacheLines all() {
    const size_t count = lines_.size();
    lines_.resize(count + static_cast<size_t>(steps_), count == 0 ? lines_.data() : lines_.back());
    return {lines_.data(), lines_.data() + count};
  }

 private:
  std::vector<const void*>& lines_;
  const int64_t steps_;
};

RowsOf<float> rows_to(const View& view, Range rows, int64_t head) {
  if (!view.data) return {};
  return {static_cast<float*>(address(view, rows.begin, head)), view.row_stride};
}

class ShortAttend {
 public:
  ShortAttend(const TileOps& ops, const AttendArgs& args) : ops_(ops), args_(args), scratch_(thread_scratch()) {}

  void run(const ShortHead& h, const ShortHead& next) {
    if (h.group != packed_) pack_keys(h);
    if (!finite_) return cpu_attend_in_tiles(ops_, args_, {h.group->kv_head, {h.head}}, *h.block, h.band.q);
    const int64_t shift = h.band.k.begin - h.band.q.begin;
    const Range out = h.query_rows(h.block->out_row);
    ops_.forward_short({
        .queries = h.band.q.size(),
        .keys = h.band.k.size(),
        .dim = args_.dim,
        .dim_v = args_.dim_v,
        .lo = h.band.lo - shift,
        .hi = h.band.hi - shift,
        .q = float_rows(ops_, scratch_.q, rows_of(args_.q, h.band.q, h.head, args_.dim)),
        .k_columns = k_columns_,
        .v = v_,
        .o = rows_to(args_.o, out, h.head),
        .lse = rows_to(args_.lse, out, h.head),
        .scores = scratch_.scores.get(kMostOfGroup * k_columns_.stride),
        .next = lines_of(h, next),
    });
  }

 private:
  void pack_keys(const ShortHead& h) {
    v_ = float_rows(ops_, scratch_.v, rows_of(args_.v, h.band.k, h.kv_head(), args_.dim_v));
    finite_ = !has_edge(h.band) || ops_.rows_finite(v_, h.band.k.size(), args_.dim_v);
    const RowsIn k = rows_of(args_.k, h.band.k, h.kv_head(), args_.dim);
    k_columns_ = float_columns(ops_, scratch_.k, k, args_.scale * kLog2E);
    packed_ = finite_ ? h.group : nullptr;  // tiles use the same working memory
  }

  CacheLines lines_of(const ShortHead& h, const ShortHead& next) const {
    LinesToCome lines(scratch_.lines, std::max(args_.dim, ops_.short_forward));
    if (next.band.q.empty()) return lines.all();
    if (next.group != h.group || next.block != h.block) {
      lines.add(args_.v, next.band.k, next.kv_head(), args_.dim_v);
      lines.add(args_.k, next.band.k, next.kv_head(), args_.dim);
    }
    lines.add(args_.q, next.band.q, next.head, args_.dim);
    lines.add(args_.o, next.query_rows(next.block->out_row), next.head, args_.dim_v);
    return lines.all();
  }

  const TileOps& ops_;
  const AttendArgs& args_;
  Scratch& scratch_;
  const HeadGroup* packed_ = nullptr;
  RowsOf<const float> k_columns_ = {}, v_ = {};
  bool finite_ = true;
};

class ShortAttendBackward {
 public:
  ShortAttendBackward(const TileOps& ops, const AttendBackwardArgs& args)
      : ops_(ops), args_(args), scratch_(thread_scratch()) {}

  void run(const ShortHead& h, const ShortHead& next) {
    if (h.group != packed_) pack_keys(h);
    const int64_t queries = h.band.q.size(), shift = h.band.k.begin - h.band.q.begin;
    const Range bundle = h.query_rows(h.block->bundle_row), key_rows = h.key_rows(h.block->kv_grad_row);
    const RowsOf<const float> q = float_rows(ops_, scratch_.q, rows_of(args_.q, h.band.q, h.head, args_.dim));
    const RowsOf<const float> dout = float_rows(ops_, scratch_.dout, rows_of(args_.dout, bundle, h.head, args_.dim_v));
    float *const lse = scratch_.rows.get(2 * queries), *const delta = lse + queries;
    read_statistics(args_, h.head, bundle.begin, queries, queries, lse, delta);
    const bool finite = keys_finite_ && ops_.rows_finite(q, queries, args_.dim) &&
                        ops_.rows_finite(dout, queries, args_.dim_v) && ops_.all_finite(delta, queries);
    if (!finite && has_edge(h.band)) {
      packed_ = nullptr;  // tiles use the same working memory
      return cpu_attend_backward_in_tiles(ops_, args_, {h.group->kv_head, {h.head}}, *h.block);
    }
    ops_.backward_short({
        .queries = queries,
        .keys = h.band.k.size(),
        .dim = args_.dim,
        .dim_v = args_.dim_v,
        .lo = h.band.lo - shift,
        .hi = h.band.hi - shift,
        .scale = static_cast<float>(args_.scale),
        .q = q,
        .k = k_,
        .dout = dout,
        .k_columns = k_columns_,
        .v_columns = v_columns_,
        .lse = lse,
        .delta = delta,
        .dq = rows_to(args_.dq, h.query_rows(h.block->out_row), h.head),
        .dk = rows_to(args_.dk, key_rows, h.kv_head()),
        .dv = rows_to(args_.dv, key_rows, h.kv_head()),
        .p = scratch_.scores.get(queries * k_columns_.stride),
        .ds = scratch_.gradients.get(queries * k_columns_.stride),
        .next = lines_of(h, next),
    });
  }

 private:
  void pack_keys(const ShortHead& h) {
    const RowsIn k = rows_of(args_.k, h.band.k, h.kv_head(), args_.dim);
    const RowsIn v = rows_of(args_.v, h.band.k, h.kv_head(), args_.dim_v);
    k_ = float_rows(ops_, scratch_.k_columns, k);
    k_columns_ = float_columns(ops_, scratch_.k, k, args_.scale * kLog2E);
    v_columns_ = float_columns(ops_, scratch_.v, v, 1);
    keys_finite_ = ops_.all_finite(k_columns_.data, args_.dim * k_columns_.stride) &&
                   ops_.all_finite(v_columns_.data, args_.dim_v * v_columns_.stride);
    packed_ = h.group;
  }

  CacheLines lines_of(const ShortHead& h, const ShortHead& next) const {
    LinesToCome lines(scratch_.lines, std::max({args_.dim, args_.dim_v, ops_.short_backward}));
    if (next.band.q.empty()) return lines.all();
    const bool other_keys = next.group != h.group || next.block != h.block;
    if (other_keys) {
      lines.add(args_.k, next.band.k, next.kv_head(), args_.dim);
      lines.add(args_.v, next.band.k, next.kv_head(), args_.dim_v);
    }
    lines.add(args_.q, next.band.q, next.head, args_.dim);
    lines.add(args_.dout, next.query_rows(next.block->bundle_row), next.head, args_.dim_v);
    lines.add(args_.dq, next.query_rows(next.block->out_row), next.head, args_.dim);
    if (!other_keys) return lines.all();
    const Range keys = next.key_rows(next.block->kv_grad_row);
    lines.add(args_.dv, keys, next.kv_head(), args_.dim_v);
    lines.add(args_.dk, keys, next.kv_head(), args_.dim);
    return lines.all();
  }

  const TileOps& ops_;
  const AttendBackwardArgs& args_;
  Scratch& scratch_;
  const HeadGroup* packed_ = nullptr;
  RowsOf<const float> k_ = {}, k_columns_ = {}, v_columns_ = {};
  bool keys_finite_ = true;
};

}  // namespace

void cpu_attend_short(const TileOps& ops, const AttendArgs& args, std::span<const HeadGroup> groups,
                      const Block& block) {
  ShortAttend attend(ops, args);
  for_each_head(args, groups, block, ops.short_forward,
                [&](const ShortHead& head, const ShortHead& next) { attend.run(head, next); });
}

void cpu_attend_backward_short(const TileOps& ops, const AttendBackwardArgs& args, std::span<const HeadGroup> groups,
                               const Block& block) {
  ShortAttendBackward attend(ops, args);
  for_each_head(args, groups, block, ops.short_backward,
                [&](const ShortHead& head, const ShortHead& next) { attend.run(head, next); });
}

}  // namespace weft::kernels
