// Dependencies: which exchanges must be complete before an instruction may run.
//
// The one place that knows the rules of overlap (docs/schedule.md, rules 2, 3, 5 and 6); the verifier, the drawing,
// simulation and execution all use it. Instructions are fed in issue order. An exchange is complete at the first use
// that conflicts with it, at a wait on its lane, when a later exchange of its lane is complete, and at the end of the
// phase. Two uses conflict when they touch overlapping elements of one value and at least one writes.
//
//   Dependencies dependencies(pool);
//   dependencies.before(block, instruction, [&](uint64_t exchange) { /* wait for it */ });
//   if (instruction.op == Op::exchange) uint64_t exchange = dependencies.issue(block, instruction);
#pragma once

#include <cstdint>
#include <vector>

#include "weft/schedule/instruction.h"

namespace weft {

class Dependencies {
 public:
  explicit Dependencies(SetPool& pool) : pool_(pool) {}

  // Calls complete(exchange number) for every exchange in flight that must be complete before this instruction starts,
  // oldest first, and forgets those exchanges. At the end of the program use finish().
  template <typename F>
  void before(const Block& block, const Instruction& instruction, F&& complete);
  // All exchanges in flight, oldest first.
  template <typename F>
  void finish(F&& complete);
  // Puts an exchange in flight after before() was called for it. Returns its number: 0, 1, 2, ... in issue order.
  uint64_t issue(const Block& block, const Instruction& exchange);

  bool idle() const { return flights_.empty(); }

 private:
  struct Use {
    Slice slice;
    bool writes;
  };
  struct Flight {
    uint64_t number;
    uint8_t lane;
    std::vector<Use> uses;
  };

  // Index of the newest flight that conflicts with the instruction in the lane, or -1.
  bool conflicts(const Flight& flight, const Slice& slice, bool writes);
  bool conflicts(const Flight& flight, const Block& block, const Instruction& instruction);
  // Whether flight `i` must be complete before the instruction.
  bool must_complete(const Flight& flight, const Block& block, const Instruction& instruction);
  // A value that ends can be reused under the same id: reads in flight no longer concern it.
  void forget_value(ValueId id);
  void recycle(size_t index);

  SetPool& pool_;
  uint64_t issued_ = 0;
  std::vector<Flight> flights_;  // oldest first
  std::vector<Flight> spare_;    // recycled, to keep their memory
  std::vector<char> due_;
};

template <typename F>
void Dependencies::before(const Block& block, const Instruction& instruction, F&& complete) {
  if (flights_.empty()) return;
  due_.assign(flights_.size(), 0);
  bool lane_due[kLanes] = {};
  for (size_t i = flights_.size(); i-- > 0;) {  // newest first: a lane is complete up to its newest due flight
    const Flight& flight = flights_[i];
    bool& lane = lane_due[flight.lane];
    lane = lane || must_complete(flight, block, instruction);
    due_[i] = lane;
  }
  for (size_t i = 0, at = 0; i < due_.size(); ++i) {
    if (!due_[i]) {
      ++at;
      continue;
    }
    complete(flights_[at].number);
    recycle(at);
  }
  if (instruction.op == Op::drop) forget_value(block.sources(instruction)[0].value);
}

template <typename F>
void Dependencies::finish(F&& complete) {
  while (!flights_.empty()) {
    complete(flights_.front().number);
    recycle(0);
  }
}

}  // namespace weft
