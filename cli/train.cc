// weft train: trains a language model on the text of a folder, every sequence split over all ranks.
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/problem_options.h"
#include "weft/base/freed_memory.h"
#include "weft/data/corpus.h"
#include "weft/draw/chart.h"
#include "weft/draw/svg.h"
#include "weft/files/atomic_file.h"
#include "weft/methods/registry.h"
#include "weft/train/method_plan.h"
#include "weft/train/trainer.h"

namespace weft::cli {
namespace {

using Json = nlohmann::ordered_json;

// Values that were not given keep what a resumed run had, or the trainer's defaults.
struct TrainArguments {
  std::string text, out, resume, init, log, method, linear_method, layout, dtype, model, model_config;
  std::map<std::string, std::string> method_options;
  int64_t ranks = 0, tokens = 0, steps = 0, seed = -1, sequences = 0, checkpoint_every = -1, warmup = -1;
  double lr = 0, clip = -1;
  bool overwrite = false;
  bool json = false;
};

// ---- from options to the trainer's

template <typename T>
void take(T given, T absent, T& to) {
  if (given != absent) to = given;
}

std::string note_of(const TrainOptions& options, const std::string& key) {
  const auto found = options.notes.find(key);
  return found == options.notes.end() ? "" : found->second;
}

TrainOptions train_options(const TrainArguments& given) {
  TrainOptions options;
  if (!given.resume.empty()) {
    options = options_of_checkpoint(given.resume);
  } else if (given.text.empty()) {
    throw Error(ErrorCode::usage, "--text is missing; give a folder of text to train on");
  }
  const std::string none;
  take(given.text, none, options.text);
  take(given.out, none, options.out);
  take(given.init, none, options.init);
  if (!given.model.empty()) options.model = model_preset(given.model);
  if (!given.model_config.empty()) {
    const char* const other = !given.resume.empty() ? "--resume" : !given.init.empty() ? "--init" : "--model";
    if (!given.resume.empty() || !given.init.empty() || !given.model.empty()) {
      throw Error(ErrorCode::usage,
                  std::string("--model-config and ") + other + " both say what the model is; give one");
    }
    options.model = read_config(given.model_config);
  }
  if (!given.dtype.empty()) options.dtype = dtype_of(given.dtype);
  take<int64_t>(given.tokens, 0, options.tokens);
  take<int64_t>(given.steps, 0, options.steps);
  take<int64_t>(given.sequences, 0, options.sequences_per_step);
  take<int64_t>(given.checkpoint_every, -1, options.checkpoint_every);
  take<int64_t>(given.warmup, -1, options.warmup_steps);
  take(given.lr, 0.0, options.lr);
  take(given.clip, -1.0, options.clip);
  if (given.seed >= 0) options.seed = static_cast<uint64_t>(given.seed);
  options.overwrite = given.overwrite;
  return options;
}

MethodPlanOptions plan_options(const TrainArguments& given, TrainOptions& options) {
  const auto choose = [&](const std::string& value, const char* key, const char* fallback) {
    std::string chosen = !value.empty() ? value : note_of(options, key);
    if (chosen.empty()) chosen = fallback;
    options.notes[key] = chosen;
    return chosen;
  };
  MethodPlanOptions plan;
  plan.method = choose(given.method, "method", "zigzag");
  plan.layout = choose(given.layout, "layout", "");
  plan.method_options = given.method_options;
  // Older checkpoints note a method for models without linear layers, too: only what is given is held against the model.
  const bool from_init = !given.init.empty() && given.resume.empty();
  const ModelConfig model = from_init ? read_config(given.init + "/config.json") : options.model;
  require_layers_of(model, given.linear_method);
  if (model.linear_layer_count() > 0) {
    plan.linear_method = choose(given.linear_method, "linear_method", "all-scan");
  } else {
    options.notes.erase("linear_method");
  }
  return plan;
}

// ---- what the user sees

// One line on stderr: rewritten in place on a terminal, now and then otherwise.
class StepLine {
 public:
  explicit StepLine(int64_t already_done) : terminal_(isatty(2) == 1), already_done_(already_done) {}

  void show(const StepReport& r) {
    seconds_ += r.seconds;
    const double left = seconds_ / static_cast<double>(r.step - already_done_) * static_cast<double>(r.steps - r.step);
    const std::string line = "step " + std::to_string(r.step) + "/" + std::to_string(r.steps) + "  loss " +
                             format_fixed(r.loss, 4) + "  " + format_count(r.tokens_per_second) + " tokens/s  " +
                             format_duration(left) + " left  waiting " + format_fixed(100 * r.waiting_share, 1) + "%";
    if (terminal_) {
      std::fprintf(stderr, "\r\033[K%s", line.c_str());
      open_ = true;
    } else if (r.step == 1 || r.step == r.steps || seconds_ - shown_ >= 10) {
      std::fprintf(stderr, "%s\n", line.c_str());
      shown_ = seconds_;
    }
  }
  ~StepLine() {
    if (open_) std::fprintf(stderr, "\n");
  }

 private:
  bool terminal_;
  int64_t already_done_;
  bool open_ = false;
  double seconds_ = 0;
  double shown_ = 0;
};

// One JSON object a step, flushed at once, so that a log can be followed.
class StepLog {
 public:
  explicit StepLog(const std::string& path) : path_(path) {
    if (path.empty()) return;
    file_.open(path, std::ios::app);
    if (!file_) throw Error(ErrorCode::io, "--log: cannot write " + path);
  }
  void write(const StepReport& r) {
    if (!file_.is_open()) return;
    const Json row = {{"step", r.step},
                      {"loss", r.loss},
                      {"grad_norm", r.grad_norm},
                      {"tokens", r.tokens},
                      {"tokens_per_second", r.tokens_per_second},
                      {"learning_rate", r.learning_rate},
                      {"seconds", r.seconds},
                      {"waiting_share", r.waiting_share}};
    file_ << row.dump() << '\n' << std::flush;
    if (!file_) throw Error(ErrorCode::io, "--log: cannot write " + path_);
  }

 private:
  std::string path_;
  std::ofstream file_;
};

struct Pictures {
  std::string schedule, loss;
};

// The schedule of one causal document as long as the packed sequence, and the loss of this run.
Pictures draw(const TrainOptions& options, const MethodPlanOptions& plan, const Series& losses) {
  if (options.out.empty()) return {};
  const SequenceShape shape = sequence_shape(options.model, {options.tokens}, options.ranks, DType::fp32, true);
  const bool linear = options.model.linear_layer_count() == options.model.num_hidden_layers;  // there is no attention
  Pictures pictures{options.out + "/schedule.svg", options.out + "/loss.svg"};
  write_file(pictures.schedule, draw_svg(layer_schedule(plan, shape, linear)));
  write_file(pictures.loss, draw_chart({.title = "training loss",
                                        .x_label = "step",
                                        .y_label = "loss",
                                        .series = {losses},
                                        .subtitle = plan.method + ", " + std::to_string(options.ranks) + " ranks, " +
                                                    std::to_string(options.tokens) + " tokens a step"}));
  return pictures;
}

std::string summary_text(const TrainOptions& options, const TrainSummary& done, const Pictures& pictures) {
  std::string text = "trained " + format_count(static_cast<double>(done.parameters)) + " weights for steps " +
                     std::to_string(done.first_step) + " to " + std::to_string(done.steps) + " in " +
                     format_duration(done.seconds) + "\nloss      " + format_fixed(done.first_loss, 4) + " -> " +
                     format_fixed(done.last_loss, 4) + "\n";
  if (options.out.empty()) return text;
  return text + "model     " + done.model_folder + "\nschedule  " + pictures.schedule + "\ncurve     " + pictures.loss +
         "\ngo on     weft train --resume " + options.out + " --steps " + std::to_string(2 * done.steps) +
         "\nmeasure   weft eval --model " + done.model_folder + " --text " + options.text + "\n";
}

int run(const TrainArguments& given, Context& context) {
  keep_freed_memory();
  TrainOptions options = train_options(given);
  options.ranks = static_cast<int>(ranks_of(context, given.ranks, options.ranks));
  const bool writes = !context.processes || context.processes->endpoint().rank() == 0;
  const MethodPlanOptions plan = plan_options(given, options);
  StepLog log(writes ? given.log : "");  // before minutes of work
  Series losses{"loss", {}, {}};
  TrainSummary done;
  {
    std::unique_ptr<StepLine> line;
    done = train(
        options, method_plans(plan, context.processes),
        [&](const StepReport& report) {
          if (!line) line = std::make_unique<StepLine>(report.step - 1);
          line->show(report);
          log.write(report);
          losses.x.push_back(static_cast<double>(report.step));
          losses.y.push_back(report.loss);
        },
        context.stop, context.processes);
  }
  if (!writes) return kExitFine;
  const Pictures pictures = draw(options, plan, losses);
  if (given.json) {
    const Json json = {{"first_step", done.first_step},
                       {"steps", done.steps},
                       {"first_loss", done.first_loss},
                       {"last_loss", done.last_loss},
                       {"parameters", done.parameters},
                       {"seconds", done.seconds},
                       {"model", done.model_folder},
                       {"checkpoint", done.last_checkpoint},
                       {"schedule_picture", pictures.schedule},
                       {"loss_picture", pictures.loss}};
    context.out.write(json.dump(2) + "\n");
  } else {
    context.out.write(summary_text(options, done, pictures));
  }
  return kExitFine;
}

}  // namespace

Command train_command() {
  auto options = std::make_shared<TrainArguments>();
  Command command("train", kTrainSummary);
  command.details(
      "Bytes are the tokens; documents are packed without padding. Ranks are threads, or, started by mpirun, one in "
      "each process. With --resume, what is not given stays as it was. "
      "Ctrl-C keeps the last checkpoint.");
  command.example("weft train --text /usr/lib/python3.11 --ranks 2 --tokens 8K --steps 200 --out runs/first");
  command.example("weft train --resume runs/first --ranks 4 --steps 400");
  command.group("Data and results");
  command.text("--text", "DIR", "folder (or file) of text to train on", &options->text);
  command.text("--out", "DIR", "where model/ and checkpoints/ go", &options->out);
  command.text("--resume", "DIR", "go on from the last checkpoint of this --out folder", &options->resume);
  command.text("--init", "DIR", "start from this Hugging Face folder", &options->init);
  command.text("--log", "FILE", "append one JSON object a step", &options->log);
  command.flag("--overwrite", "remove checkpoints that another run left in --out", &options->overwrite);
  command.group("Training");
  add_ranks_option(command, &options->ranks);
  command.count("--tokens", "N", "length of the packed sequence of a step, over all ranks (default: 8K)",
                &options->tokens, kTokenLimits);
  command.count("--sequences", "N", "packed sequences a step, gradients accumulated (default: 1)", &options->sequences,
                {.min = 1});
  command.count("--steps", "N", "steps in all (default: 100)", &options->steps, {.min = 1});
  command.count("--seed", "N", "of weights and data order (default: 0)", &options->seed, {});
  command.choice("--model", "SIZE", "tiny, small, medium or large (default: small)", &options->model,
                 {"tiny", "small", "medium", "large"});
  command.text("--model-config", "FILE", "instead of a size: a config.json, of a Llama or a hybrid with linear layers",
               &options->model_config);
  command.choice("--dtype", "TYPE", "of activations: fp32 or bf16 (default: fp32)", &options->dtype, {"fp32", "bf16"});
  command.number("--lr", "X", "peak learning rate (default: 0.003)", &options->lr);
  command.count("--warmup", "N", "steps of linear warm-up, then cosine (default: 20)", &options->warmup, {});
  command.number("--clip", "X", "largest global norm of the gradient, 0 for none (default: 1)", &options->clip);
  command.count("--checkpoint-every", "N", "steps between checkpoints, 0: only at the end (default: 100)",
                &options->checkpoint_every, {});
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
