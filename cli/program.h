// The weft program without its process: finds the command, runs it, turns every failure into one
// line and an exit code.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command.h"

namespace weft::cli {

// Runs what `arguments` (without the program's name) ask for. Results go to context.out; an error
// is given to `complain` as one line without its line break. Never throws.
int run_program(const std::vector<Command>& commands, const std::vector<std::string>& arguments, Context& context,
                const std::function<void(std::string_view)>& complain);

}  // namespace weft::cli
