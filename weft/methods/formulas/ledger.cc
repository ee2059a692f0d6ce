#include "weft/methods/formulas/ledger.h"

#include <utility>

namespace weft::methods {

Ledger::Id Ledger::make(int64_t bytes) {
  if (bytes == 0) return 0;
  if (free_.empty()) {
    free_.push_back(static_cast<Id>(values_.size()));
    values_.emplace_back();
  }
  const Id id = free_.back();
  free_.pop_back();
  at(id) = {.bytes = bytes};
  hold(bytes);
  return id;
}

void Ledger::release(Id id) {
  held_ -= at(id).bytes;
  free_.push_back(id);
}

void Ledger::drop(Id& value) {
  const Id id = std::exchange(value, 0);
  if (id == 0) return;
  await_read(id);  // what is being sent may end
  complete_due();
  at(id).ended = true;
  if (at(id).readers == 0) release(id);
}

void Ledger::move(Id& from, Id& into) {
  const Id taken = std::exchange(from, 0);
  drop(into);
  into = taken;
}

void Ledger::await(const Newest& newest) {
  for (size_t lane = 0; lane < kLanes; ++lane) due_[lane] = std::max(due_[lane], newest[lane]);
}

void Ledger::complete_due() {
  size_t kept = 0;
  for (size_t i = 0; i < in_flight_; ++i) {
    Flight& flight = flights_[i];
    if (flight.serial <= due_[flight.lane]) {
      land(flight);
    } else if (kept++ != i) {
      std::swap(flights_[kept - 1], flight);
    }
  }
  in_flight_ = kept;
  due_ = {};
}

void Ledger::land(const Flight& flight) {
  held_ -= flight.staged;
  if (flight.attended == attended_) phases_[phase_].exposed += flight.received;
  for (Id id : flight.reads) {
    if (--at(id).readers == 0 && at(id).ended) release(id);
  }
}

void Ledger::use(Ids reads, Ids writes) {
  for (Id id : reads) await_read(id);
  for (Id id : writes) await_written(id);
  complete_due();
}

void Ledger::attend(Ids reads, Ids writes) {
  use(reads, writes);
  ++attended_;
}

void Ledger::exchange(int lane, std::span<const Out> out, std::span<const In> in) {
  const auto is_empty = [](const auto& part) { return part.value == 0 || part.bytes == 0; };
  for (const Out& part : out) {
    if (!is_empty(part)) await_read(part.value);
  }
  for (const In& part : in) {
    if (!is_empty(part)) await_written(part.value);
  }
  complete_due();
  if (flights_.size() == in_flight_) flights_.emplace_back();
  Flight& flight = flights_[in_flight_];
  flight.reads.clear();
  flight.serial = issued_ + 1, flight.lane = static_cast<size_t>(lane);
  flight.staged = flight.received = 0, flight.attended = attended_;
  bool any = false;
  for (const Out& part : out) {
    if (is_empty(part)) continue;
    any = true;
    phases_[phase_].messages += part.messages;
    phases_[phase_].bytes += part.bytes;
    flight.staged += part.packed;
    Value& value = at(part.value);
    if (std::exchange(value.read[flight.lane], flight.serial) == flight.serial) continue;
    flight.reads.push_back(part.value);
    ++value.readers;
  }
  for (const In& part : in) {
    if (is_empty(part)) continue;
    any = true;
    flight.received += part.bytes;
    flight.staged += part.staged;
    at(part.value).written[flight.lane] = flight.serial;
  }
  if (!any) return;
  ++issued_, ++in_flight_;
  hold(flight.staged);
}

void Ledger::wait(int lane) {
  due_[static_cast<size_t>(lane)] = issued_;
  complete_due();
}

void Ledger::begin_phase() {
  due_.fill(issued_);
  complete_due();
  ++phase_;
}

}  // namespace weft::methods
