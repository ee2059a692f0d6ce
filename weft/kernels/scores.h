// Whole rows of scores: attention as it was before online softmax, in three products and two element-wise steps.
//
//   scores = scale * q k^T     probs = softmax(scores)     out += probs v
//   dprobs = dout v^T          dv += probs^T dout
//   dscores = probs * (dprobs - rowsum(probs * dprobs))    dq += scale * dscores k      dk += scale * dscores^T q
//
// Plain loops, everything in fp64, rounded once when an output is stored; the same for every kernel set. A row of scores
// has contiguous columns, one for each key that is kept; columns of pairs that are not allowed hold -inf as scores and 0
// as anything else.
#pragma once

#include "weft/kernels/kernels.h"

namespace weft::kernels {

// The operands of one product. Of a block, band.k counts rows of `keys`, kv_grad_row columns of `scores`, and
// band.q and out_row count rows as the product says.
template <typename Queries, typename Keys, typename Scores>
struct ProductArgs {
  Queries queries;  // [rows, heads, columns]: q, dout, out or dq
  Keys keys;        // [rows, kv heads, columns]: k, v, dk or dv
  Scores scores;    // [rows, heads, kept keys]
  int64_t heads = 0;
  std::span<const int32_t> kv_head;  // [heads] which head of keys query head h reads
  int64_t columns = 0;               // of queries and keys
  double scale = 1;
  std::span<const Block> blocks;
  const StopFlag* stop = nullptr;  // polled per row; raises Error(stopped)
};

// scores = scale * queries keys^T for the pairs that the blocks allow. band.q: rows of queries; out_row: of scores.
void multiply_into_scores(const ProductArgs<ConstView, ConstView, View>& args);
// queries += scale * scores keys. band.q: rows of scores; out_row: of queries.
void multiply_into_queries(const ProductArgs<View, ConstView, ConstView>& args);
// keys += scale * scores^T queries. band.q: rows of queries; out_row: of scores.
void multiply_into_keys(const ProductArgs<ConstView, View, ConstView>& args);

// lse = ln(sum(exp(scores))) over all columns, probs = exp(scores - lse); rows that are -inf throughout become 0.
void softmax(View probs, View lse, ConstView scores, Shape shape);
// dscores = probs * (dprobs - rowsum(probs * dprobs)).
void softmax_backward(View dscores, ConstView probs, ConstView dprobs, Shape shape);

}  // namespace weft::kernels
