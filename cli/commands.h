// The commands of the program, one file each. A new one is a file, a line here and a line in
// commands.cc.
#pragma once

#include <vector>

#include "cli/command.h"

namespace weft::cli {

Command methods_command();
Command show_command();
Command verify_command();
Command check_command();
Command bench_command();
Command train_command();  // this and eval exist in builds with torch only
Command eval_command();

// In the order of the help.
std::vector<Command> all_commands();

}  // namespace weft::cli
