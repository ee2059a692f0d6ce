// Whether messages hold what their receiver expects. Private to this folder.
//
// In main memory a wrong label is found at once. On a device nobody waits for the answer: differences are counted there, and
// the count, copied at the end of each phase, is looked at by the first later call that finds it complete.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <deque>
#include <optional>

namespace weft::torch_internal {

class LabelCheck {
 public:
  // At the beginning of a message, in its first 8 bytes.
  static void write(const at::Tensor& message, uint64_t label);
  // Of a message from a peer. Throws Error(wrong) where it can be read here.
  void compare(const at::Tensor& message, uint64_t expected, int peer);
  // Of a phase: the count sets out for main memory.
  void end_phase();
  // Throws Error(wrong) when a count that has come in is not 0.
  void refuse_if_wrong();

 private:
  struct Count {
    at::Tensor wrong;  // one int64 in main memory
    std::optional<c10::Event> there;
  };
  at::Tensor wrong_;  // on the device, since the last end of a phase; undefined: nothing was compared
  std::deque<Count> on_the_way_;
};

}  // namespace weft::torch_internal
