#include "weft/methods/passes/context_pass.h"

#include <optional>

namespace weft::methods {
namespace {

// Backward starts from the block that forward held last, so that block stays alive between the phases.
class FlatContext : public ContextPass {
 public:
  FlatContext(Builder& builder, std::shared_ptr<const Ring> ring, int place, Set kv_heads)
      : pass_(builder, std::move(ring), place, kv_heads) {}

  int forward_steps() const override { return pass_.steps(); }
  int backward_steps() const override { return pass_.steps(); }
  void forward(int t, const Value& q, const Value& kv, const Value& acc) override {
    if (t == 0) current_ = kv;
    pass_.forward(t, q, acc, current_);
  }
  void backward(int t, const Value& q, const Value& kv, const Slices& bundle, const Value& dq) override {
    pass_.backward(t, q, kv, bundle, dq, current_, sums_);
  }
  Value take_sums() override {
    current_.reset();
    return std::move(sums_);
  }

 private:
  RingPass pass_;
  Value current_, sums_;
};

class DoubleContext : public ContextPass {
 public:
  DoubleContext(Builder& builder, std::shared_ptr<const DoubleRing> ring, int place, Set kv_heads)
      : b_(builder), ring_(std::move(ring)), place_(place), kv_heads_(kv_heads) {}

  int forward_steps() const override { return static_cast<int>(ring_->ranks.size()); }
  int backward_steps() const override { return forward_steps() + 1; }  // the last brings sums home
  void forward(int t, const Value& q, const Value& kv, const Value& acc) override {
    if (t == 0) pass_.emplace(b_, ring_, place_, moving_keys(kv), kv_heads_);
    pass_->trade(t);
    b_.attend(q, pass_->block(), acc);
    if (t + 1 == forward_steps()) pass_.reset();
  }
  void backward(int t, const Value& q, const Value& kv, const Slices& bundle, const Value& dq) override {
    if (t == 0) {
      sums_ = b_.sums(Field::dk | Field::dv, kv.tokens(), kv_heads_);
      pass_.emplace(b_, ring_, place_, moving_keys(kv, sums_), kv_heads_);
    }
    pass_->trade(t);
    if (!pass_->block().empty()) b_.attend_backward(q, pass_->block(), bundle, dq, pass_->target());
    pass_->settle();
    if (t + 1 == backward_steps()) pass_.reset();
  }
  Value take_sums() override { return std::move(sums_); }

 private:
  Builder& b_;
  std::shared_ptr<const DoubleRing> ring_;
  int place_;
  Set kv_heads_;
  std::optional<DoubleRingPass> pass_;  // of the phase
  Value sums_;
};

}  // namespace

ContextRing flat_context(std::shared_ptr<const Ring> around) {
  return [around = std::move(around)](Builder& builder, int place, Set kv_heads) {
    return std::make_unique<FlatContext>(builder, around, place, kv_heads);
  };
}

ContextRing double_context(std::shared_ptr<const DoubleRing> around) {
  return [around = std::move(around)](Builder& builder, int place, Set kv_heads) {
    return std::make_unique<DoubleContext>(builder, around, place, kv_heads);
  };
}

}  // namespace weft::methods
