// weft bench: how fast a method is on this machine, against one rank with the same kernels.
#include "cli/bench.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/schedules.h"
#include "weft/base/progress.h"
#include "weft/base/table.h"
#include "weft/methods/registry.h"
#include "weft/verify/verify.h"

namespace weft::cli {
namespace {

void refuse_others(const std::string& what, bool given, const std::string& option, const std::string& instead) {
  if (!given) return;
  throw Error(ErrorCode::usage, "bench " + what + ": " + option + " does not go with it; " + instead);
}

// What canonical results cost: the time of one rank with them over that without, in turn; and the largest memory of a rank.
struct CanonicalCost {
  double time = 0, memory = 0;
};

CanonicalCost canonical_cost(const BenchOptions& options, const Schedule& schedule, const Schedule& alone,
                             const Context& context, const std::function<void(int64_t)>& progress) {
  const Context here{.out = context.out, .stop = context.stop};  // one rank needs no other process
  BenchOptions plain = options;
  plain.problem.canonical = false;
  const Schedule plain_alone = alone_for(plain.problem);
  const AttentionTiming timing =
      time_attention(alone, plain_alone, {.seconds = static_cast<double>(options.seconds)}, here, progress);
  // The same shards, so that only the accumulators differ.
  Problem problem = schedule.problem();
  problem.canonical_tile = 0;
  const auto live = [](const Schedule& of) {
    int64_t most = 0;
    for (const RankReport& rank : verify(of).ranks) most = std::max(most, rank.live_bytes);
    return static_cast<double>(most);
  };
  return {1 / timing.efficiency,
          live(schedule) / live(make_schedule(options.method, problem, options.problem.method_options))};
}

int bench_attention(const BenchOptions& given, Context& context) {
  BenchOptions options = given;
  const bool linear = options.problem.layer != Layer::softmax;
  if (options.method.empty()) options.method = linear ? "all-scan" : "zigzag";
  if (options.seconds == 0) options.seconds = 5;
  options.problem.ranks = ranks_of(context, options.problem.ranks);
  options.problem.check();
  const Schedule schedule = schedule_for(options.method, options.problem, true);
  const Schedule alone = alone_for(options.problem);
  Progress progress("bench");
  const auto count = [&](int64_t pairs) { progress.update(pairs, std::to_string(pairs) + " pairs of runs"); };
  const AttentionTiming timing =
      time_attention(schedule, alone, {.seconds = static_cast<double>(options.seconds)}, context, count);
  CanonicalCost cost;
  const bool first = !context.processes || context.processes->endpoint().rank() == 0;
  if (options.problem.canonical && first) cost = canonical_cost(options, schedule, alone, context, count);
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
                                   {"tokens_per_second", timing.tokens_per_second},
                                   {"peak_bytes", timing.peak_bytes},
                                   {"idle_share", timing.idle_share},
                                   {"valid", timing.not_valid.empty()}};
    if (linear) json.erase("area"), json.erase("flops_per_second"), json["layer"] = name_of(options.problem.layer);
    if (options.problem.cross()) json["kv_tokens"] = options.problem.kv_tokens;
    if (options.problem.canonical) json["canonical_cost"] = {{"time", cost.time}, {"memory", cost.memory}};
    context.out.write(json.dump(2) + "\n");
    return kExitFine;
  }
  Table table({{"method"},
               {"ranks", Align::right},
               {"forward", Align::right},
               {"backward", Align::right},
               {"efficiency", Align::right},
               {linear ? "tokens/s" : "FLOP/s", Align::right},
               {"peak memory of a rank", Align::right}});
  table.add_row({options.method, std::to_string(options.problem.ranks), format_duration(timing.forward_seconds),
                 format_duration(timing.backward_seconds), format_fixed(timing.efficiency, 3),
                 format_count(linear ? timing.tokens_per_second : timing.flops_per_second),
                 format_bytes(timing.peak_bytes)});
  context.out.write(table.text());
  if (options.problem.canonical) {
    context.out.write("--canonical takes " + format_fixed(cost.time, 2) +
                      " times the time of one rank without it, and " + format_fixed(cost.memory, 2) +
                      " times the memory of the fullest rank\n");
  }
  if (!timing.not_valid.empty()) context.out.write("not valid: " + timing.not_valid + "\n");
  return kExitFine;
}

int run(const BenchOptions& options, Context& context) {
  const ProblemOptions& problem = options.problem;
  const bool linear = problem.layer != Layer::softmax;
  refuse_others(options.what, !linear && problem.key_dim + problem.value_dim > 0, "--key-dim or --value-dim",
                "give one --head-dim");
  refuse_others(options.what, problem.initial_states || problem.final_states || !problem.state_positions.empty(),
                "--initial-states, --final-states or --state-positions", "documents begin with zero");
  refuse_others(options.what, linear && options.what == "methods", "--layer", "time one method with bench attention");
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
  return schedule_for(options.layer == Layer::softmax ? "ring" : "chain", options, true);
}

Command bench_command() {
  auto options = std::make_shared<BenchOptions>();
  Command command("bench", "time methods on this machine");
  command.details(
      "Forward and backward on threads of this process, or, started by mpirun, on a rank in each process. Efficiency "
      "is the time of one rank with the same kernels, "
      "measured in turn with the method's, over ranks x the method's time. With --canonical, what that costs is timed "
      "too.\n\n"
      "attention times one method, with --layer of a linear layer. methods times all but references (rsa), or those of "
      "--methods: on one sequence and "
      "on packed documents "
      "whose lengths have a long tail, by default on 2 ranks with 16K tokens each. Each is proved right first. Sent is "
      "what all ranks send; waiting the share of the time in which ranks wait for a message with nothing else to do, "
      "idle that in which they have nothing left to do (means of the ranks).");
  command.example("weft bench attention --method zigzag --ranks 2 --tokens 16K --heads 8 --head-dim 64");
  command.example("weft bench attention --method ring --ranks 2 --tokens 4K --kv-tokens 16K --mask full");
  command.example("weft bench attention --method zigzag --ranks 2 --tokens 8K --canonical");
  command.example("weft bench attention --layer gla --method chain --ranks 2 --tokens 32K --heads 4 --key-dim 64");
  command.example("weft bench methods --ranks 2 --tokens 16K --methods ring,zigzag,ulysses --repeat 5");
  command.positional("what", "what to time: attention or methods", &options->what);
  command.text("--method", "NAME", "attention: method (default: zigzag; of a linear layer all-scan)", &options->method);
  command.count("--seconds", "N", "attention: how long to measure, at least three pairs of runs (default: 5)",
                &options->seconds, {.min = 1});
  command.text("--methods", "LIST", "methods: names, as ring,zigzag (default: all but rsa)", &options->methods);
  command.count("--repeat", "N", "methods: pairs of runs for each (default: 3)", &options->repeat, {.min = 1});
  add_problem_options(command, options->problem);
  command.on_processes();
  command.action([options](Context& context) { return run(*options, context); });
  return command;
}

}  // namespace weft::cli
