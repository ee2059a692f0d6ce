// Heads that have rows in common: q, k and their gradients where a linear layer has fewer key heads than heads.
//
// Slices name heads, of these fields too, so that one value holds k and v and a contribution is proved for each head. A field that
// is shared has one row for all the heads of a value that share it. Who reads or adds for some of them is free to; what a row holds
// as a whole belongs to all of them (docs/schedule.md, section 2).
#pragma once

#include "weft/schedule/problem.h"
#include "weft/schedule/set_pool.h"

namespace weft {

// The rows that a field has for these heads, as numbers: heads, or the numbers of their groups.
inline SetId rows_of_heads(SetPool& pool, const AttentionShape& shape, Field field, SetId heads) {
  return pool.contract(heads, shape.sharing(field));
}

// Of bytes of all heads, given those of a head and of its shared fields: what is saved by storing these once.
inline int64_t bytes_saved(SetPool& pool, const AttentionShape& shape, SetId heads, int64_t shared_bytes) {
  return (pool.size(heads) - pool.size(pool.contract(heads, shape.sharing(Field::q)))) * shared_bytes;
}

// Bytes of a token in these heads, in memory and in a message.
inline int64_t bytes_in_heads(SetPool& pool, const AttentionShape& shape, SetId heads, Fields fields, Form form) {
  const int64_t bytes = pool.size(heads) * shape.bytes_per_row(fields, form);
  const Fields shared = fields & shape.shared_fields();
  return shared.empty() ? bytes : bytes - bytes_saved(pool, shape, heads, shape.bytes_per_row(shared, form));
}
inline int64_t wire_bytes_in_heads(SetPool& pool, const AttentionShape& shape, SetId heads, Fields fields, Form form) {
  const int64_t bytes = pool.size(heads) * shape.wire_bytes_per_row(fields, form);
  const Fields shared = fields & shape.shared_fields();
  return shared.empty() ? bytes : bytes - bytes_saved(pool, shape, heads, shape.wire_bytes_per_row(shared, form));
}

// Whether `heads` lack some of `all` that have rows of these fields in common with them.
inline bool cut_shared_rows(SetPool& pool, const AttentionShape& shape, Fields fields, SetId heads, SetId all) {
  if (heads == all || (fields & shape.shared_fields()).empty()) return false;
  const int64_t sharing = shape.sharing(Field::q);
  return pool.intersects(pool.contract(heads, sharing), pool.contract(pool.subtract(all, heads), sharing));
}

}  // namespace weft
