#include "weft/torch/field_tensors.h"

#include <algorithm>

#include "weft/base/error.h"
#include "weft/base/text.h"

namespace weft {

at::Tensor with_whole_rows(const at::Tensor& t) {
  if (t.numel() == 0) return t;
  int64_t row = 1;
  for (int64_t d = t.dim() - 1; d > 0; --d) {
    if (t.size(d) != 1 && t.stride(d) != row) return t.contiguous();
    row *= t.size(d);
  }
  return t.size(0) == 1 || t.stride(0) >= row ? t : t.contiguous();  // an expanded row is one row
}

Fields FieldTensors::fields() const {
  Fields fields;
  for (int i = 0; i < kFieldCount; ++i) {
    if (has(static_cast<Field>(i))) fields = fields | static_cast<Field>(i);
  }
  return fields;
}

Inputs FieldTensors::inputs() const {
  Inputs inputs;
  fields().for_each([&](Field field) {
    const at::Tensor& t = of(field);
    ConstTensor* place = inputs.of(field);
    if (place != nullptr && t.numel() > 0) *place = {t.const_data_ptr(), t.size(0) == 1 ? 0 : t.stride(0)};
  });
  return inputs;
}

Destinations FieldTensors::destinations() const {
  Destinations destinations;
  fields().for_each([&](Field field) {
    const at::Tensor& t = of(field);
    void** place = destinations.place_of(field);
    if (place != nullptr && t.numel() > 0) *place = t.mutable_data_ptr();
  });
  return destinations;
}

Fields fields_given(const AttentionShape& shape, bool in_backward) {
  const Fields fields = shape.inputs_of(in_backward);
  return traits_of(shape.layer).bonus ? fields | Field::u : fields;
}

Fields fields_gotten(const AttentionShape& shape, bool in_backward) {
  const Fields fields = shape.results_of(in_backward);
  return in_backward && traits_of(shape.layer).bonus ? fields | Field::du : fields;
}

int64_t rows_of_rank(const Problem& problem, Field field, int rank) {
  const Layout& layout = kKeyFields.has(field) ? problem.key_layout : problem.query_layout;
  if (!kDocumentFields.has(field)) return layout.tokens_of(rank);
  return problem.rows_among(IntervalSet(layout.shard(rank)), field).size();
}

void require_decays(const char* who, const at::Tensor& g) {
  const at::Tensor growing = g.gt(0);
  if (!growing.any().item<bool>()) return;
  throw Error(ErrorCode::usage, std::string(who) + ": g is the natural logarithm of a decay, at most 0, and holds " +
                                    format_double(g.masked_select(growing).max().item<double>()) +
                                    "; give, say, logsigmoid(x) or -softplus(x)");
}

std::string text_of(at::IntArrayRef sizes) {
  std::string list;
  for (int64_t size : sizes) list += (list.empty() ? "" : ", ") + std::to_string(size);
  return "[" + list + "]";
}

}  // namespace weft
