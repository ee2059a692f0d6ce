#include "weft/methods/formulas/ledger.h"

#include <utility>

namespace weft::methods {
namespace {

bool has(const std::vector<Ledger::Id>& ids, Ledger::Id id) {
  return id != 0 && std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

Ledger::Id Ledger::make(int64_t bytes) {
  if (bytes == 0) return 0;
  if (free_.empty()) {
    free_.push_back(static_cast<Id>(values_.size()));
    values_.emplace_back();
  }
  const Id id = free_.back();
  free_.pop_back();
  at(id) = {bytes, 0, false};
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
  complete([&](const Flight& flight) { return has(flight.writes, id); });
  at(id).ended = true;
  if (at(id).readers == 0) release(id);
}

void Ledger::move(Id& from, Id& into) {
  const Id taken = std::exchange(from, 0);
  drop(into);
  into = taken;
}

template <typename F>
void Ledger::complete(F&& is_due) {
  unsigned lanes = 0;
  bool any = false;
  for (size_t i = in_flight_; i-- > 0;) {
    Flight& flight = flights_[i];
    if (is_due(flight)) lanes |= 1u << flight.lane;
    flight.due = (lanes >> flight.lane & 1u) != 0;
    any |= flight.due;
  }
  if (!any) return;
  size_t kept = 0;
  for (size_t i = 0; i < in_flight_; ++i) {
    if (flights_[i].due) {
      land(flights_[i]);
    } else if (kept++ != i) {
      std::swap(flights_[kept - 1], flights_[i]);
    }
  }
  in_flight_ = kept;
}

void Ledger::land(const Flight& flight) {
  held_ -= flight.staged;
  if (flight.attended == attended_) phases_[phase_].exposed += flight.received;
  for (Id id : flight.reads) {
    if (--at(id).readers == 0 && at(id).ended) release(id);
  }
}

void Ledger::before(Ids reads, Ids writes) {
  if (in_flight_ == 0) return;
  complete([&](const Flight& flight) {
    for (Id id : reads) {
      if (has(flight.writes, id)) return true;
    }
    for (Id id : writes) {
      if (has(flight.writes, id) || has(flight.reads, id)) return true;
    }
    return false;
  });
}

void Ledger::attend(Ids reads, Ids writes) {
  before(reads, writes);
  ++attended_;
}

void Ledger::exchange(int lane, std::span<const Out> out, std::span<const In> in) {
  if (flights_.size() == in_flight_) flights_.emplace_back();
  Flight flight = std::move(flights_[in_flight_]);
  flight.reads.clear(), flight.writes.clear();
  flight.lane = lane, flight.staged = flight.received = 0, flight.attended = attended_;
  for (const Out& part : out) {
    if (part.value == 0 || part.bytes == 0) continue;
    ++phases_[phase_].messages;
    phases_[phase_].bytes += part.bytes;
    flight.staged += part.packed;
    if (!has(flight.reads, part.value)) flight.reads.push_back(part.value);
  }
  for (const In& part : in) {
    if (part.value == 0 || part.bytes == 0) continue;
    flight.received += part.bytes;
    flight.staged += part.staged;
    if (!has(flight.writes, part.value)) flight.writes.push_back(part.value);
  }
  // What is read and written conflicts with what is in flight as in any other use.
  complete([&](const Flight& other) {
    for (Id id : flight.reads) {
      if (has(other.writes, id)) return true;
    }
    for (Id id : flight.writes) {
      if (has(other.writes, id) || has(other.reads, id)) return true;
    }
    return false;
  });
  if (!flight.reads.empty() || !flight.writes.empty()) {
    for (Id id : flight.reads) ++at(id).readers;
    hold(flight.staged);
    std::swap(flights_[in_flight_++], flight);
  } else {
    flights_[in_flight_] = std::move(flight);
  }
}

void Ledger::wait(int lane) {
  complete([lane](const Flight& flight) { return flight.lane == lane; });
}

void Ledger::begin_phase() {
  complete([](const Flight&) { return true; });
  ++phase_;
}

}  // namespace weft::methods
