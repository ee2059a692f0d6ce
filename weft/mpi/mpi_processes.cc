#include "weft/mpi/mpi_processes.h"

#include <unistd.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "weft/base/error.h"
#include "weft/mpi/mpi_state.h"
#include "weft/transport/packed_message.h"

namespace weft {
namespace {

using mpi_internal::Packet;
using mpi_internal::Packets;
using mpi_internal::State;

class MpiEndpoint;

class MpiPending final : public Pending {
 public:
  MpiPending(MpiEndpoint& endpoint, std::shared_ptr<State> state, Transfer transfer);
  ~MpiPending() override { state_->let_go(packets_); }
  void wait(Until until) override;
  void let_go(size_t) override {}  // what is sent was copied
  std::vector<IncomingMessage>& received() override { return messages_; }

 private:
  struct Arrival {
    Packet* packet;
    int64_t number;  // among the messages of this rank to itself
  };

  MpiEndpoint& endpoint_;
  std::shared_ptr<State> state_;
  const Memory& memory_;
  std::vector<IncomingMessage> messages_;
  std::vector<Arrival> arrivals_;  // of each message
  Packets packets_;                // what arrives, then what leaves
  bool received_ = false;
};

class MpiEndpoint final : public Endpoint {
 public:
  explicit MpiEndpoint(std::shared_ptr<State> state) : state_(std::move(state)) {}
  int rank() const override { return state_->rank(); }
  int ranks() const override { return state_->ranks(); }
  std::unique_ptr<Pending> post(Transfer transfer) override {
    state_->throw_if_failed();
    if (!transfer.memory->on_host()) {
      throw Error(ErrorCode::unsupported,
                  "messages over MPI lie in the host's memory, not in that of " + std::string(transfer.memory->name()));
    }
    return std::make_unique<MpiPending>(*this, state_, std::move(transfer));
  }
  void end_phase() override {
    if (sent_to_myself_ != expected_of_myself_) {
      throw Error(ErrorCode::wrong, "a message of this rank to itself was never received");
    }
    state_->throw_if_failed();
  }
  void fail(std::exception_ptr error) noexcept override { state_->fail(std::move(error)); }
  void recall() noexcept override {}  // nobody reads this rank's memory
  const StopFlag& stop_flag() const override { return state_->stop_flag(); }
  double waiting_seconds() const override { return state_->waiting_seconds(); }

  int64_t next_to_myself() { return sent_to_myself_++; }
  int64_t next_of_myself() { return expected_of_myself_++; }
  int64_t sent_to_myself() const { return sent_to_myself_; }

 private:
  std::shared_ptr<State> state_;
  int64_t sent_to_myself_ = 0, expected_of_myself_ = 0;
};

template <typename Message>
Packet packet_for(const Message& message) {
  Packet packet{.peer = message.peer, .bytes = packed_bytes(message.parts)};
  packet.buffer = std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(packet.bytes));
  return packet;
}

MpiPending::MpiPending(MpiEndpoint& endpoint, std::shared_ptr<State> state, Transfer transfer)
    : endpoint_(endpoint), state_(std::move(state)), memory_(*transfer.memory), messages_(std::move(transfer.receive)) {
  try {
    for (const IncomingMessage& message : messages_) {
      Packet packet = packet_for(message);
      packet.arriving = true;
      const bool mine = message.peer == endpoint_.rank();
      state_->start(packets_, std::move(packet));
      arrivals_.push_back({&packets_.back(), mine ? endpoint_.next_of_myself() : -1});
    }
    for (const OutgoingMessage& message : transfer.send) {
      Packet packet = packet_for(message);
      const uint64_t label = packed_label(message.parts);
      std::memcpy(packet.buffer.get(), &label, sizeof label);
      pack_parts(message.parts, packet.buffer.get(), memory_);
      if (message.peer == endpoint_.rank()) endpoint_.next_to_myself();
      state_->start(packets_, std::move(packet));
    }
  } catch (...) {
    state_->let_go(packets_);
    throw;
  }
}

// All of an exchange is waited for at once: that its messages meet is what the proof of a schedule says.
void MpiPending::wait(Until) {
  for (const Arrival& arrival : arrivals_) {
    if (arrival.number >= endpoint_.sent_to_myself()) {
      throw Error(ErrorCode::wrong, "this rank waits for a message of its own");
    }
  }
  state_->wait(packets_);
  if (received_) return;
  received_ = true;
  for (size_t i = 0; i < messages_.size(); ++i) {
    Packet& packet = *arrivals_[i].packet;
    uint64_t label = 0;
    std::memcpy(&label, packet.buffer.get(), sizeof label);
    if (label != packed_label(messages_[i].parts)) {
      throw Error(ErrorCode::wrong, "rank " + std::to_string(endpoint_.rank()) + " expects another message than rank " +
                                        std::to_string(packet.peer) + " has sent");
    }
    unpack_parts(packet.buffer.get(), messages_[i].parts, memory_);
    packet.buffer.reset();
  }
}

}  // namespace

MpiProcesses::MpiProcesses(const StopFlag* interrupt, const MpiOptions& options)
    : state_(std::make_shared<State>(interrupt, options)), endpoint_(std::make_unique<MpiEndpoint>(state_)) {}
MpiProcesses::~MpiProcesses() = default;

Endpoint& MpiProcesses::endpoint() { return *endpoint_; }
int MpiProcesses::on_this_machine() const { return state_->on_this_machine(); }
std::exception_ptr MpiProcesses::failure() const { return state_->failure(); }

void MpiProcesses::end(int exit_code, const std::string& complaint) {
  if (exit_code == 0) return state_->finalize();
  if (state_->rank() != 0) {
    // Rank 0 has a note of it, says so and ends all. If it is stuck, nobody else would.
    std::this_thread::sleep_for(std::chrono::seconds(10));
    const std::string line = complaint + "\n";
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
  }
  state_->abort(exit_code);
}

}  // namespace weft
