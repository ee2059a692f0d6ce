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

size_t Dependencies::unite_alike(std::span<Use> uses) {
  size_t kept = 0;
  for (const Use& use : uses) {
    constexpr size_t kLooked = 4;  // parts for one peer come together, and are of a few kinds
    size_t place = kept;
    for (size_t back = 1; back <= std::min(kLooked, kept); ++back) {
      if (uses[kept - back].differs_in_tokens_only(use)) place = kept - back;
    }
    if (united_.size() <= place) united_.resize(place + 1);
    if (place == kept) {
      uses[kept++] = use;
      united_[place].clear();
    } else if (uses[place].slice.tokens != use.slice.tokens) {
      if (united_[place].empty()) united_[place] = pool_[uses[place].slice.tokens];
      united_[place].unite(pool_[use.slice.tokens]);
    }
  }
  for (size_t i = 0; i < kept; ++i) {
    if (!united_[i].empty()) uses[i].slice.tokens = pool_.intern(united_[i]);
  }
  return kept;
}

void Dependencies::find_uses(const Block& block, const Instruction& instruction) {
  now_.clear();
  const auto add = [&](const Slice& slice, bool writes) {
    Values values;
    values.add(slice.value, writes);
    if (values.may_conflict(in_flight_)) now_.push_back({slice, writes});
  };
  if (instruction.op == Op::exchange) {
    for (const Part& part : block.outgoing(instruction)) add(part.slice, false);
    for (const Part& part : block.incoming(instruction)) add(part.slice, true);
  } else {
    const auto operands = block.operands(instruction);
    const size_t read = operands.size() - instruction.targets;  // the rest is written
    for (size_t i = 0; i < operands.size(); ++i) add(operands[i], i >= read);
  }
  if (now_.size() > kMany) now_.resize(unite_alike(now_));
}

void Dependencies::order_uses(Flight& flight, size_t first) {
  if (flight.uses <= kMany || flight.ordered) return;
  const auto begin = uses_.begin() + static_cast<int64_t>(first), end = begin + flight.uses;
  const auto by_value = [](const Use& a, const Use& b) { return a.slice.value < b.slice.value; };
  if (!std::is_sorted(begin, end, by_value)) std::stable_sort(begin, end, by_value);
  const size_t kept = unite_alike({uses_.data() + first, flight.uses});
  uses_.erase(begin + static_cast<int64_t>(kept), end);
  flight.uses = static_cast<uint32_t>(kept);
  flight.ordered = true;
}

std::span<Dependencies::Use> Dependencies::uses_of(const Flight& flight, size_t first, ValueId id) {
  const std::span<Use> all(uses_.data() + first, flight.uses);
  if (!flight.ordered) return all;
  const auto begin = std::lower_bound(all.begin(), all.end(), id,
                                      [](const Use& use, ValueId value) { return use.slice.value < value; });
  auto end = begin;
  while (end != all.end() && end->slice.value == id) ++end;
  return {begin, end};
}

bool Dependencies::meet(const Slice& a, const Slice& b) {
  const Fields common = a.fields & b.fields;
  if (common.empty() || !pool_.intersects(a.tokens, b.tokens)) return false;
  if (pool_.intersects(a.heads, b.heads)) return true;
  return !(common & shared_).empty() &&
         pool_.intersects(pool_.contract(a.heads, sharing_), pool_.contract(b.heads, sharing_));
}

bool Dependencies::conflicts(Flight& flight, size_t first) {
  order_uses(flight, first);
  for (const Use& now : now_) {
    for (const Use& use : uses_of(flight, first, now.slice.value)) {
      if (use.slice.value != now.slice.value || !(use.writes || now.writes)) continue;
      if (meet(use.slice, now.slice)) return true;
    }
  }
  return false;
}

bool Dependencies::receives_a_value_of_now(Flight& flight, size_t first) {
  order_uses(flight, first);
  for (const Use& now : now_) {
    for (const Use& use : uses_of(flight, first, now.slice.value)) {
      if (use.writes && use.slice.value == now.slice.value) return true;
    }
  }
  return false;
}

bool Dependencies::must_complete(Flight& flight, size_t first, const Instruction& instruction) {
  switch (instruction.op) {
    case Op::wait: return flight.lane == instruction.lane;
    case Op::begin_backward: return true;
    case Op::drop: return receives_a_value_of_now(flight, first);  // it ends as a whole, whatever rows are named
    default: return conflicts(flight, first);
  }
}

bool Dependencies::find_due(const Block& block, const Instruction& instruction, const Values& values) {
  if (instruction.op != Op::wait && instruction.op != Op::begin_backward) find_uses(block, instruction);
  bool any = false;
  bool lane_due[kLanes] = {};
  size_t first = uses_.size();
  for (size_t i = flights_.size(); i-- > 0;) {  // newest first: a lane is complete up to its newest due flight
    Flight& flight = flights_[i];
    first -= flight.uses;
    bool& lane = lane_due[flight.lane];
    lane = lane || (values.may_conflict(flight.values) && must_complete(flight, first, instruction));
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
  Values values = values_of(block, exchange);
  const size_t parts = size_t{exchange.sources} + exchange.targets;
  if (parts == 0) values = {~uint64_t{0}, ~uint64_t{0}};  // so that a wait finds it
  in_flight_.add(values);
  const auto put = [&](std::vector<Use>& uses) {
    for (const Part& part : block.outgoing(exchange)) uses.push_back({part.slice, false});
    for (const Part& part : block.incoming(exchange)) uses.push_back({part.slice, true});
  };
  const size_t before = uses_.size();
  if (parts > kMany) {  // thousands of ranks may have thousands in flight each
    std::vector<Use> all;
    all.reserve(parts);
    put(all);
    uses_.insert(uses_.end(), all.begin(), all.begin() + static_cast<int64_t>(unite_alike(all)));
  } else {
    put(uses_);
  }
  flights_.push_back({issued_, values, static_cast<uint32_t>(uses_.size() - before), exchange.lane, false, false});
  return issued_++;
}

void Dependencies::forget_value(ValueId id) {
  Values value;
  value.add(id, true);
  size_t first = 0;
  for (Flight& flight : flights_) {
    if (value.may_conflict(flight.values)) {
      for (Use& use : uses_of(flight, first, id)) {
        if (use.slice.value == id) use.slice.fields = {};  // no fields, no conflicts
      }
    }
    first += flight.uses;
  }
}

}  // namespace weft
