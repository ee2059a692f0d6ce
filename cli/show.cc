// weft show: a schedule as a table, as a picture, or as the document that verify reads.
#include <memory>

#include "cli/commands.h"
#include "cli/problem_options.h"

namespace weft::cli {
namespace {

struct Options {
  std::string method;
  std::string svg;
  bool large = false;
  ProblemOptions problem;
};

int run(const Options&, Context&) { throw Error(ErrorCode::unsupported, "show: not there yet"); }

}  // namespace

Command show_command() {
  auto options = std::make_shared<Options>();
  Command command("show", "print or draw the schedule that a method writes");
  command.example("weft show zigzag --ranks 4 --tokens 4096 --mask causal");
  command.example("weft show usp --ranks 4 --tokens 4096 --backward --svg usp.svg");
  command.positional("method", "method to show; weft methods lists them", &options->method);
  command.text("--svg", "FILE", "draw it into this file", &options->svg);
  command.flag("--large", "allow JSON of more than 2 million instructions", &options->large);
  add_problem_options(command, options->problem);
  command.action([options](Context& context) { return run(*options, context); });
  return command;
}

}  // namespace weft::cli
