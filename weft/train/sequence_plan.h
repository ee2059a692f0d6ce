// How the trainer learns what each rank computes of a packed sequence, without knowing methods or
// schedules.
//
//   PlanFactory factory = [&](const SequenceShape& shape) {
//     return std::make_shared<MyPlan>(shape, method);      // shared by all ranks
//   };
//   train(options, factory, ...);
//
// The trainer calls the factory once per packed sequence, on one thread, and then, on each rank's
// thread: token_indices(rank), attention(rank), the model's forward and backward with that
// function. Sequences follow each other; calls for two sequences never overlap on one rank, but a
// fast rank may start the next while a slow one ends this.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "weft/base/dtype.h"
#include "weft/model/attention.h"
#include "weft/model/config.h"

namespace weft {

class SequencePlan {
 public:
  virtual ~SequencePlan() = default;

  // For each local row of `rank`, in order, its index in the packed sequence. The lists of all ranks
  // together hold every index once. May be empty: such a rank calls everything with 0 rows.
  virtual std::vector<int64_t> token_indices(int rank) const = 0;

  // The attention of `rank` on those rows; used from that rank's thread only. Every rank calls it
  // equally often (once a layer), and runs backward of all calls in reverse order.
  virtual AttentionFunction attention(int rank) = 0;

  // The same for the linear layers of a hybrid model, where the shape has them. Asked for together with attention, which lives
  // as long. Throws Error(unsupported) when the plan has none.
  virtual LinearFunction linear_attention(int rank);

  // The same for their short convolutions, where the shape has them.
  virtual ConvolutionFunction convolution(int rank);

  // Another rank failed, or the user interrupted: every call of attention, running or to come, must
  // throw Error(stopped) soon. Called from any thread, perhaps more than once.
  virtual void abort() {}

  // Seconds that `rank` has spent waiting for others inside attention since the plan was made.
  virtual double waiting_seconds(int /*rank*/) const { return 0; }
};

// What a plan is made for.
struct SequenceShape {
  std::vector<int64_t> document_lengths;  // all positive; the sequence's tokens are their sum
  int ranks = 1;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  DType dtype = DType::fp32;                // of q, k and v
  bool backward = true;                     // false: attention is only called with grad mode off
  std::optional<LinearConfig> linear = {};  // of a hybrid model
};

SequenceShape sequence_shape(const ModelConfig& model, const std::vector<int64_t>& document_lengths, int ranks,
                             DType dtype, bool backward);

// The final hidden states of a rank's rows by the plan.
class Llama;
struct LocalRows;
at::Tensor hidden_by_plan(const Llama& model, const LocalRows& rows, SequencePlan& plan, int rank);

// Throws weft::Error for what the method refuses.
using PlanFactory = std::function<std::shared_ptr<SequencePlan>(const SequenceShape& shape)>;

// One rank that holds everything, with dense_attention: for tests and small models.
PlanFactory dense_plan();

}  // namespace weft
