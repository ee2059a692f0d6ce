// The transport between threads of one process: mailboxes, condition variables, no bytes moved
// before somebody needs them.
//
//   ThreadTransport transport(4);
//   run_threads(transport, [&](int rank) { work(transport.endpoint(rank)); });   // run_threads.h
//
// A message is a note in the receiver's mailbox. The receiver takes it when it next waits: it
// copies from the sender's memory, or borrows it. A rank that waits takes everything that has
// arrived, so that no sender waits for a rank that is itself waiting.
//
// No hang is possible between ranks that only wait here: the rank that would be the last to block
// finds that nobody can go on, and says who waits for whom. A rank counts as able to go on until
// leave() is called for it, so a thread that ends must call it (run_threads does).
#pragma once

#include <memory>
#include <vector>

#include "weft/transport/transport.h"

namespace weft {

namespace transport_internal {
class Hub;
}

class ThreadTransport {
 public:
  explicit ThreadTransport(int ranks);
  ~ThreadTransport();
  ThreadTransport(const ThreadTransport&) = delete;
  ThreadTransport& operator=(const ThreadTransport&) = delete;

  int ranks() const;
  Endpoint& endpoint(int rank);

  // The thread of this rank has ended and will post and receive nothing more.
  void leave(int rank);
  // Stops all ranks from outside, e.g. after Ctrl-C. The first call or failure wins.
  void fail(int rank, std::exception_ptr error) noexcept;
  // The first error and the rank that reported it; null and -1 while all is well.
  std::exception_ptr error() const;
  int failed_rank() const;

 private:
  std::shared_ptr<transport_internal::Hub> hub_;  // shared with pendings and loans, which may outlive the transport
  std::vector<std::unique_ptr<Endpoint>> endpoints_;
};

}  // namespace weft
