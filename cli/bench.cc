// weft bench: how fast a method is on this machine, against one rank with the same kernels.
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/attention_timing.h"
#include "cli/commands.h"
#include "cli/problem_options.h"
#include "cli/schedules.h"
#include "weft/base/progress.h"
#include "weft/base/table.h"

namespace weft::cli {
namespace {

struct Options {
  std::string what;
  std::string method = "zigzag";
  int64_t seconds = 5;
  ProblemOptions problem;
};

int run(const Options& given, Context& context) {
  Options options = given;
  if (options.what != "attention") {
    throw Error(ErrorCode::usage, options.what.empty() ? "bench: say what to time: attention"
                                                       : "bench: unknown thing to time " + in_quotes(options.what) +
                                                             "; known: attention");
  }
  options.problem.check();
  const Schedule schedule = schedule_for(options.method, options.problem, true);
  ProblemOptions single = options.problem;
  single.ranks = 1;
  single.layout = "contiguous";
  single.method_options.clear();
  const Schedule alone = schedule_for("ring", single, true);
  Progress progress("bench");
  const AttentionTiming timing =
      time_attention(schedule, alone, static_cast<double>(options.seconds), context.stop,
                     [&](int pairs) { progress.update(pairs, std::to_string(pairs) + " pairs of runs"); });
  progress.finish();
  if (options.problem.json) {
    nlohmann::ordered_json json = {
        {"method", options.method},
        {"ranks", options.problem.ranks},
        {"tokens", options.problem.tokens},
        {"kernels", options.problem.dtype == DType::fp64 ? "reference" : kernels::cpu_kernels().name()},
        {"forward_seconds", timing.forward_seconds},
        {"backward_seconds", timing.backward_seconds},
        {"efficiency", timing.efficiency},
        {"area", schedule.problem().mask.area()},
        {"flops_per_second", timing.flops_per_second},
        {"peak_bytes", timing.peak_bytes},
        {"idle_share", timing.idle_share},
        {"valid", timing.valid}};
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
  if (!timing.valid) {
    context.out.write("not valid: the machine is busy (a compute loop on all threads reaches " +
                      format_fixed(100 * timing.idle_share, 0) + "% of its speed on one)\n");
  }
  return kExitFine;
}

}  // namespace

Command bench_command() {
  auto options = std::make_shared<Options>();
  Command command("bench", "time a method on this machine");
  command.details(
      "Forward and backward on threads of this process. Efficiency is the time of one rank with the same kernels, "
      "measured in turn "
      "with the method's, over ranks x the method's time.");
  command.example("weft bench attention --method zigzag --ranks 2 --tokens 16K --heads 8 --head-dim 64");
  command.example("weft bench attention --method ring --ranks 2 --tokens 4K --kv-tokens 16K --mask full");
  command.positional("what", "what to time: attention", &options->what);
  command.text("--method", "NAME", "method (default: zigzag)", &options->method);
  command.count("--seconds", "N", "how long to measure, at least three pairs of runs (default: 5)", &options->seconds,
                {.min = 1});
  add_problem_options(command, options->problem);
  command.action([options](Context& context) { return run(*options, context); });
  return command;
}

}  // namespace weft::cli
