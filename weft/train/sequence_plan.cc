#include "weft/train/sequence_plan.h"

#include <numeric>
#include <string>
#include <utility>

#include "weft/base/error.h"
#include "weft/model/llama.h"
#include "weft/train/local_rows.h"

namespace weft {

namespace {

class DensePlan : public SequencePlan {
 public:
  explicit DensePlan(std::vector<int64_t> lengths) : lengths_(std::move(lengths)) {}

  std::vector<int64_t> token_indices(int) const override {
    std::vector<int64_t> out(static_cast<size_t>(std::accumulate(lengths_.begin(), lengths_.end(), int64_t{0})));
    std::iota(out.begin(), out.end(), 0);
    return out;
  }
  AttentionFunction attention(int) override { return dense_attention(lengths_); }

 private:
  std::vector<int64_t> lengths_;
};

}  // namespace

LinearFunction SequencePlan::linear_attention(int) {
  throw Error(ErrorCode::unsupported, "this plan has attention only, and the model has linear layers; choose a method");
}

ConvolutionFunction SequencePlan::convolution(int) {
  throw Error(ErrorCode::unsupported, "this plan has no convolutions, and the model has some; choose a method");
}

SequenceShape sequence_shape(const ModelConfig& model, const std::vector<int64_t>& document_lengths, int ranks,
                             DType dtype, bool backward) {
  SequenceShape shape;
  shape.document_lengths = document_lengths;
  shape.ranks = ranks;
  shape.heads = model.num_attention_heads;
  shape.kv_heads = model.num_key_value_heads;
  shape.head_dim = model.head_dim;
  shape.dtype = dtype;
  shape.backward = backward;
  shape.linear = model.linear;
  return shape;
}

at::Tensor hidden_by_plan(const Llama& model, const LocalRows& rows, SequencePlan& plan, int rank) {
  const AttentionFunction attention = plan.attention(rank);
  const LinearFunction linear = model.config().linear ? plan.linear_attention(rank) : LinearFunction();
  const bool convolves = model.config().linear && model.config().linear->conv_width > 1;
  const ConvolutionFunction convolution = convolves ? plan.convolution(rank) : ConvolutionFunction();
  return model.hidden(rows.ids, rows.positions, attention, linear, convolution);
}

PlanFactory dense_plan() {
  return [](const SequenceShape& shape) -> std::shared_ptr<SequencePlan> {
    if (shape.ranks != 1) {
      throw Error(ErrorCode::unsupported,
                  "dense attention runs on 1 rank, not on " + std::to_string(shape.ranks) + "; choose a method");
    }
    return std::make_shared<DensePlan>(shape.document_lengths);
  };
}

}  // namespace weft
