#include "weft/schedule/dependencies.h"

#include <algorithm>

namespace weft {

Dependencies::Values Dependencies::values_of(const Block& block, const Instruction& instruction) {
  Values values;
  switch (instruction.op) {
    case Op::create:
    case Op::input: break;
    case Op::wait:
    case Op::begin_backward: return {~uint64_t{0}, ~uint64_t{0}};
    case Op::exchange:
      for (const Part& part : block.outgoing(instruction)) values.add(part.slice.value, false);
      for (const Part& part : block.incoming(instruction)) values.add(part.slice.value, true);
      break;
    default: {
      // A drop does not write: what is being sent may end. It does wait for what is being received.
      const auto operands = block.operands(instruction);
      const size_t read = operands.size() - instruction.targets;
      for (size_t i = 0; i < operands.size(); ++i) values.add(operands[i].value, i >= read);
    }
  }
  return values;
}

bool Dependencies::conflicts(const Flight& flight, size_t first, const Slice& slice, bool writes) {
  Values values;
  values.add(slice.value, writes);
  if (!values.may_conflict(flight.values)) return false;
  for (size_t i = first; i < first + flight.uses; ++i) {
    const Use& use = uses_[i];
    if (use.slice.value != slice.value || !(use.writes || writes)) continue;
    if ((use.slice.fields & slice.fields).empty()) continue;
    if (pool_.intersects(use.slice.tokens, slice.tokens) && pool_.intersects(use.slice.heads, slice.heads)) return true;
  }
  return false;
}

bool Dependencies::conflicts(const Flight& flight, size_t first, const Block& block, const Instruction& instruction) {
  if (instruction.op == Op::exchange) {
    for (const Part& part : block.outgoing(instruction)) {
      if (conflicts(flight, first, part.slice, false)) return true;
    }
    for (const Part& part : block.incoming(instruction)) {
      if (conflicts(flight, first, part.slice, true)) return true;
    }
    return false;
  }
  const auto operands = block.operands(instruction);
  const size_t read = operands.size() - instruction.targets;  // the rest is written
  for (size_t i = 0; i < operands.size(); ++i) {
    if (conflicts(flight, first, operands[i], i >= read)) return true;
  }
  return false;
}

bool Dependencies::must_complete(const Flight& flight, size_t first, const Block& block,
                                 const Instruction& instruction) {
  switch (instruction.op) {
    case Op::wait: return flight.lane == instruction.lane;
    case Op::begin_backward: return true;
    default: return conflicts(flight, first, block, instruction);
  }
}

bool Dependencies::find_due(const Block& block, const Instruction& instruction, const Values& values) {
  bool any = false;
  bool lane_due[kLanes] = {};
  size_t first = uses_.size();
  for (size_t i = flights_.size(); i-- > 0;) {  // newest first: a lane is complete up to its newest due flight
    Flight& flight = flights_[i];
    first -= flight.uses;
    bool& lane = lane_due[flight.lane];
    lane = lane || (values.may_conflict(flight.values) && must_complete(flight, first, block, instruction));
    flight.due = lane;
    any |= lane;
  }
  return any;
}

void Dependencies::remove_due() {
  in_flight_ = {};
  size_t from = 0, to = 0, kept = 0;
  for (const Flight flight : flights_) {
    if (!flight.due) {
      std::copy_n(uses_.begin() + static_cast<int64_t>(from), flight.uses, uses_.begin() + static_cast<int64_t>(to));
      to += flight.uses;
      in_flight_.add(flight.values);
      flights_[kept++] = flight;
    }
    from += flight.uses;
  }
  flights_.resize(kept);
  uses_.resize(to);
}

uint64_t Dependencies::issue(const Block& block, const Instruction& exchange) {
  const uint32_t uses = exchange.sources + exchange.targets;
  Values values = values_of(block, exchange);
  if (uses == 0) values = {~uint64_t{0}, ~uint64_t{0}};  // so that a wait finds it
  flights_.push_back({issued_, values, uses, exchange.lane, false});
  in_flight_.add(values);
  for (const Part& part : block.outgoing(exchange)) uses_.push_back({part.slice, false});
  for (const Part& part : block.incoming(exchange)) uses_.push_back({part.slice, true});
  return issued_++;
}

void Dependencies::forget_value(ValueId id) {
  for (Use& use : uses_) {
    if (use.slice.value == id) use.slice.fields = {};  // no fields, no conflicts
  }
}

}  // namespace weft
