#include "weft/train/sequence_plan.h"

#include <numeric>
#include <string>
#include <utility>

#include "weft/base/error.h"

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
