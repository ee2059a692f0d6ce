#include "weft/transport/run_threads.h"

#include <thread>
#include <vector>

namespace weft {

void run_threads(ThreadTransport& transport, const std::function<void(int rank)>& body) {
  const auto run = [&](int rank) {
    try {
      body(rank);
    } catch (...) {
      transport.fail(rank, std::current_exception());
    }
    transport.leave(rank);
  };
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(transport.ranks()));
  try {
    for (int rank = 0; rank < transport.ranks(); ++rank) threads.emplace_back(run, rank);
  } catch (...) {  // no more threads to be had: those that run must not wait for the missing ones
    transport.fail(static_cast<int>(threads.size()), std::current_exception());
  }
  for (std::thread& thread : threads) thread.join();
  if (const std::exception_ptr error = transport.error()) std::rethrow_exception(error);
}

void run_threads(int ranks, const std::function<void(Endpoint& endpoint)>& body) {
  ThreadTransport transport(ranks);
  run_threads(transport, [&](int rank) { body(transport.endpoint(rank)); });
}

}  // namespace weft
