// Schedules as JSON: the format of docs/schedule.md, for outside programs, changes by hand and diffs.
//
//   write_json(schedule, [](std::string_view piece) { std::cout << piece; });
//   Schedule same = schedule_from_json(to_json(schedule));        // to_json(same) is the same text, byte for byte
//
// A document is written as the programs are read, one instruction per line, so its size does not matter. Reading
// checks the form only: what is well formed but wrong (a peer that does not exist, a value that was never made, rows
// that a value does not have) is read as it stands, for the verifier to judge.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "weft/schedule/schedule.h"

namespace weft {

// Takes a text piece by piece, in order.
using TextSink = std::function<void(std::string_view)>;

// Throws Error(unsupported), before anything is written, when the programs have more than `limit` instructions in all.
void write_json(const Schedule& schedule, const TextSink& sink, int64_t limit = Schedule::kStoreLimit);
std::string to_json(const Schedule& schedule, int64_t limit = Schedule::kStoreLimit);

// Throws Error(format), one line that names the place ("programs[3][17].send[0].parts[0].tokens: ..."), for a text that
// is not JSON or not of the format, and for more than `limit` instructions. Memory stays in proportion to the text.
Schedule schedule_from_json(std::string_view text, int64_t limit = Schedule::kStoreLimit);

}  // namespace weft
