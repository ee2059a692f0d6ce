// Instructions as one line of text, for errors and listings.
//
//   ValueNumbers numbers;
//   for (Block block; program->next(block);) {
//     for (const Instruction& i : block.instructions) {
//       numbers.follow(block, i);
//       print(schedule.problem(), pool, numbers, block, i);
//           // exchange lane 0: send 3 <- kv#2 512..1024; receive 5 -> kv#4 0..512
//     }
//   }
//
// Values are numbered per rank in order of birth, as in JSON; the slot numbers of a program are reused after a drop.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "weft/schedule/instruction.h"

namespace weft {

// The numbers of one rank's values.
class ValueNumbers {
 public:
  // To be called for every instruction in order, before its values are named.
  void follow(const Block& block, const Instruction& instruction);
  // The number of a value. One that was never made gets the next number, which it keeps.
  uint32_t of(ValueId id) { return entry(id).number; }

 private:
  enum class State : uint8_t { unseen, named, alive, dropped };
  struct Entry {
    uint32_t number = 0;
    State state = State::unseen;
  };
  Entry& entry(ValueId id);

  std::unordered_map<uint32_t, Entry> entries_;  // a map: wrong schedules may name any id
  uint32_t next_ = 0;
};

// "kv#2 512..1024", and the heads where they are not all heads of that side.
std::string print(const Problem& problem, const SetPool& pool, ValueNumbers& numbers, const Slice& slice);
std::string print(const Problem& problem, const SetPool& pool, ValueNumbers& numbers, const Block& block,
                  const Instruction& instruction);

}  // namespace weft
