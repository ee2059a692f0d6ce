#include <algorithm>
#include <utility>

#include "weft/base/error.h"
#include "weft/transport/rank_group.h"

namespace weft {
namespace {

// What a message of a group is; schedules have other labels.
enum GroupLabel : uint64_t { kValue = 0x67726f757001, kShare, kSum };

template <typename Part, typename T>
Part group_part(std::span<T> values, GroupLabel label) {
  Part part;
  part.bytes = static_cast<int64_t>(values.size_bytes());
  part.label = label;
  std::byte* const data = reinterpret_cast<std::byte*>(const_cast<std::remove_const_t<T>*>(values.data()));
  part.regions = {{data, 1, part.bytes, part.bytes}};
  return part;
}

template <typename T>
void add_send(Transfer& transfer, int peer, std::span<T> values, GroupLabel label) {
  transfer.send.push_back({peer, {}});
  transfer.send.back().parts.push_back(group_part<OutgoingPart>(values, label));
}
template <typename T>
void add_receive(Transfer& transfer, int peer, std::span<T> values, GroupLabel label) {
  transfer.receive.push_back({peer, {}});
  transfer.receive.back().parts.push_back(group_part<IncomingPart>(values, label));
}

}  // namespace

void ProcessGroup::exchange(Transfer transfer) {
  const double before = endpoint_.waiting_seconds();
  endpoint_.post(std::move(transfer))->wait(Until::usable);
  waiting_ += endpoint_.waiting_seconds() - before;
}

void ProcessGroup::barrier(int rank) { all_gather(rank, uint64_t{0}); }

std::vector<uint64_t> ProcessGroup::all_gather(int rank, uint64_t value) {
  std::vector<uint64_t> all(static_cast<size_t>(ranks()), value);
  Transfer transfer;
  for (int other = 0; other < ranks(); ++other) {
    if (other == rank) continue;
    add_send(transfer, other, std::span<const uint64_t>(&value, 1), kValue);
    add_receive(transfer, other, std::span<uint64_t>(&all[static_cast<size_t>(other)], 1), kValue);
  }
  exchange(std::move(transfer));
  return all;
}

// Each rank adds one share of everybody's buffers, in rank order, and sends the sum to all.
void ProcessGroup::all_reduce_sum(int rank, std::span<float> buffer) {
  const auto share = [&](int of) {
    const size_t count = static_cast<size_t>(ranks());
    const size_t begin = buffer.size() * static_cast<size_t>(of) / count;
    const size_t end = buffer.size() * (static_cast<size_t>(of) + 1) / count;
    return buffer.subspan(begin, end - begin);
  };
  const std::span<float> mine = share(rank);
  std::vector<std::vector<float>> theirs(static_cast<size_t>(ranks()));
  Transfer shares, sums;
  for (int other = 0; other < ranks(); ++other) {
    if (other == rank) continue;
    std::vector<float>& values = theirs[static_cast<size_t>(other)];
    values.resize(mine.size());
    add_send(shares, other, share(other), kShare);
    add_receive(shares, other, std::span<float>(values), kShare);
    add_send(sums, other, mine, kSum);
    add_receive(sums, other, share(other), kSum);
  }
  exchange(std::move(shares));
  theirs[static_cast<size_t>(rank)].assign(mine.begin(), mine.end());
  for (size_t other = 0; other < theirs.size(); ++other) {
    const std::vector<float>& values = theirs[other];
    if (other == 0) {
      std::copy(values.begin(), values.end(), mine.begin());
    } else {
      for (size_t i = 0; i < mine.size(); ++i) mine[i] += values[i];
    }
  }
  exchange(std::move(sums));
}

void ProcessGroup::abort(std::exception_ptr error) {
  endpoint_.fail(error ? std::move(error) : std::make_exception_ptr(Error(ErrorCode::stopped, "interrupted")));
}

}  // namespace weft
