// Wrong schedules made from right ones: one random change to a stored schedule.
#pragma once

#include <string>
#include <vector>

#include "weft/base/random.h"
#include "weft/schedule/schedule.h"

namespace weft::testing {

// An instruction taken apart, so that it can be changed.
struct LooseInstruction {
  Instruction head;
  std::vector<Slice> slices;  // of everything but an exchange
  std::vector<Part> outgoing, incoming;
};
struct LooseSchedule {
  std::vector<std::vector<LooseInstruction>> programs;
};

LooseSchedule take_apart(const StoredSchedule& stored);
// Puts it together again in a copy of the pool; parts are ordered by peer, as every exchange has them.
std::shared_ptr<const StoredSchedule> put_together(const LooseSchedule& loose, const SetPool& pool);

// Makes one random change. Returns what was changed, in words; empty when the chosen change had no place to go.
std::string mutate(LooseSchedule& schedule, SetPool& pool, const Problem& problem, Random& random);

// Whether some interleaving hangs when every exchange blocks at its issue until all its messages met their other end:
// an exhaustive search that knows nothing of the verifier. For a few ranks and small programs.
bool can_hang(const LooseSchedule& schedule);

}  // namespace weft::testing
