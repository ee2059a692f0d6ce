#include "cli/program.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "cli/commands.h"
#include "cli/parse.h"
#include "cli/testing.h"

namespace weft::cli {
namespace {

template <typename Action>
Outcome run_action(Action action, bool interrupted = false) {
  Command command("act", "act");
  command.action(action);
  return run_with({command}, {"act"}, interrupted);
}

TEST(Program, ResultsGoOut) {
  const Outcome run = run_action([](Context& context) {
    context.out.write("result\n");
    return kExitWrong;
  });
  EXPECT_EQ(run.code, 1);
  EXPECT_EQ(run.out, "result\n");
  EXPECT_TRUE(run.complaints.empty());
}

TEST(Program, ErrorsAreOneLineWithTheRightCode) {
  const auto throwing = [](auto error) { return [error](Context&) -> int { throw error; }; };
  for (const auto& [code, exit] : {std::pair{ErrorCode::usage, 2},
                                   {ErrorCode::unsupported, 2},
                                   {ErrorCode::format, 2},
                                   {ErrorCode::io, 2},
                                   {ErrorCode::wrong, 1},
                                   {ErrorCode::internal, 2}}) {
    const Outcome run = run_action(throwing(Error(code, "bad\x1b thing\nsecond line")));
    EXPECT_EQ(run.code, exit);
    EXPECT_EQ(run.complaints, std::vector<std::string>{"weft: error: bad  thing"});
  }
  EXPECT_EQ(run_action(throwing(std::bad_alloc())).complaints[0], "weft: error: out of memory; use a smaller problem");
  EXPECT_EQ(run_action(throwing(std::runtime_error("odd\nat frame 1"))).complaints[0], "weft: error: odd");
  EXPECT_EQ(run_action(throwing(7)).code, 2);
}

TEST(Program, AnInterruptIsNotAnError) {
  const Outcome run = run_action(
      [](Context& context) -> int {
        context.stop.poll();
        return 0;
      },
      true);
  EXPECT_EQ(run.code, 130);
  EXPECT_EQ(run.complaints, std::vector<std::string>{"weft: interrupted"});
}

TEST(Program, SuggestsCommandsAndOptions) {
  EXPECT_EQ(run_with(all_commands(), {"verfy"}).complaints[0],
            "weft: error: unknown command 'verfy'; did you mean 'verify'? known: methods, show, "
            "verify, check, bench, "
            "train, eval");
  EXPECT_EQ(run_with(all_commands(), {"--hlep"}).complaints[0],
            "weft: error: unknown option '--hlep'; did you mean '--help'? known: --help, --version");
  EXPECT_EQ(run_with(all_commands(), {}).code, 2);
}

TEST(Program, EveryCommandHasHelpWithAnExample) {
  const Outcome all = run_with(all_commands(), {"--help"});
  EXPECT_EQ(all.code, 0);
  for (const Command& command : all_commands()) {
    EXPECT_NE(all.out.find("\n  " + command.name() + " "), std::string::npos);
    if (!command.why_unavailable().empty()) continue;
    const Outcome help = run_with(all_commands(), {command.name(), "--help"});
    EXPECT_EQ(help.code, 0);
    EXPECT_NE(help.out.find("Example"), std::string::npos) << command.name();
    EXPECT_EQ(run_with(all_commands(), {"help", command.name()}).out, help.out);
    EXPECT_TRUE(help.complaints.empty());
  }
}

// Each example is read without complaint, so that none of them names an option that is gone.
TEST(Program, ExamplesAreReadable) {
  for (const Command& command : all_commands()) {
    for (const std::string& example : command.examples()) {
      const std::vector<std::string> words = words_of(example);
      ASSERT_GE(words.size(), 2u);
      EXPECT_EQ(words[0] + " " + words[1], "weft " + command.name());
      EXPECT_TRUE(parse(command, {words.begin() + 2, words.end()})) << example;
    }
  }
}

TEST(Output, NoticesAFullDisk) {
  std::FILE* full = std::fopen("/dev/full", "w");
  ASSERT_NE(full, nullptr);
  Output output(fileno(full));
  output.write("text");
  EXPECT_THROW(output.flush(), Error);
  EXPECT_NO_THROW(output.flush());
  EXPECT_THROW(output.write(std::string(1 << 20, 'x')), Error);
  std::fclose(full);
}

}  // namespace
}  // namespace weft::cli
