// weft train: trains a language model on the text of a folder, every sequence split over all ranks.
#include <memory>

#include "cli/commands.h"
#include "cli/problem_options.h"

namespace weft::cli {
namespace {

struct Options {
  std::string text, out, resume, init, log;
  std::string method = "zigzag";
  std::string layout;
  std::map<std::string, std::string> method_options;
  int64_t ranks = 1, tokens = 8192, steps = 100, seed = 0;
  bool json = false;
};

int run(const Options&, Context&) { throw Error(ErrorCode::unsupported, "train: not there yet"); }

}  // namespace

Command train_command() {
  auto options = std::make_shared<Options>();
  Command command("train", "train a language model on the text of a folder");
  command.example(
      "weft train --text /usr/lib/python3.11 --ranks 2 --tokens 8K --steps 200 --out runs/first");
  command.example("weft train --resume runs/first --ranks 4");
  command.group("Data and results");
  command.text("--text", "DIR", "folder (or file) of text to train on", &options->text);
  command.text("--out", "DIR", "where model/ and checkpoints/ go", &options->out);
  command.text("--resume", "DIR", "go on from the last checkpoint of this --out folder",
               &options->resume);
  command.text("--init", "DIR", "start from this Hugging Face folder", &options->init);
  command.text("--log", "FILE", "append one JSON object a step", &options->log);
  command.group("Training");
  add_ranks_option(command, &options->ranks);
  command.count("--tokens", "N",
                "length of the packed sequence of a step, over all ranks (default: 8K)",
                &options->tokens, kTokenLimits);
  command.count("--steps", "N", "steps in all (default: 100)", &options->steps, {.min = 1});
  command.count("--seed", "N", "of weights and data order (default: 0)", &options->seed, {});
  command.group("Method");
  command.text("--method", "NAME", "method (default: zigzag)", &options->method);
  add_method_options(command, &options->layout, &options->method_options);
  command.group("Other");
  add_json_option(command, &options->json);
  command.action([options](Context& context) { return run(*options, context); });
  return command;
}

}  // namespace weft::cli
