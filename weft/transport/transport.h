// Transport: how bytes travel between ranks.
//
// A rank talks through its Endpoint: it posts a transfer (everything one exchange sends and
// receives), goes on computing, and waits for it before the first conflicting use.
//
//   Transfer transfer;
//   transfer.send.push_back({.peer = 1, .parts = {part_of(mine)}});
//   transfer.receive.push_back({.peer = 3, .parts = {part_into(theirs)}});
//   std::unique_ptr<Pending> pending = endpoint.post(std::move(transfer));
//   ...                                       // compute meanwhile
//   pending->wait(Until::usable);
//
// There are no tags: the k-th message from a to b is the k-th that b expects from a, over all
// lanes. A message is a list of parts and a part a list of regions; both ends cut it into the same
// parts, but each may lay its parts out in other regions. So a transport for a process group or
// MPI packs parts into one buffer per message and needs nothing else; one inside a process copies
// from region to region, or lets the receiver borrow the sender's memory.
//
// Errors stop everybody: after fail() on any rank, every blocked or later call of every rank throws
// Error(stopped) that repeats the first error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#include "weft/base/memory.h"
#include "weft/base/stop.h"

namespace weft {

// For how long a receiver in the same process may use the sender's memory instead of a copy.
enum class Lending : uint8_t {
  none,     // the sender may change it after the transfer: it must be copied, and the sender waits
  phase,    // unchanged until the phase ends; then the sender waits for those who borrowed it
  lasting,  // unchanged for as long as `owner` lives
};

struct OutgoingPart {
  std::vector<Region> regions;
  int64_t bytes = 0;   // of all regions
  uint64_t label = 0;  // says what it is; transports that can compare both ends refuse other labels
  Lending lending = Lending::none;
  std::shared_ptr<const void> owner;  // keeps the memory; null: the caller's, kept by end_phase()
};

// Memory of another rank that a part was received as.
struct Loan {
  std::byte* data = nullptr;
  int64_t stride = 0;  // bytes from row to row of the only region
  Lending lending = Lending::none;
  std::shared_ptr<const void> owner;  // gives the loan back
};

struct IncomingPart {
  std::vector<Region> regions;
  int64_t bytes = 0;
  uint64_t label = 0;
  bool may_borrow = false;            // one region, and a loan would do instead of it
  std::shared_ptr<const void> owner;  // keeps the memory until the transfer is over
  Loan loan;                          // filled by the transport; then the regions were not touched
};

struct OutgoingMessage {
  int peer = 0;
  std::vector<OutgoingPart> parts;
};
struct IncomingMessage {
  int peer = 0;
  std::vector<IncomingPart> parts;
};

// What one exchange moves: one message per peer and direction. Peers may include the rank itself.
struct Transfer {
  int lane = 0;                           // transfers of different lanes may use different connections
  int64_t origin = 0;                     // number of the instruction, for error texts
  const Memory* memory = &host_memory();  // where all of it lies; the same kind on both ends
  std::vector<OutgoingMessage> send;
  std::vector<IncomingMessage> receive;
};

enum class Until {
  usable,   // all is received, and memory sent from with Lending::none may be changed
  matched,  // moreover every message sent has been taken by its receiver
};

// A transfer under way. May be destroyed at any time: what it has sent still arrives.
class Pending {
 public:
  virtual ~Pending() = default;
  // Blocks. Throws Error(stopped) when a rank failed, Error(wrong) when the messages do not match
  // or nobody can go on any more.
  virtual void wait(Until until) = 0;
  // The sender promises not to change the memory of the n-th message sent: its owners keep it, and
  // Until::usable need not wait for it.
  virtual void let_go(size_t message) = 0;
  // What was received, in the order of Transfer::receive. After wait().
  virtual std::vector<IncomingMessage>& received() = 0;
};

// One rank's access to the others. Used by one thread at a time.
class Endpoint {
 public:
  virtual ~Endpoint() = default;
  virtual int rank() const = 0;
  virtual int ranks() const = 0;

  // Starts a transfer and returns at once.
  virtual std::unique_ptr<Pending> post(Transfer transfer) = 0;
  // Ends a phase, after all its transfers were waited for: throws Error(wrong) when a message to
  // this rank was never received, and waits until nobody uses memory of Lending::phase any more.
  virtual void end_phase() = 0;

  // This rank cannot go on. The first error is kept; all ranks stop.
  virtual void fail(std::exception_ptr error) noexcept = 0;
  // After a failure: waits until nobody uses this rank's memory, so that the caller may free it.
  virtual void recall() noexcept = 0;
  // Up after a failure: for loops that may run long.
  virtual const StopFlag& stop_flag() const = 0;
  // How long this rank has been blocked in all of the above, so far.
  virtual double waiting_seconds() const = 0;
};

}  // namespace weft
