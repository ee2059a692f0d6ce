#include "weft/methods/formulas/parts.h"

namespace weft::methods {
namespace {

// Pairs of a causal mask whose queries live on a rank.
int64_t causal_pairs(std::string_view layout, int64_t block, int64_t ranks, int64_t rows, int64_t rank) {
  if (layout == "contiguous") return rank * rows * rows + rows * (rows + 1) / 2;
  if (layout == "striped") return ranks * (rows * (rows - block) / 2) + rows * rank * block + rows * (block + 1) / 2;
  return rows * (ranks * rows + 1) / 2;  // zigzag
}

}  // namespace

Shares share_rows(const Configuration& c, std::string_view own, Formula& f, int64_t block, int64_t cuts) {
  const std::string_view layout = c.layout.empty() ? own : c.layout;
  const bool zigzag = layout == "zigzag";
  if (!c.layout.empty() || layout != "striped") block = 1;
  if (!zigzag && layout != "contiguous" && layout != "striped") {
    f.reason = "no closed form on this layout; known: contiguous, zigzag, striped";
    return {};
  }
  if (c.mask.window > 0 && c.mask.window < c.tokens) {
    f.reason = "no closed form for a sliding window";
    return {};
  }
  const int64_t ranks = c.ranks;
  cuts = ranks == 1 ? 1 : cuts > 1 ? cuts * c.unit_of_cuts() : cuts;  // alone nothing travels
  if (cuts > 1 && layout == "striped" && c.mask.causal) {
    f.reason = "no closed form for pieces of striped shards under a causal mask";
    return {};
  }
  // Chunks of a causal zigzag, and of P = 1, are the smallest unit that must divide; and pieces of it for exact numbers.
  const int64_t unit = (zigzag && ranks > 1 ? 2 : block) * ranks, pieces = unit * cuts;
  if (c.tokens < pieces) {
    f.reason = "no closed form for fewer tokens than " + std::string(cuts > 1    ? "pieces"
                                                                     : zigzag    ? "two for each rank"
                                                                     : block > 1 ? "a block for each rank"
                                                                                 : "ranks");
    return {};
  }
  f.exact = c.tokens % pieces == 0;
  Shares shares;
  shares.ranks = ranks;
  const int64_t rows = shares.rows = (c.tokens + unit - 1) / unit * unit / ranks;
  shares.full = !c.mask.causal;
  if (shares.full) {
    shares.keys = shares.queries = {rows, rows};
    shares.work = same_on_all(ranks, ranks * rows * rows * c.heads);
    return shares;
  }
  if (layout == "contiguous") {
    shares.keys = {0, rows};
  } else if (zigzag) {
    shares.keys = {rows, rows / 2};
  } else {
    shares.keys = {rows - block, rows};
  }
  // Under a causal mask the rows of i that see keys of p are, from the other end, the keys of i that p's queries see.
  shares.queries = layout == "zigzag" ? shares.keys : shares.keys.mirrored();
  shares.work = over_all(ranks, [&](int64_t rank) { return causal_pairs(layout, block, ranks, rows, rank) * c.heads; });
  return shares;
}

RowBytes::RowBytes(const AttentionShape& shape) {
  const auto memory = [&](Fields fields, Form form) { return shape.bytes_per_token(fields, form); };
  q = memory(Field::q, Form::whole);
  kv = memory(Field::k | Field::v, Form::whole);
  dout = memory(Field::dout, Form::whole);
  delta = memory(Field::delta, Form::whole);
  bundle = memory(Field::q | Field::dout | Field::lse | Field::delta, Form::whole);
  out = memory(Field::out | Field::lse, Form::whole);
  dq_done = memory(Field::dq, Form::whole);
  dkv_done = memory(Field::dk | Field::dv, Form::whole);
  const bool narrower = shape.wire != shape.accumulator();
  const auto sums = [&](Fields fields, int64_t& held, int64_t& sent, int64_t& packed) {
    held = memory(fields, Form::accumulating);
    sent = shape.wire_bytes_per_token(fields, Form::accumulating);
    packed = narrower ? sent : 0;
  };
  sums(Field::out | Field::lse, partial, sent_partial, packed_partial);
  sums(Field::dq, dq, sent_dq, packed_dq);
  sums(Field::dk | Field::dv, dkv, sent_dkv, packed_dkv);
}

}  // namespace weft::methods
