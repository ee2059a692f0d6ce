// What tests of the program share: a command line run inside the test.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/parse.h"
#include "cli/program.h"

namespace weft::cli {

struct Outcome {
  int code = -1;
  std::string out;
  std::vector<std::string> complaints;
};

inline Outcome run_with(const std::vector<Command>& commands, const std::vector<std::string>& arguments,
                        bool interrupted = false) {
  std::FILE* file = std::tmpfile();
  Output output(fileno(file));
  StopFlag stop;
  if (interrupted) stop.raise();
  Context context{.out = output, .stop = stop};
  Outcome result;
  result.code =
      run_program(commands, arguments, context, [&](std::string_view line) { result.complaints.emplace_back(line); });
  std::rewind(file);
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) result.out += static_cast<char>(c);
  std::fclose(file);
  return result;
}

// The words of a line, split at blanks.
inline std::vector<std::string> words_of(const std::string& line) {
  std::vector<std::string> words;
  for (size_t at = 0; at < line.size();) {
    const size_t end = std::min(line.find(' ', at), line.size());
    words.push_back(line.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

// Runs "show ring --ranks 2 ...", the program's name left out.
inline Outcome run_line(const std::string& line) { return run_with(all_commands(), words_of(line)); }

inline bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

// The one line that a refused command says.
inline std::string complaint(const std::string& line) {
  const Outcome outcome = run_line(line);
  EXPECT_EQ(outcome.code, kExitUsage) << line;
  EXPECT_EQ(outcome.out, "") << line;
  EXPECT_EQ(outcome.complaints.size(), 1u) << line;
  return outcome.complaints.empty() ? "" : outcome.complaints[0];
}

inline void expect_help_with_an_example(const std::vector<Command>& commands) {
  const Outcome all = run_with(commands, {"--help"});
  EXPECT_EQ(all.code, 0);
  for (const Command& command : commands) {
    EXPECT_NE(all.out.find("\n  " + command.name() + " "), std::string::npos);
    if (!command.why_unavailable().empty()) continue;
    const Outcome help = run_with(commands, {command.name(), "--help"});
    EXPECT_EQ(help.code, 0);
    EXPECT_NE(help.out.find("Example"), std::string::npos) << command.name();
    EXPECT_EQ(run_with(commands, {"help", command.name()}).out, help.out);
    EXPECT_TRUE(help.complaints.empty());
  }
}

// Each example is read without complaint, so that none of them names an option that is gone.
inline void expect_readable_examples(const std::vector<Command>& commands) {
  for (const Command& command : commands) {
    for (const std::string& example : command.examples()) {
      const std::vector<std::string> words = words_of(example);
      ASSERT_GE(words.size(), 2u);
      EXPECT_EQ(words[0] + " " + words[1], "weft " + command.name());
      EXPECT_TRUE(parse(command, {words.begin() + 2, words.end()})) << example;
    }
  }
}

}  // namespace weft::cli
