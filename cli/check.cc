// weft check: runs a method on random data and compares it with dense attention.
#include <memory>

#include "cli/commands.h"
#include "cli/problem_options.h"

namespace weft::cli {
namespace {

struct Options {
  std::string method;
  std::string save;
  ProblemOptions problem;
};

int run(const Options&, Context&) { throw Error(ErrorCode::unsupported, "check: not there yet"); }

}  // namespace

Command check_command() {
  auto options = std::make_shared<Options>();
  Command command("check",
                  "run a method, forward and backward, and compare it with dense attention");
  command.details("Exit code 0: within the error bounds. 1: not.");
  command.example(
      "weft check ulysses --ranks 4 --tokens 1000 --mask full --heads 5 --kv-heads 1 --dtype bf16");
  command.positional("method", "method to check; weft methods lists them", &options->method);
  command.text("--save", "DIR", "write inputs, outputs and mask into this folder", &options->save);
  add_problem_options(command, options->problem);
  command.action([options](Context& context) { return run(*options, context); });
  return command;
}

}  // namespace weft::cli
