#include "weft/torch/label_check.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstring>
#include <string>

#include "weft/base/error.h"

namespace weft::torch_internal {
namespace {

[[noreturn]] void refuse(const std::string& who) {
  throw Error(ErrorCode::wrong,
              who +
                  " something else than this rank expects; ranks differ in plan, tensors or the order "
                  "of their calls");
}

at::Tensor header_of(const at::Tensor& message) { return message.narrow(0, 0, 8).view(at::kLong); }

}  // namespace

void LabelCheck::write(const at::Tensor& message, uint64_t label) {
  if (message.device().is_cpu()) {
    std::memcpy(message.mutable_data_ptr(), &label, sizeof(label));
  } else {
    header_of(message).fill_(static_cast<int64_t>(label));
  }
}

void LabelCheck::compare(const at::Tensor& message, uint64_t expected, int peer) {
  if (message.device().is_cpu()) {
    uint64_t label = 0;
    std::memcpy(&label, message.const_data_ptr(), sizeof(label));
    if (label != expected) refuse("a message from rank " + std::to_string(peer) + " holds");
    return;
  }
  const at::Tensor wrong = (header_of(message) != static_cast<int64_t>(expected)).to(at::kLong);
  wrong_ = wrong_.defined() ? wrong_ + wrong : wrong;
}

void LabelCheck::end_phase() {
  if (!wrong_.defined()) return;
  Count count;
  count.wrong = at::empty({1}, at::TensorOptions().dtype(at::kLong).pinned_memory(true));
  count.wrong.copy_(wrong_, /*non_blocking=*/true);
  count.there.emplace(wrong_.device().type());
  count.there->record(c10::impl::VirtualGuardImpl(wrong_.device().type()).getStream(wrong_.device()));
  on_the_way_.push_back(std::move(count));
  wrong_.reset();
}

void LabelCheck::refuse_if_wrong() {
  while (!on_the_way_.empty() && on_the_way_.front().there->query()) {
    const int64_t wrong = *on_the_way_.front().wrong.const_data_ptr<int64_t>();
    on_the_way_.pop_front();
    if (wrong != 0) refuse("in an earlier call " + std::to_string(wrong) + " messages held");
  }
}

}  // namespace weft::torch_internal
