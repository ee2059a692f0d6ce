#include "cli/launch.h"

#include <cstdlib>

namespace weft::cli {
namespace {

std::optional<int> number_in(const char* variable) {
  const char* const text = std::getenv(variable);
  if (!text || !*text) return std::nullopt;
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (*end != 0 || value < 0 || value > 1 << 30) return std::nullopt;
  return static_cast<int>(value);
}

}  // namespace

std::optional<Launch> launched() {
  constexpr const char* kVariables[][2] = {
      {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}, {"PMI_RANK", "PMI_SIZE"}, {"PMIX_RANK", "SLURM_NTASKS"}};
  for (const auto& [rank, ranks] : kVariables) {
    const std::optional<int> at = number_in(rank), of = number_in(ranks);
    if (at && of && *of > *at) return Launch{*at, *of};
  }
  return std::nullopt;
}

std::string no_mpi_here(const Launch& launch) {
  return "started as one of " + std::to_string(launch.ranks) +
         " processes, but built without MPI; install an MPI library (Debian: libopenmpi-dev) and build again, or give "
         "--ranks " +
         std::to_string(launch.ranks) + " to one process";
}

}  // namespace weft::cli
