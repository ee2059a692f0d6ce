// The commands of the program, one file each. A new one is a file, a line here and a line in
// commands.cc (torch_commands.cc if it needs torch).
#pragma once

#include <vector>

#include "cli/command.h"

namespace weft::cli {

Command methods_command();
Command show_command();
Command verify_command();
Command check_command();
Command bench_command();
Command train_command();
Command eval_command();

inline constexpr char kTrainSummary[] = "train a language model on the text of a folder";
inline constexpr char kEvalSummary[] = "compute a model's loss on text";

// In the order of the help. The last ones only stand for those of torch_commands().
std::vector<Command> all_commands();

// Those of weft-torch, a program beside weft that weft gives way to: torch takes long to load, and the other commands do
// without it. Builds with torch only.
std::vector<Command> torch_commands();

}  // namespace weft::cli
