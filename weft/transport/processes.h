// The processes of one program that a launcher has started together, one rank each, as the layers above see them: without
// them, all ranks are threads of one process.
//
//   std::unique_ptr<Processes> processes = mpi_processes(...);   // weft/mpi/mpi_processes.h
//   Executor executor(schedule, processes->endpoint().rank(), processes->endpoint(), kernels, pool);
#pragma once

#include <exception>

#include "weft/transport/transport.h"

namespace weft {

class Processes {
 public:
  virtual ~Processes() = default;
  // This process's rank and its way to the others; one for all uses, which all ranks make in the same order.
  virtual Endpoint& endpoint() = 0;
  // How many of the processes run on this machine.
  virtual int on_this_machine() const = 0;
  // What Endpoint::fail() was first called with, here or, then as an Error of the same code that names the rank, elsewhere.
  // Null while all is well.
  virtual std::exception_ptr failure() const = 0;
};

}  // namespace weft
