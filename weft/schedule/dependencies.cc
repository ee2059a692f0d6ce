#include "weft/schedule/dependencies.h"

#include <algorithm>

namespace weft {

bool Dependencies::conflicts(const Flight& flight, const Slice& slice, bool writes) {
  for (const Use& use : flight.uses) {
    if (use.slice.value != slice.value || !(use.writes || writes)) continue;
    if ((use.slice.fields & slice.fields).empty()) continue;
    if (pool_.intersects(use.slice.tokens, slice.tokens) && pool_.intersects(use.slice.heads, slice.heads)) return true;
  }
  return false;
}

bool Dependencies::conflicts(const Flight& flight, const Block& block, const Instruction& instruction) {
  if (instruction.op == Op::exchange) {
    for (const Part& part : block.outgoing(instruction)) {
      if (conflicts(flight, part.slice, false)) return true;
    }
    for (const Part& part : block.incoming(instruction)) {
      if (conflicts(flight, part.slice, true)) return true;
    }
    return false;
  }
  const auto targets = block.targets(instruction);
  for (const Slice& slice : block.operands(instruction)) {
    // A drop does not write: what is being sent may end. It does wait for what is being received.
    const bool writes = !targets.empty() && &slice >= targets.data();
    if (conflicts(flight, slice, writes)) return true;
  }
  return false;
}

bool Dependencies::must_complete(const Flight& flight, const Block& block, const Instruction& instruction) {
  switch (instruction.op) {
    case Op::wait: return flight.lane == instruction.lane;
    case Op::begin_backward: return true;
    case Op::create:
    case Op::input: return false;
    default: return conflicts(flight, block, instruction);
  }
}

uint64_t Dependencies::issue(const Block& block, const Instruction& exchange) {
  Flight flight;
  if (!spare_.empty()) {
    flight = std::move(spare_.back());
    spare_.pop_back();
  }
  flight.number = issued_++;
  flight.lane = exchange.lane;
  flight.uses.clear();
  for (const Part& part : block.outgoing(exchange)) flight.uses.push_back({part.slice, false});
  for (const Part& part : block.incoming(exchange)) flight.uses.push_back({part.slice, true});
  flights_.push_back(std::move(flight));
  return flights_.back().number;
}

void Dependencies::forget_value(ValueId id) {
  for (Flight& flight : flights_) std::erase_if(flight.uses, [&](const Use& use) { return use.slice.value == id; });
}

void Dependencies::recycle(size_t index) {
  spare_.push_back(std::move(flights_[index]));
  flights_.erase(flights_.begin() + static_cast<int64_t>(index));
}

}  // namespace weft
