// The transport between processes over MPI: `mpirun -n 4 weft ...` makes four ranks.
//
//   std::unique_ptr<MpiProcesses> processes = MpiProcesses::join(&interrupt);   // in each process
//   Endpoint& endpoint = processes->endpoint();
//   ...
//   processes->end(exit_code);
//
// MPI itself is used and included in this folder only. A message is packed into one buffer and travels as one message of MPI,
// or several when it is very long; between two processes they arrive in the order in which they were sent.
//
// Progress. An MPI library may move nothing while its caller computes: Open MPI sends long messages in steps, each taken
// inside a call of either side. So a thread of each process calls it every 0.2 ms while messages are under way, and seldom
// otherwise. A thread rather than calls between the tiles of a kernel: it reaches every kernel, torch's too, and kernels need
// not know of it. All calls are made one at a time, under one lock: MPI_THREAD_SERIALIZED is enough, and less is refused.
// Who waits for a message sleeps between looks, so that more ranks than processors are fine.
//
// Failure. Who fails sends a note to all; the thread receives it, and whoever waits throws. A process that is killed is
// mpirun's to notice: it ends the others. One that is silent, since it hangs, fails whoever waits for it for too long.
#pragma once

#include <memory>
#include <string>

#include "weft/base/stop.h"
#include "weft/transport/processes.h"

namespace weft {

namespace mpi_internal {
class State;
}

struct MpiOptions {
  int64_t largest_piece = int64_t{1} << 30;  // bytes of one message of MPI, which counts them in an int
  int progress_microseconds = 200;  // between the thread's calls while messages are under way; 0: no such calls
  // How long a rank waits for messages before it fails with Error(io), which names who is silent; 0: without end. Ranks may
  // be apart by as long as one of them reads its files, or is timed alone.
  int64_t timeout_milliseconds = 30 * 60 * 1000;
};

class MpiProcesses final : public Processes {
 public:
  // Once in a process. While `interrupt` is raised, everything that waits throws Error(stopped); null: nothing to watch.
  // Throws Error(unsupported) for a library whose calls may not come from two threads, even one at a time.
  explicit MpiProcesses(const StopFlag* interrupt, const MpiOptions& options = {});
  ~MpiProcesses() override;
  MpiProcesses(const MpiProcesses&) = delete;
  MpiProcesses& operator=(const MpiProcesses&) = delete;

  Endpoint& endpoint() override;
  int on_this_machine() const override;
  std::exception_ptr failure() const override;

  // The last call. With exit code 0 it waits for the others and returns. With another one it ends all processes and does not
  // return: at once on rank 0, which has told the user; elsewhere rank 0 is given ten seconds to do so, then `complaint` is
  // written to stderr here.
  void end(int exit_code, const std::string& complaint);

 private:
  std::shared_ptr<mpi_internal::State> state_;
  std::unique_ptr<Endpoint> endpoint_;
};

}  // namespace weft
