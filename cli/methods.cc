// weft methods: what is there to choose from.
#include <memory>

#include "cli/commands.h"
#include "cli/problem_options.h"

namespace weft::cli {
namespace {

struct Options {
  bool json = false;
};

int run(const Options&, Context&) { throw Error(ErrorCode::unsupported, "methods: not there yet"); }

}  // namespace

Command methods_command() {
  auto options = std::make_shared<Options>();
  Command command("methods", "list the methods and what each can do");
  command.example("weft methods");
  add_json_option(command, &options->json);
  command.action([options](Context& context) { return run(*options, context); });
  return command;
}

}  // namespace weft::cli
