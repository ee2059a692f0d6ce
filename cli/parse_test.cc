#include "cli/parse.h"

#include <gtest/gtest.h>

namespace weft::cli {
namespace {

struct Values {
  std::string method, name;
  int64_t ranks = 0;
  double scale = 0;
  bool json = false;
  std::vector<std::string> keys;
};

Command make_command(Values& values) {
  Command command("verify", "prove that a schedule is right");
  command.details("Some details.");
  command.example("weft verify zigzag --ranks 7");
  command.positional("method", "method to verify", &values.method);
  command.count("--ranks", "N", "number of ranks", &values.ranks, {.min = 1, .max = 65536});
  command.number("--scale", "X", "factor", &values.scale);
  command.choice("--name", "NAME", "one of two", &values.name, {"first", "second"});
  command.custom(
      {.name = "--key", .value = "K", .help = "a key", .repeatable = true, .set = [&values](std::string_view key) {
         values.keys.emplace_back(key);
       }});
  command.flag("--json", "print JSON", &values.json);
  command.action([](Context&) { return 0; });
  return command;
}

Values parsed(const std::vector<std::string>& arguments) {
  Values values;
  EXPECT_TRUE(parse(make_command(values), arguments));
  return values;
}

std::string refusal(const std::vector<std::string>& arguments) {
  Values values;
  try {
    parse(make_command(values), arguments);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::usage);
    return error.what();
  }
  return "accepted";
}

TEST(Parse, ReadsEveryKind) {
  const Values values =
      parsed({"zigzag", "--ranks", "2K", "--scale=-0.5", "--name", "second", "--key", "a", "--json", "--key", "b"});
  EXPECT_EQ(values.method, "zigzag");
  EXPECT_EQ(values.ranks, 2048);
  EXPECT_EQ(values.scale, -0.5);
  EXPECT_EQ(values.name, "second");
  EXPECT_EQ(values.keys, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(values.json);
  EXPECT_EQ(parsed({"--json", "ring"}).method, "ring");
  EXPECT_EQ(parsed({}).method, "");
  EXPECT_EQ(parsed({"--key", "[a,b]"}).keys, std::vector<std::string>{"[a,b]"});
}

TEST(Parse, SuggestsNames) {
  EXPECT_EQ(refusal({"--rank", "4"}),
            "unknown option '--rank'; did you mean '--ranks'? known: --ranks, --scale, --name, --key, "
            "--json, --help");
  EXPECT_EQ(refusal({"zigzag", "--rnaks=4"}).substr(0, 52), "unknown option '--rnaks'; did you mean '--ranks'? kn");
  EXPECT_EQ(refusal({"--name", "frist"}), "unknown --name 'frist'; did you mean 'first'? known: first, second");
  EXPECT_EQ(refusal({"-x"}).substr(0, 20), "unknown option '-x';");
}

TEST(Parse, Refusals) {
  EXPECT_EQ(refusal({"a", "b"}), "verify: unexpected argument 'b'; see weft verify --help");
  EXPECT_EQ(refusal({"--ranks"}), "--ranks: the value is missing; see weft verify --help");
  EXPECT_EQ(refusal({"--ranks", "2", "--ranks", "3"}), "--ranks: given 2 times; give it once");
  EXPECT_EQ(refusal({"--ranks", "-3"}).substr(0, 30), "--ranks: '-3' is out of range;");
  EXPECT_EQ(refusal({"--ranks", "--json"}).substr(0, 40), "--ranks: '--json' is not a whole number;");
  EXPECT_EQ(refusal({"--ranks", ""}).substr(0, 21), "--ranks: '' is empty;");
  EXPECT_NE(refusal({"--json=perhaps"}), "accepted");
}

TEST(Parse, HelpShowsTheTable) {
  Values values;
  const Command command = make_command(values);
  EXPECT_FALSE(parse(command, {"--help"}));
  EXPECT_FALSE(parse(command, {"zigzag", "-h"}));
  const std::string help = help_of(command);
  for (const char* part : {"prove that a schedule is right", "Usage: weft verify", "--ranks N", "--json",
                           "Some details.", "Example:\n  weft verify zigzag --ranks 7"}) {
    EXPECT_NE(help.find(part), std::string::npos) << part << "\n" << help;
  }
}

}  // namespace
}  // namespace weft::cli
