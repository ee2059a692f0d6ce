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
#include <span>
#include <vector>

#include "weft/schedule/instruction.h"

namespace weft {

class Dependencies {
 public:
  // Of the shape only the heads that share rows matter: those conflict like one.
  explicit Dependencies(SetPool& pool, const AttentionShape& shape = {})
      : pool_(pool), shared_(shape.shared_fields()), sharing_(shape.sharing(Field::q)) {}

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
    bool differs_in_tokens_only(const Use& other) const {
      return writes == other.writes && slice.value == other.slice.value && slice.heads == other.slice.heads &&
             slice.fields == other.slice.fields;
    }
  };
  // The values that something reads and writes, as bits id % 64: a quick no.
  struct Values {
    uint64_t read = 0, written = 0;
    void add(ValueId id, bool writes) { (writes ? written : read) |= uint64_t{1} << (static_cast<uint32_t>(id) % 64); }
    void add(const Values& other) { read |= other.read, written |= other.written; }
    bool may_conflict(const Values& other) const {
      return ((read & other.written) | (written & (other.read | other.written))) != 0;
    }
  };
  // Uses of a flight lie in uses_ one after the other, flights in issue order.
  struct Flight {
    uint64_t number;
    Values values;
    uint32_t uses;  // how many
    uint8_t lane;
    bool due;      // during before(): must be complete first
    bool ordered;  // by order_uses()
  };

  // All bits for instructions that concern every flight.
  static Values values_of(const Block& block, const Instruction& instruction);
  // Makes one of uses that differ in their tokens only, in place; returns how many are left. An exchange may have a part
  // for each of a thousand peers, and two of those in flight would be a million comparisons.
  size_t unite_alike(std::span<Use> uses);
  static constexpr size_t kMany = 32;
  // Orders many uses of a flight, which begin at `first`, by their value; fewer are faster looked through.
  void order_uses(Flight& flight, size_t first);
  // All uses of the value, perhaps among others.
  std::span<Use> uses_of(const Flight& flight, size_t first, ValueId id);
  // Fills now_ with those uses of an instruction that may conflict with something in flight.
  void find_uses(const Block& block, const Instruction& instruction);
  // Whether the uses of a flight, which begin at `first`, conflict with a use of now_.
  bool conflicts(Flight& flight, size_t first);
  // Whether a flight receives rows of a value that now_ names.
  bool receives_a_value_of_now(Flight& flight, size_t first);
  bool must_complete(Flight& flight, size_t first, const Instruction& instruction);
  // Marks the flights that must be complete before the instruction. Returns whether there are any.
  bool find_due(const Block& block, const Instruction& instruction, const Values& values);
  void remove_due();
  // A value that ends can be reused under the same id: reads in flight no longer concern it.
  void forget_value(ValueId id);

  // Whether two uses touch rows of one head, or of heads that share them.
  bool meet(const Slice& a, const Slice& b);

  SetPool& pool_;
  const Fields shared_;
  const int64_t sharing_;
  uint64_t issued_ = 0;
  Values in_flight_;             // values of all flights
  std::vector<Flight> flights_;  // oldest first
  std::vector<Use> uses_;
  std::vector<Use> now_;             // of the instruction being looked at
  std::vector<IntervalSet> united_;  // during unite_alike()
};

template <typename F>
void Dependencies::before(const Block& block, const Instruction& instruction, F&& complete) {
  if (flights_.empty()) return;
  const Values values = values_of(block, instruction);
  if (values.may_conflict(in_flight_) && find_due(block, instruction, values)) {
    for (const Flight& flight : flights_) {
      if (flight.due) complete(flight.number);
    }
    remove_due();
  }
  if (instruction.op == Op::drop) forget_value(block.sources(instruction)[0].value);
}

template <typename F>
void Dependencies::finish(F&& complete) {
  for (const Flight& flight : flights_) complete(flight.number);
  flights_.clear();
  uses_.clear();
  in_flight_ = {};
}

}  // namespace weft
