#include "cli/parse.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

namespace weft::cli {
namespace {

// The parser of a command. Values are kept as text: CLI11 splits the arguments, the setters judge
// them.
struct Parser {
  CLI::App app;
  std::vector<CLI::Option*> positionals;
  std::vector<CLI::Option*> options;

  explicit Parser(const Command& command) : app(command.summary(), "weft " + command.name()) {
    app.set_help_flag("-h,--help", "show this text and exit");
    app.allow_extras();  // looked at below, for better messages
    for (const Option& row : command.positionals()) {
      positionals.push_back(app.add_option(row.name, row.help)->type_name(""));
    }
    for (const Option& row : command.options()) {
      CLI::Option* option = row.value.empty() ? app.add_flag(row.name, row.help) : app.add_option(row.name, row.help);
      if (!row.value.empty()) {
        option->expected(1)->type_name(row.value);
        // Repetitions are counted below, all of them collected here.
        option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)->allow_extra_args(false);
      }
      option->group(row.group);
      options.push_back(option);
    }
  }
};

[[noreturn]] void refuse_extra(const Command& command, const std::vector<std::string>& extras) {
  for (const std::string& extra : extras) {
    if (extra.size() < 2 || extra[0] != '-') continue;
    std::vector<std::string_view> known;
    for (const Option& row : command.options()) known.push_back(row.name);
    known.push_back("--help");
    throw unknown_name_error("option", extra.substr(0, extra.find('=')), known);
  }
  throw Error(ErrorCode::usage, command.name() + ": unexpected argument " + in_quotes(extras[0]) + "; see weft " +
                                    command.name() + " --help");
}

}  // namespace

bool parse(const Command& command, const std::vector<std::string>& arguments) {
  Parser parser(command);
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // as CLI11 wants it
  try {
    parser.app.parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    return false;
  } catch (const CLI::ArgumentMismatch&) {
    // Options take exactly one value, so it can only be missing, and only from the last argument.
    throw Error(ErrorCode::usage, (arguments.empty() ? "" : arguments.back()) + ": the value is missing; see weft " +
                                      command.name() + " --help");
  } catch (const CLI::Error& error) {
    throw Error(ErrorCode::usage, error.what());
  }
  if (const auto extras = parser.app.remaining(); !extras.empty()) refuse_extra(command, extras);

  for (size_t i = 0; i < parser.positionals.size(); ++i) {
    for (const std::string& given : parser.positionals[i]->results()) {
      command.positionals()[i].set(given);
    }
  }
  for (size_t i = 0; i < parser.options.size(); ++i) {
    const Option& row = command.options()[i];
    if (parser.options[i]->count() == 0) continue;
    if (row.value.empty()) {
      if (parser.options[i]->results()[0] != "true") {  // CLI11 takes --flag=value
        throw Error(ErrorCode::usage, row.name + ": takes no value; give it alone or not at all");
      }
      row.set("");
      continue;
    }
    const std::vector<std::string> given = parser.options[i]->results();
    if (given.size() > 1 && !row.repeatable) {
      throw Error(ErrorCode::usage, row.name + ": given " + std::to_string(given.size()) + " times; give it once");
    }
    for (const std::string& text : given) row.set(text);
  }
  return true;
}

std::string help_of(const Command& command) {
  Parser parser(command);
  std::string footer = command.details();
  if (!command.examples().empty()) {
    if (!footer.empty()) footer += "\n\n";
    footer += command.examples().size() == 1 ? "Example:" : "Examples:";
    for (const std::string& line : command.examples()) footer += "\n  " + line;
  }
  parser.app.footer(footer);
  parser.app.get_formatter()->column_width(28);
  std::string text = parser.app.help();
  for (size_t at = text.find("\n\n\n"); at != std::string::npos; at = text.find("\n\n\n")) {
    text.erase(at, 1);
  }
  return text;
}

}  // namespace weft::cli
