// What a launcher such as mpirun tells a process that it starts, before any library of MPI is asked.
#pragma once

#include <optional>
#include <string>

namespace weft::cli {

struct Launch {
  int rank = 0;
  int ranks = 1;
};

// Nothing in a process that no launcher has started. By what Open MPI, MPICH and those who speak PMIx put into the
// environment.
std::optional<Launch> launched();

// For a program without MPI.
std::string no_mpi_here(const Launch& launch);

}  // namespace weft::cli
