// weft eval: the loss of a model on the text of a folder.
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/problem_options.h"
#include "weft/base/freed_memory.h"
#include "weft/train/evaluate.h"
#include "weft/train/method_plan.h"

namespace weft::cli {
namespace {

struct EvalArguments {
  std::string model, text, dump, dtype = "fp32";
  std::string method = "zigzag", linear_method;
  std::string layout;
  std::map<std::string, std::string> method_options;
  int64_t ranks = 0, tokens = 8192, sequences = 1, seed = 0;
  bool json = false;
};

int run(const EvalArguments& options, Context& context) {
  keep_freed_memory();
  if (options.model.empty()) throw Error(ErrorCode::usage, "--model is missing; give a Hugging Face folder");
  if (options.text.empty()) throw Error(ErrorCode::usage, "--text is missing; give a folder of text");
  require_layers_of(read_config(options.model + "/config.json"), options.linear_method);
  const EvalResult result = evaluate({.model = options.model,
                                      .text = options.text,
                                      .dtype = dtype_of(options.dtype),
                                      .ranks = static_cast<int>(ranks_of(context, options.ranks, 1)),
                                      .tokens = options.tokens,
                                      .sequences = options.sequences,
                                      .seed = static_cast<uint64_t>(options.seed),
                                      .dump = options.dump},
                                     method_plans({.method = options.method,
                                                   .layout = options.layout,
                                                   .method_options = options.method_options,
                                                   .linear_method = options.linear_method},
                                                  context.processes),
                                     context.stop, context.processes);
  if (options.json) {
    context.out.write(nlohmann::ordered_json{{"loss", result.loss}, {"tokens", result.tokens}}.dump(2) + "\n");
  } else {
    context.out.write("loss " + format_fixed(result.loss, 6) + " over " + std::to_string(result.tokens) +
                      " labelled tokens\n");
  }
  return kExitFine;
}

}  // namespace

Command eval_command() {
  auto options = std::make_shared<EvalArguments>();
  Command command("eval", kEvalSummary);
  command.example("weft eval --model runs/first/model --text docs --tokens 4096 --ranks 3 --method zigzag");
  command.text("--model", "DIR", "Hugging Face folder, e.g. the model/ that weft train wrote", &options->model);
  command.text("--text", "DIR", "folder (or file) of text", &options->text);
  command.count("--tokens", "N", "length of a packed sequence, over all ranks (default: 8K)", &options->tokens,
                kTokenLimits);
  command.text("--dump", "FILE", "write input_ids, position_ids and labels as safetensors", &options->dump);
  command.count("--sequences", "N", "how many packed sequences (default: 1)", &options->sequences, {.min = 1});
  command.count("--seed", "N", "which documents, as in training with this seed (default: 0)", &options->seed, {});
  command.choice("--dtype", "TYPE", "of activations: fp32 or bf16 (default: fp32)", &options->dtype, {"fp32", "bf16"});
  add_ranks_option(command, &options->ranks);
  command.group("Method");
  command.text("--method", "NAME", "method (default: zigzag)", &options->method);
  add_method_options(command, &options->layout, &options->method_options);
  command.text("--linear-method", "NAME", "method of the linear layers of hybrid models (default: all-scan)",
               &options->linear_method);
  command.group("Other");
  add_json_option(command, &options->json);
  command.on_processes();
  command.action([options](Context& context) { return run(*options, context); });
  return command;
}

}  // namespace weft::cli
