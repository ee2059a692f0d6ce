#include "weft/torch/group_endpoint.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include "weft/base/error.h"
#include "weft/torch/group_state.h"
#include "weft/torch/label_check.h"
#include "weft/torch/torch_memory.h"
#include "weft/transport/packed_message.h"

namespace weft {
namespace {

using torch_internal::GroupState;
using torch_internal::LabelCheck;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;

// Apart from what the program sends over the same group by itself.
constexpr int kTag = 0x7766;
// Behind the key of a call: the note of a rank for which it is of a new kind.
constexpr const char* kNewKind = "/kind";

at::Tensor bytes(int64_t count, const Memory& memory) {
  return at::empty({count}, at::TensorOptions().dtype(at::kByte).device(device_of(memory)));
}

std::byte* data_of(const at::Tensor& t) { return reinterpret_cast<std::byte*>(t.mutable_data_ptr<uint8_t>()); }

at::Tensor pack(const std::vector<OutgoingPart>& parts, uint64_t kind, const Memory& memory) {
  const at::Tensor buffer = bytes(packed_bytes(parts), memory);
  LabelCheck::write(buffer, packed_label(parts, kind));
  pack_parts(parts, data_of(buffer), memory);
  return buffer;
}

// What is under way to or from one peer.
struct Packet {
  int peer = 0;
  at::Tensor buffer{};
  WorkPtr work{};      // null for the rank itself
  int64_t number = 0;  // of a message to itself
  bool done = false;
};

class RealEndpoint final : public GroupEndpoint {
 public:
  RealEndpoint(std::shared_ptr<GroupState> state, double timeout)
      : state_(std::move(state)),
        number_(state_->next_endpoint()),
        timeout_(timeout > 0 ? static_cast<int64_t>(timeout * 1000) : -1) {}

  void begin_call() override {
    labels_.refuse_if_wrong();
    ++calls_;
    state_->set_call(call(), call() + kNewKind);
  }
  void agree(const std::string& kind, int64_t largest_message) override {
    state_->leave_note(call() + kNewKind, "ranks differ in this call: rank " + std::to_string(rank()) + " calls with " +
                                              kind + ", others with what they called with before");
    state_->set_call(call(), "");  // agreed upon here
    const std::string key = "weft/kind/" + std::to_string(number_) + "/" + std::to_string(kinds_++) + "/";
    const std::vector<std::string> all = state_->exchange(key, kind, timeout_);
    for (size_t rank = 0; rank < all.size(); ++rank) {
      if (all[rank] == kind) continue;
      throw Error(ErrorCode::io, "ranks differ in this call: rank " + std::to_string(rank) + " calls with " +
                                     all[rank] + ", this one with " + kind);
    }
    largest_message_ = std::max(largest_message_, largest_message);
  }
  void set_kind(uint64_t hash) override { kind_ = hash; }
  uint64_t kind() const { return kind_; }
  void refuse_call(const std::string& why) noexcept override {
    state_->leave_note(call(), "rank " + std::to_string(rank()) + " did not go through with the call: " + why);
  }

  int rank() const override { return state_->rank(); }
  int ranks() const override { return state_->ranks(); }
  std::unique_ptr<Pending> post(Transfer transfer) override;
  void end_phase() override {
    if (!to_myself_.empty()) throw Error(ErrorCode::wrong, "a message of this rank to itself was never received");
    labels_.end_phase();
    state_->group();  // throws after a failure
  }
  void fail(std::exception_ptr error) noexcept override {
    to_myself_.clear();
    sent_to_myself_ = expected_of_myself_ = 0;
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& e) {
      state_->fail(e.what());
    } catch (...) {
      state_->fail("rank " + std::to_string(rank()) + " failed");
    }
  }
  void recall() noexcept override {}  // nobody reads this rank's memory
  const StopFlag& stop_flag() const override { return state_->stop_flag(); }
  double waiting_seconds() const override { return waiting_; }

  void wait(const Packet& packet, const char* verb) {
    const auto begin = std::chrono::steady_clock::now();
    state_->wait(*packet.work, std::string(verb) + std::to_string(packet.peer), timeout_);
    waiting_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  LabelCheck& labels() { return labels_; }
  // The k-th message that this rank has sent to itself.
  at::Tensor take_from_myself(int64_t k) {
    const auto found = to_myself_.find(k);
    if (found == to_myself_.end()) throw Error(ErrorCode::wrong, "this rank waits for a message of its own");
    at::Tensor buffer = std::move(found->second);
    to_myself_.erase(found);
    return buffer;
  }

 private:
  std::string call() const { return "weft/refused/" + std::to_string(number_) + "/" + std::to_string(calls_); }

  std::shared_ptr<GroupState> state_;
  int64_t number_;     // of this endpoint among those of the group
  int64_t calls_ = 0;  // begun
  int64_t kinds_ = 0;
  uint64_t kind_ = 0;
  int64_t largest_message_ = 0;
  int64_t timeout_;
  double waiting_ = 0;
  LabelCheck labels_;
  std::map<int64_t, at::Tensor> to_myself_;  // sent and not received, by number
  int64_t sent_to_myself_ = 0, expected_of_myself_ = 0;
};

class GroupPending final : public Pending {
 public:
  GroupPending(RealEndpoint& endpoint, const Memory& memory, std::vector<IncomingMessage> messages)
      : endpoint_(endpoint), memory_(memory), messages_(std::move(messages)) {}

  // All of an exchange is waited for at once: that its messages meet is what the proof of a schedule says.
  void wait(Until) override {
    for (size_t i = 0; i < arriving.size(); ++i) {
      Packet& packet = arriving[i];
      if (packet.done) continue;
      if (packet.work) {
        endpoint_.wait(packet, "a message from rank ");
      } else {
        packet.buffer = endpoint_.take_from_myself(packet.number);
      }
      unpack(packet, messages_[i]);
      packet.buffer.reset();
      packet.work.reset();
      packet.done = true;
    }
    for (Packet& packet : leaving) {
      if (packet.work) endpoint_.wait(packet, "a message to rank ");
    }
    leaving.clear();
  }
  void let_go(size_t) override {}  // what is sent was copied
  std::vector<IncomingMessage>& received() override { return messages_; }

  std::vector<Packet> leaving, arriving;  // arriving: in the order of the messages

 private:
  void unpack(const Packet& packet, IncomingMessage& message) const {
    endpoint_.labels().compare(packet.buffer, packed_label(message.parts, endpoint_.kind()), packet.peer);
    unpack_parts(data_of(packet.buffer), message.parts, memory_);
  }

  RealEndpoint& endpoint_;
  const Memory& memory_;
  std::vector<IncomingMessage> messages_;
};

// Takes the operations that are issued while it lives as one, where the group can; then `end` gives that of all.
class Together {
 public:
  Together(c10d::ProcessGroup& group, c10::DeviceType device, bool any)
      : group_(group),
        device_(device),
        on_(any && device != c10::kCPU && group.getBackend(device)->supportsCoalescing()) {
    if (on_) group_.startCoalescing(device_);
  }
  bool on() const { return on_; }
  WorkPtr end() { return on_ ? group_.endCoalescing(device_) : nullptr; }

 private:
  c10d::ProcessGroup& group_;
  const c10::DeviceType device_;
  const bool on_;
};

std::unique_ptr<Pending> RealEndpoint::post(Transfer transfer) try {
  const auto group = state_->group();
  const Memory& memory = *transfer.memory;
  auto pending = std::make_unique<GroupPending>(*this, memory, std::move(transfer.receive));
  const auto elsewhere = [&](const auto& message) { return message.peer != rank(); };
  // What is sent is copied before the exchange begins.
  std::vector<at::Tensor> packed;
  for (const OutgoingMessage& message : transfer.send) packed.push_back(pack(message.parts, kind_, memory));
  Together together(*group, device_of(memory).type(),
                    std::any_of(transfer.send.begin(), transfer.send.end(), elsewhere) ||
                        std::any_of(pending->received().begin(), pending->received().end(), elsewhere));
  // Buffers to receive into are there before anything is sent.
  const std::vector<IncomingMessage>& expected = pending->received();
  pending->arriving.resize(expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    Packet& packet = pending->arriving[i];
    packet.peer = expected[i].peer;
    if (packet.peer == rank()) {
      packet.number = expected_of_myself_++;
      continue;
    }
    // Operations that are taken together need the sender's length; others may be given more room than they fill.
    const int64_t size = packed_bytes(expected[i].parts);
    packet.buffer = bytes(together.on() ? size : std::max(size, kPackedHeader + largest_message_), memory);
    std::vector<at::Tensor> buffers{packet.buffer};
    packet.work = group->recv(buffers, packet.peer, kTag);
  }
  for (size_t i = 0; i < packed.size(); ++i) {
    Packet packet{.peer = transfer.send[i].peer, .buffer = packed[i]};
    if (packet.peer == rank()) {
      to_myself_.emplace(sent_to_myself_++, packet.buffer);
      continue;
    }
    std::vector<at::Tensor> buffers{packet.buffer};
    packet.work = group->send(buffers, packet.peer, kTag);
    pending->leaving.push_back(std::move(packet));
  }
  if (const WorkPtr all = together.end()) {
    for (Packet& packet : pending->arriving) {
      if (packet.peer != rank()) packet.work = all;
    }
    for (Packet& packet : pending->leaving) packet.work = all;
  }
  return pending;
} catch (const Error&) {
  throw;
} catch (const std::exception& error) {  // a connection that its peer has closed refuses at once
  state_->give_up("the messages of an exchange", error.what());
}

}  // namespace

std::unique_ptr<GroupEndpoint> group_endpoint(const std::string& name, double timeout) {
  return std::make_unique<RealEndpoint>(GroupState::find(name), timeout);
}

}  // namespace weft
