// What the endpoint, its transfers and the thread that keeps messages moving share. Private to this folder.
#pragma once

#include <mpi.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "weft/mpi/mpi_processes.h"

namespace weft::mpi_internal {

// A buffer, and the messages of MPI that fill or send it.
struct Packet {
  int peer = 0;
  int64_t bytes = 0;
  std::unique_ptr<std::byte[]> buffer{};
  struct Piece {
    MPI_Request request = MPI_REQUEST_NULL;
    int bytes = 0;
  };
  std::vector<Piece> pieces{};
  bool arriving = false;
  bool done() const { return pieces.empty(); }
};
using Packets = std::list<Packet>;

class State {
 public:
  State(const StopFlag* interrupt, const MpiOptions& options);
  ~State();
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  int on_this_machine() const { return on_this_machine_; }
  const StopFlag& stop_flag() const { return stop_; }
  double waiting_seconds() const { return waiting_; }

  // Begins to move a packet whose bytes are set; the list of one transfer is given here while it is under way.
  void start(Packets& packets, Packet packet);
  // Until all packets are done. Throws Error(stopped) after a failure, and Error(io) after the timeout.
  void wait(Packets& packets);
  // What has not ended is kept until it has.
  void let_go(Packets& packets) noexcept;
  void throw_if_failed() const;

  void fail(std::exception_ptr error) noexcept;
  std::exception_ptr failure() const;
  void finalize();
  [[noreturn]] void abort(int exit_code);

 private:
  using Lock = std::unique_lock<std::mutex>;

  void run_thread();
  // These call MPI, with the lock held.
  bool advance(Packets& packets);
  void throw_if_late(const Packets& packets, double seconds) const;
  void look_for_note();
  void record(std::exception_ptr error);
  void send_note(const std::string& note) noexcept;

  const MpiOptions options_;
  const StopFlag* const interrupt_;
  int rank_ = 0, ranks_ = 1, on_this_machine_ = 1;
  MPI_Comm data_ = MPI_COMM_NULL, notes_ = MPI_COMM_NULL;
  StopFlag stop_;

  mutable std::mutex mutex_;  // of every call of MPI, and of what follows
  std::condition_variable changed_;
  std::list<Packets*> under_way_;
  Packets let_go_;
  std::list<std::string> notes_sent_;  // kept until the process ends
  bool waiting_now_ = false;           // then the waiting rank does the thread's work
  double waiting_ = 0;
  std::exception_ptr failure_;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace weft::mpi_internal
