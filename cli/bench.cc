// weft bench: how fast a method is on this machine, against one rank with the same kernels.
#include <memory>

#include "cli/commands.h"
#include "cli/problem_options.h"

namespace weft::cli {
namespace {

struct Options {
  std::string what;
  std::string method = "zigzag";
  ProblemOptions problem;
};

int run(const Options&, Context&) { throw Error(ErrorCode::unsupported, "bench: not there yet"); }

}  // namespace

Command bench_command() {
  auto options = std::make_shared<Options>();
  Command command("bench", "time a method on this machine");
  command.example(
      "weft bench attention --method zigzag --ranks 2 --tokens 16K --heads 8 --head-dim 64");
  command.positional("what", "what to time: attention", &options->what);
  command.text("--method", "NAME", "method (default: zigzag)", &options->method);
  add_problem_options(command, options->problem);
  command.action([options](Context& context) { return run(*options, context); });
  return command;
}

}  // namespace weft::cli
