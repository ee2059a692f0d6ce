// Tensors of a call by field, as executions take them: the rows of a rank, each whole.
//
//   FieldTensors given;
//   given.set(Field::q, with_whole_rows(q)), ...;
//   run->forward(given.inputs(), results.destinations());
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <utility>
#include <vector>

#include "weft/execute/executor.h"

namespace weft {

// Rows, the first dimension, that are contiguous in themselves and lie apart from each other; a copy only where they are not.
at::Tensor with_whole_rows(const at::Tensor& t);

class FieldTensors {
 public:
  // Undefined where there is none.
  const at::Tensor& of(Field field) const { return tensors_[static_cast<size_t>(field)]; }
  void set(Field field, at::Tensor t) { tensors_[static_cast<size_t>(field)] = std::move(t); }
  bool has(Field field) const { return of(field).defined(); }
  Fields fields() const;

  // Of tensors with whole rows, which outlive what they are passed to.
  Inputs inputs() const;
  Destinations destinations() const;

 private:
  std::array<at::Tensor, kFieldCount> tensors_;
};

// What a rank gives and gets in a phase, the parameter u among it.
Fields fields_given(const AttentionShape& shape, bool in_backward);
Fields fields_gotten(const AttentionShape& shape, bool in_backward);

// Tokens of a rank, or documents that begin or end there: the rows of a field.
int64_t rows_of_rank(const Problem& problem, Field field, int rank);

// Throws Error(usage) where a logarithm of a decay is above 0: the state would grow. `who` begins the message.
void require_decays(const char* who, const at::Tensor& g);

// "[2, 3]".
std::string text_of(at::IntArrayRef sizes);

}  // namespace weft
