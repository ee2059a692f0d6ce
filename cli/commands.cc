#include "cli/commands.h"

namespace weft::cli {

#ifndef WEFT_WITH_TORCH
namespace {

// Stands in for a command that needs torch: says so instead of being unknown.
Command needs_torch(const std::string& name, const std::string& summary) {
  Command command(name, summary + " (not in this build)");
  command.unavailable(name + ": this weft was built without torch; build it with -DWEFT_TORCH=ON");
  return command;
}

}  // namespace
#endif

std::vector<Command> all_commands() {
  std::vector<Command> commands;
  commands.push_back(methods_command());
  commands.push_back(show_command());
  commands.push_back(verify_command());
  commands.push_back(check_command());
  commands.push_back(bench_command());
#ifdef WEFT_WITH_TORCH
  commands.push_back(train_command());
  commands.push_back(eval_command());
#else
  commands.push_back(needs_torch("train", "train a language model"));
  commands.push_back(needs_torch("eval", "compute a model's loss"));
#endif
  return commands;
}

}  // namespace weft::cli
