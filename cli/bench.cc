// weft bench: how fast a method is on this machine, against one rank with the same kernels.
#include "cli/bench.h"

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/schedules.h"
#include "weft/base/progress.h"
#include "weft/base/table.h"

namespace weft::cli {
namespace {

void refuse_others(const std::string& what, bool given, const std::string& option, const std::string& instead) {
  if (!given) return;
  throw Error(ErrorCode::usage, "bench " + what + ": " + option + " does not go with it; " + instead);
}

int bench_attention(const BenchOptions& given, Context& context) {
  BenchOptions options = given;
  if (options.method.empty()) options.method = "zigzag";
  if (options.seconds == 0) options.seconds = 5;
  options.problem.check();
  const Schedule schedule = schedule_for(options.method, options.problem, true);
  const Schedule alone = alone_for(options.problem);
  Progress progress("bench");
  const AttentionTiming timing =
      time_attention(schedule, alone, {.seconds = static_cast<double>(options.seconds)}, context.stop,
                     [&](int64_t pairs) { progress.update(pairs, std::to_string(pairs) + " pairs of runs"); });
  progress.finish();
  if (options.problem.json) {
    nlohmann::ordered_json json = {{"method", options.method},
                                   {"ranks", options.problem.ranks},
                                   {"tokens", options.problem.tokens},
                                   {"kernels", timed_kernels(options.problem.dtype).name()},
                                   {"forward_seconds", timing.forward_seconds},
                                   {"backward_seconds", timing.backward_seconds},
                                   {"efficiency", timing.efficiency},
                                   {"area", schedule.problem().mask.area()},
                                   {"flops_per_second", timing.flops_per_second},
                                   {"peak_bytes", timing.peak_bytes},
                                   {"idle_share", timing.idle_share},
                                   {"valid", timing.not_valid.empty()}};
    if (options.problem.cross()) json["kv_tokens"] = options.problem.kv_tokens;
    context.out.write(json.dump(2) + "\n");
    return kExitFine;
  }
  Table table({{"method"},
               {"ranks", Align::right},
               {"forward", Align::right},
               {"backward", Align::right},
               {"efficiency", Align::right},
               {"FLOP/s", Align::right},
               {"peak memory of a rank", Align::right}});
  table.add_row({options.method, std::to_string(options.problem.ranks), format_duration(timing.forward_seconds),
                 format_duration(timing.backward_seconds), format_fixed(timing.efficiency, 3),
                 format_count(timing.flops_per_second), format_bytes(timing.peak_bytes)});
  context.out.write(table.text());
  if (!timing.not_valid.empty()) context.out.write("not valid: " + timing.not_valid + "\n");
  return kExitFine;
}

int run(const BenchOptions& options, Context& context) {
  if (options.what == "attention") {
    refuse_others(options.what, !options.methods.empty(), "--methods", "name one with --method");
    refuse_others(options.what, options.repeat > 0, "--repeat", "say how long with --seconds");
    return bench_attention(options, context);
  }
  if (options.what == "methods") {
    refuse_others(options.what, !options.method.empty(), "--method", "name them with --methods");
    refuse_others(options.what, options.seconds > 0, "--seconds", "say how often with --repeat");
    refuse_others(options.what, !options.problem.method_options.empty(), "--option", "methods have different ones");
    return bench_methods(options, context);
  }
  if (options.what.empty()) throw Error(ErrorCode::usage, "bench: say what to time: attention or methods");
  throw unknown_name_error("thing to time", options.what, {"attention", "methods"});
}

}  // namespace

Schedule alone_for(ProblemOptions options) {
  options.ranks = 1;
  options.layout = "contiguous";
  options.method_options.clear();
  return schedule_for("ring", options, true);
}

Command bench_command() {
  auto options = std::make_shared<BenchOptions>();
  Command command("bench", "time methods on this machine");
  command.details(
      "Forward and backward on threads of this process. Efficiency is the time of one rank with the same kernels, "
      "measured in turn with the method's, over ranks x the method's time.\n\n"
      "attention times one method. methods times all but references (rsa), or those of --methods: on one sequence and "
      "on packed documents "
      "whose lengths have a long tail, by default on 2 ranks with 16K tokens each. Each is proved right first. Sent is "
      "what all ranks send; waiting the share of the time in which ranks wait for a message with nothing else to do, "
      "idle that in which they have nothing left to do (means of the ranks).");
  command.example("weft bench attention --method zigzag --ranks 2 --tokens 16K --heads 8 --head-dim 64");
  command.example("weft bench attention --method ring --ranks 2 --tokens 4K --kv-tokens 16K --mask full");
  command.example("weft bench methods --ranks 2 --tokens 16K --methods ring,zigzag,ulysses --repeat 5");
  command.positional("what", "what to time: attention or methods", &options->what);
  command.text("--method", "NAME", "attention: method (default: zigzag)", &options->method);
  command.count("--seconds", "N", "attention: how long to measure, at least three pairs of runs (default: 5)",
                &options->seconds, {.min = 1});
  command.text("--methods", "LIST", "methods: names, as ring,zigzag (default: all but rsa)", &options->methods);
  command.count("--repeat", "N", "methods: pairs of runs for each (default: 3)", &options->repeat, {.min = 1});
  add_problem_options(command, options->problem);
  command.action([options](Context& context) { return run(*options, context); });
  return command;
}

}  // namespace weft::cli
