#include "weft/transport/largest.h"

#include <cmath>
#include <utility>

namespace weft {
namespace {

constexpr uint64_t kLargestLabel = 0x6c6172676573;

Region region_of_number(const std::shared_ptr<double>& number) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(double));
  return {reinterpret_cast<std::byte*>(number.get()), 1, kBytes, kBytes};
}

}  // namespace

double largest_of_ranks(Endpoint& endpoint, double mine) {
  const int ranks = endpoint.ranks(), rank = endpoint.rank();
  for (int distance = 1; distance < ranks; distance *= 2) {
    const auto leaving = std::make_shared<double>(mine), arriving = std::make_shared<double>(0);
    OutgoingPart out;
    out.regions = {region_of_number(leaving)}, out.bytes = sizeof(double), out.label = kLargestLabel;
    out.lending = Lending::lasting, out.owner = leaving;
    IncomingPart in;
    in.regions = {region_of_number(arriving)}, in.bytes = sizeof(double), in.label = kLargestLabel;
    in.owner = arriving;
    Transfer transfer;
    transfer.send.push_back({.peer = (rank + distance) % ranks, .parts = {std::move(out)}});
    transfer.receive.push_back({.peer = (rank - distance + ranks) % ranks, .parts = {std::move(in)}});
    endpoint.post(std::move(transfer))->wait(Until::usable);
    if (std::isnan(*arriving) || *arriving > mine) mine = *arriving;
  }
  return mine;
}

}  // namespace weft
