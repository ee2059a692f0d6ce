// Command: one sub-command of the weft program as a table: what it is called, what it takes, what
// it does.
//
//   Command verify_command() {
//     auto options = std::make_shared<Options>();
//     Command command("verify", "prove that a schedule is right");
//     command.example("weft verify zigzag --ranks 7 --tokens 5003");
//     command.positional("method", "method to verify, or all", &options->method);
//     command.count("--ranks", "N", "number of ranks", &options->ranks, {.min = 1, .max = 65536});
//     command.action([options](Context& context) { ...; return kExitFine; });
//     return command;
//   }
//
// The same table gives the parser, the help and the suggestions for misspelt options. Values are
// checked as they are read, in the order of the table; what several options say together is checked
// by the action.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/output.h"
#include "weft/base/stop.h"
#include "weft/base/text.h"
#include "weft/transport/processes.h"

namespace weft::cli {

// Exit codes of the program.
inline constexpr int kExitFine = 0;
inline constexpr int kExitWrong = 1;  // the thing that was checked is wrong
inline constexpr int kExitUsage = 2;  // bad usage or input, or the system failed
inline constexpr int kExitInterrupted = 130;

// What an action may use of its surroundings.
struct Context {
  Output& out;                     // the result; everything else goes to stderr
  const StopFlag& stop;            // raised by Ctrl-C
  Processes* processes = nullptr;  // that a launcher has started with this one, a rank each; null: none
};

// One row of the table. `value` names the argument in the help; empty for a flag.
struct Option {
  std::string name;     // "--ranks", or "method" for a positional
  std::string value{};  // "N"
  std::string help{};
  std::string group{};  // heading in the help
  bool repeatable = false;
  std::function<void(std::string_view)> set{};  // for a flag called with ""
};

class Command {
 public:
  // `summary` completes "this command will ...": lower case, no full stop.
  Command(std::string name, std::string summary) : name_(std::move(name)), summary_(std::move(summary)) {}

  // Paragraphs for the help, after the summary.
  void details(std::string text) { details_ = std::move(text); }
  // A line that works as it stands; may be called several times.
  void example(std::string line);
  // Options added from here on stand under this heading.
  void group(std::string heading) { group_ = std::move(heading); }

  // An optional argument by position; the action decides what its absence means.
  void positional(std::string name, std::string help, std::string* target);
  // `target` keeps its value when the option is not given; say in the help what that is.
  void flag(std::string name, std::string help, bool* target);
  void text(std::string name, std::string value, std::string help, std::string* target);
  void count(std::string name, std::string value, std::string help, int64_t* target, Limits limits);
  void number(std::string name, std::string value, std::string help, double* target);
  // One of `names`; others are refused with the nearest one.
  void choice(std::string name, std::string value, std::string help, std::string* target,
              std::vector<std::string> names);
  // Anything else. `set` throws Error(usage) for what it does not take.
  void custom(Option option);

  // What the command does once all options are read; gives the exit code.
  void action(std::function<int(Context&)> run) { run_ = std::move(run); }

  // The command is one that several processes run together.
  void on_processes() { on_processes_ = true; }

  // The command is known but cannot run here; whatever its arguments, the answer is this reason.
  void unavailable(std::string reason) { unavailable_ = std::move(reason); }

  const std::string& name() const { return name_; }
  const std::string& summary() const { return summary_; }
  const std::string& details() const { return details_; }
  const std::vector<std::string>& examples() const { return examples_; }
  const std::vector<Option>& positionals() const { return positionals_; }
  const std::vector<Option>& options() const { return options_; }
  bool runs_on_processes() const { return on_processes_; }
  const std::string& why_unavailable() const { return unavailable_; }
  int run(Context& context) const { return run_(context); }

 private:
  std::string name_;
  std::string summary_;
  std::string details_;
  std::string group_ = "Options";
  std::vector<std::string> examples_;
  std::vector<Option> positionals_;
  std::vector<Option> options_;
  std::string unavailable_;
  bool on_processes_ = false;
  std::function<int(Context&)> run_;
};

}  // namespace weft::cli
