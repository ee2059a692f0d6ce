#include "cli/commands.h"
#include "cli/testing.h"

namespace weft::cli {
namespace {

TEST(TorchCommands, EachHasHelpWithAnExample) { expect_help_with_an_example(torch_commands()); }

TEST(TorchCommands, ExamplesAreReadable) { expect_readable_examples(torch_commands()); }

// weft gives way to them by name, and lists them with these summaries.
TEST(TorchCommands, AreThoseThatWeftStandsFor) {
  std::vector<std::pair<std::string, std::string>> here, there;
  for (const Command& command : torch_commands()) here.emplace_back(command.name(), command.summary());
  for (const Command& command : all_commands()) {
    if (!command.why_unavailable().empty()) there.emplace_back(command.name(), command.summary());
  }
  EXPECT_EQ(here, there);
}

}  // namespace
}  // namespace weft::cli
