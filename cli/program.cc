#include "cli/program.h"

#include <algorithm>
#include <exception>
#include <new>

#include "cli/parse.h"
#include "weft/base/digest.h"
#include "weft/transport/rank_group.h"

namespace weft::cli {
namespace {

constexpr std::string_view kVersion = WEFT_VERSION;

std::string program_help(const std::vector<Command>& commands) {
  std::string text =
      "Weft splits one long sequence over many devices.\n\nUsage: weft COMMAND "
      "[OPTIONS]\n\nCommands:\n";
  size_t width = 0;
  for (const Command& command : commands) width = std::max(width, command.name().size());
  for (const Command& command : commands) {
    text += "  " + command.name() + std::string(width + 2 - command.name().size(), ' ') + command.summary() + "\n";
  }
  text += "\nweft COMMAND --help tells more and shows an example. weft --version tells the version.\n";
  if (!commands.empty() && !commands.front().examples().empty()) {
    text += "\nExample:\n  " + commands.front().examples().front() + "\n";
  }
  return text;
}

const Command& find_command(const std::vector<Command>& commands, std::string_view name) {
  std::vector<std::string_view> names;
  for (const Command& command : commands) {
    if (command.name() == name) return command;
    names.push_back(command.name());
  }
  if (name.starts_with('-')) {
    names = {"--help", "--version"};
    throw unknown_name_error("option", name, names);
  }
  throw unknown_name_error("command", name, names);
}

int dispatch(const std::vector<Command>& commands, const std::vector<std::string>& arguments, Context& context) {
  if (arguments.empty()) {
    throw Error(ErrorCode::usage, "no command given; weft --help lists them");
  }
  const std::string& first = arguments[0];
  if (first == "--version") {
    context.out.write("weft " + std::string(kVersion) + "\n");
    return kExitFine;
  }
  if (first == "--help" || first == "-h" || (first == "help" && arguments.size() == 1)) {
    context.out.write(program_help(commands));
    return kExitFine;
  }
  if (first == "help") {
    context.out.write(help_of(find_command(commands, arguments[1])));
    return kExitFine;
  }
  const Command& command = find_command(commands, first);
  if (!command.why_unavailable().empty()) {
    throw Error(ErrorCode::unsupported, command.why_unavailable());
  }
  if (!parse(command, {arguments.begin() + 1, arguments.end()})) {
    context.out.write(help_of(command));
    return kExitFine;
  }
  if (context.processes) {
    if (!command.runs_on_processes()) {
      throw Error(ErrorCode::usage, command.name() + " runs in one process, not in each of the " +
                                        std::to_string(context.processes->endpoint().ranks()) +
                                        " that were started; run it without mpirun");
    }
    Digest digest;
    for (const std::string& argument : arguments) digest.add(argument);
    ProcessGroup(*context.processes).agree(context.processes->endpoint().rank(), digest.value(), "arguments");
  }
  return command.run(context);
}

// The same in one of several processes: a failure ends all, and what the others failed of is thrown here too.
int dispatch_together(const std::vector<Command>& commands, const std::vector<std::string>& arguments,
                      Context& context) {
  try {
    const int code = dispatch(commands, arguments, context);
    context.out.flush();
    return code;
  } catch (...) {
    if (!context.processes) throw;
    const std::exception_ptr mine = std::current_exception();
    context.processes->endpoint().fail(mine);
    try {
      throw;
    } catch (const Error& error) {
      if (error.code() == ErrorCode::stopped && !context.stop.raised()) {
        std::rethrow_exception(context.processes->failure());
      }
    } catch (...) {}
    std::rethrow_exception(mine);
  }
}

// The first line of a message, without control characters: other libraries add stack traces to
// theirs.
std::string one_line(std::string_view text) {
  std::string line(text.substr(0, text.find('\n')));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 32 || c == 127) c = ' ';
  }
  return line;
}

int exit_code_of(ErrorCode code) { return code == ErrorCode::wrong ? kExitWrong : kExitUsage; }

}  // namespace

int run_program(const std::vector<Command>& commands, const std::vector<std::string>& arguments, Context& context,
                const std::function<void(std::string_view)>& complain) {
  std::string message;
  try {
    return dispatch_together(commands, arguments, context);
  } catch (const Error& error) {
    message = one_line(error.what());
    if (error.code() == ErrorCode::stopped && context.stop.raised()) {
      complain(message == "stopped" ? "weft: interrupted" : "weft: interrupted: " + message);
      return kExitInterrupted;
    }
    complain("weft: error: " + message);
    return exit_code_of(error.code());
  } catch (const std::bad_alloc&) {
    message = "out of memory; use a smaller problem";
  } catch (const std::exception& error) {
    message = one_line(error.what());
  } catch (...) {
    message = "internal error: an unknown exception; please report it with the command that led here";
  }
  complain("weft: error: " + message);
  return kExitUsage;
}

}  // namespace weft::cli
