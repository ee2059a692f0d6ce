#include "cli/commands.h"

namespace weft::cli {
namespace {

// Stands for a command of weft-torch; it runs where that program is missing.
Command needs_torch(const std::string& name, const std::string& summary) {
  Command command(name, summary);
  command.unavailable(name +
                      " needs torch, and weft-torch, the part of weft with torch, is not beside this program; build "
                      "it with 'make build' or -DWEFT_TORCH=ON");
  return command;
}

}  // namespace

std::vector<Command> all_commands() {
  std::vector<Command> commands;
  commands.push_back(methods_command());
  commands.push_back(show_command());
  commands.push_back(verify_command());
  commands.push_back(check_command());
  commands.push_back(bench_command());
  commands.push_back(needs_torch("train", kTrainSummary));
  commands.push_back(needs_torch("eval", kEvalSummary));
  return commands;
}

}  // namespace weft::cli
