#include "cli/commands.h"

namespace weft::cli {

std::vector<Command> torch_commands() {
  std::vector<Command> commands;
  commands.push_back(train_command());
  commands.push_back(eval_command());
  return commands;
}

}  // namespace weft::cli
