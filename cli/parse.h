// Reads the arguments of one command by its table. The only user of CLI11, which takes ten seconds
// to compile.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"

namespace weft::cli {

// Reads `arguments` (without the program's and the command's name) and calls the setters of what
// was given. Returns false when help was asked for; then nothing is set. Throws Error(usage).
bool parse(const Command& command, const std::vector<std::string>& arguments);

// The text of `weft COMMAND --help`.
std::string help_of(const Command& command);

}  // namespace weft::cli
