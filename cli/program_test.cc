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

TEST(Program, EveryCommandHasHelpWithAnExample) { expect_help_with_an_example(all_commands()); }

TEST(Program, ExamplesAreReadable) { expect_readable_examples(all_commands()); }

TEST(Program, CommandsThatNeedTorchSayWhatIsMissing) {
  const Outcome run = run_with(all_commands(), {"train", "--text", "folder"});
  EXPECT_EQ(run.code, 2);
  EXPECT_NE(run.complaints.at(0).find("train needs torch"), std::string::npos) << run.complaints.at(0);
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
