// Trace: the fate of one contribution, told after the proof has failed.
//
// The fast run only finds rows that lack something. For the explanation the programs run again and write down every
// event that touches one (output, query head, own slot, other slot): where it was computed, copied, merged, dropped.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "weft/schedule/instruction.h"

namespace weft::verify_internal {

struct Trace {
  Fields fields;      // out+lse, dq, or dk+dv
  int64_t head = 0;   // query head
  int64_t own = 0;    // own slot: query for out and dq, key for dk, dv
  int64_t other = 0;  // the slot that is missing

  struct Event {
    int rank;
    int64_t instruction;
    std::string text;
  };
  std::vector<Event> events;

  bool concerns(Fields f, SetPool& pool, SetId heads, SetId own_slots, const IntervalSet& others) const {
    return !(f & fields).empty() && pool[heads].contains(head) && pool[own_slots].contains(own) &&
           others.contains(other);
  }
  // Of a state or dstate of these tokens, which brings rows of queries their keys, or rows of keys their queries.
  bool concerns_state(Fields f, SetPool& pool, SetId heads, const IntervalSet& tokens) const {
    const bool brings = (f.has(Field::state) && !(fields & kQueryFields).empty()) ||
                        (f.has(Field::dstate) && !(fields & kKeyFields).empty());
    return brings && pool[heads].contains(head) && tokens.contains(other);
  }
};

}  // namespace weft::verify_internal
