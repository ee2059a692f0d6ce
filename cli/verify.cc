// weft verify: proves that a schedule is right, or says where it is wrong.
#include <memory>

#include "cli/commands.h"
#include "cli/problem_options.h"

namespace weft::cli {
namespace {

struct Options {
  std::string method;
  std::string file;
  ProblemOptions problem;
};

int run(const Options&, Context&) { throw Error(ErrorCode::unsupported, "verify: not there yet"); }

}  // namespace

Command verify_command() {
  auto options = std::make_shared<Options>();
  Command command("verify",
                  "prove that a schedule is right: coverage, messages, no deadlock, lifetimes");
  command.details(
      "Exit code 0: proved. 1: a problem was found; each is told with rank, instruction and "
      "tokens.");
  command.example("weft verify zigzag --ranks 7 --tokens 5003 --heads 6 --kv-heads 2 --backward");
  command.example("weft verify all --ranks 4 --docs 1,4000,37,900 --mask causal+window:256");
  command.example("weft verify --file schedule.json");
  command.positional("method", "method to verify, or all; weft methods lists them",
                     &options->method);
  command.text("--file", "FILE", "a schedule written by weft show --json or by hand",
               &options->file);
  add_problem_options(command, options->problem);
  command.action([options](Context& context) { return run(*options, context); });
  return command;
}

}  // namespace weft::cli
