// From the options of the command line to a schedule, for every command that works on one.
#pragma once

#include <string>

#include "cli/problem_options.h"
#include "weft/schedule/schedule.h"

namespace weft::cli {

// The schedule that a method writes for checked options. Throws Error(usage) for unknown names, Error(unsupported)
// for what the method refuses.
Schedule schedule_for(const std::string& method, const ProblemOptions& options, bool backward, bool return_lse = false);

// Throws Error(usage) when no method was named.
void require_method(const std::string& method, const char* command);

}  // namespace weft::cli
