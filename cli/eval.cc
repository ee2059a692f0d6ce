// weft eval: the loss of a model on the text of a folder.
#include <memory>

#include "cli/commands.h"
#include "cli/problem_options.h"

namespace weft::cli {
namespace {

struct Options {
  std::string model, text, dump;
  std::string method = "zigzag";
  std::string layout;
  std::map<std::string, std::string> method_options;
  int64_t ranks = 1, tokens = 8192;
  bool json = false;
};

int run(const Options&, Context&) { throw Error(ErrorCode::unsupported, "eval: not there yet"); }

}  // namespace

Command eval_command() {
  auto options = std::make_shared<Options>();
  Command command("eval", "compute a model's loss on text");
  command.example(
      "weft eval --model runs/first/model --text docs --tokens 4096 --ranks 3 --method zigzag");
  command.text("--model", "DIR", "Hugging Face folder, e.g. the model/ that weft train wrote",
               &options->model);
  command.text("--text", "DIR", "folder (or file) of text", &options->text);
  command.count("--tokens", "N", "length of a packed sequence, over all ranks (default: 8K)",
                &options->tokens, kTokenLimits);
  command.text("--dump", "FILE", "write input_ids, position_ids and labels as safetensors",
               &options->dump);
  add_ranks_option(command, &options->ranks);
  command.group("Method");
  command.text("--method", "NAME", "method (default: zigzag)", &options->method);
  add_method_options(command, &options->layout, &options->method_options);
  command.group("Other");
  add_json_option(command, &options->json);
  command.action([options](Context& context) { return run(*options, context); });
  return command;
}

}  // namespace weft::cli
