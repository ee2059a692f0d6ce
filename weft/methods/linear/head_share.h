// How head-exchange deals the heads to the ranks, and what a share has of rows that several heads have in common.
#pragma once

#include "weft/base/range.h"
#include "weft/schedule/problem.h"

namespace weft::methods {

// The heads that a rank scans; empty for some where there are more ranks than heads.
inline Range head_share(int64_t heads, int64_t rank, int64_t ranks) {
  return {heads * rank / ranks, heads * (rank + 1) / ranks};
}

// The gradients that are sums over ranks: dq and dk where heads of two ranks have rows of q and k in common, which both fetch.
inline Fields summed_over_ranks(const AttentionShape& shape, int64_t ranks) {
  const int64_t sharing = shape.sharing(Field::q);
  for (int64_t rank = 1; rank < ranks && sharing > 1; ++rank)
    if (head_share(shape.heads, rank, ranks).begin % sharing != 0) return Field::dq | Field::dk;
  return {};
}

// Calls f(field, rows of a token) for what some heads have of each field.
template <typename F>
void for_each_field_in(const AttentionShape& shape, Fields fields, Range heads, F&& f) {
  fields.for_each([&](Field field) {
    const int64_t sharing = shape.sharing(field);
    f(field, heads.empty() ? 0 : (heads.end + sharing - 1) / sharing - heads.begin / sharing);
  });
}

// Bytes of a token in some heads, in memory and in a message.
inline int64_t bytes_of_share(const AttentionShape& shape, Fields fields, Form form, Range heads) {
  int64_t bytes = 0;
  for_each_field_in(shape, fields, heads,
                    [&](Field field, int64_t rows) { bytes += rows * shape.bytes_per_row(field, form); });
  return bytes;
}
inline int64_t wire_bytes_of_share(const AttentionShape& shape, Fields fields, Form form, Range heads) {
  int64_t bytes = 0;
  for_each_field_in(shape, fields, heads,
                    [&](Field field, int64_t rows) { bytes += rows * shape.wire_bytes_per_row(field, form); });
  return bytes;
}
// In a message, of the shares of all ranks.
inline int64_t wire_bytes_of_shares(const AttentionShape& shape, Fields fields, Form form, int64_t ranks) {
  int64_t bytes = 0;
  for (int64_t rank = 0; rank < ranks; ++rank)
    bytes += wire_bytes_of_share(shape, fields, form, head_share(shape.heads, rank, ranks));
  return bytes;
}

}  // namespace weft::methods
