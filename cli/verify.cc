// weft verify: proves that a schedule is right, or says where it is wrong.
#include <cctype>
#include <cstdlib>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/problem_options.h"
#include "cli/schedules.h"
#include "weft/base/progress.h"
#include "weft/base/table.h"
#include "weft/files/atomic_file.h"
#include "weft/methods/registry.h"
#include "weft/schedule/json.h"
#include "weft/verify/verify.h"

namespace weft::cli {
namespace {

struct VerifyArguments {
  std::string method;
  std::string file;
  bool large = false;
  int64_t threads = 0;
  ProblemOptions problem;
};

using Json = nlohmann::ordered_json;

Report prove(const Schedule& schedule, const VerifyArguments& options, Context& context) {
  Progress progress("verify " + schedule.method(), 1000);
  return verify(schedule, {.threads = static_cast<int>(options.threads),
                           .stop = &context.stop,
                           .progress = [&](double share) { progress.update(static_cast<int64_t>(1000 * share)); }});
}

Json as_json(Amount amount) { return {{"total", amount.total}, {"busiest", amount.busiest}}; }

Json as_json(const PhaseCost& cost) {
  return {{"steps", cost.steps},
          {"work", as_json(cost.work)},
          {"messages", as_json(cost.messages)},
          {"bytes", as_json(cost.bytes)},
          {"exposed_bytes", as_json(cost.exposed_bytes)}};
}

Json as_json(const Cost& cost) {
  return {{"forward", as_json(cost.forward)},
          {"backward", as_json(cost.backward)},
          {"live_bytes", cost.live_bytes},
          {"saved_bytes", cost.saved_bytes}};
}

// What a schedule's method says without it; a schedule from a file may be of any method and any options.
Formula formula_for(const Schedule& schedule, const VerifyArguments& options) {
  if (!options.file.empty()) return no_formula("the schedule comes from a file");
  const Method& method = find_method(schedule.method());
  const MethodOptions method_options(method.name, method.options, options.problem.method_options);
  return formula_of(method, schedule.problem(), method_options);
}

// `cross`: keys are another sequence than queries.
Json as_json(const Schedule& schedule, const Report& report, const Formula& formula, bool cross) {
  Json json = {{"ok", report.ok()},
               {"method", schedule.method()},
               {"tokens", schedule.problem().query_layout.tokens()},
               {"area", schedule.problem().mask.area()},
               {"instructions", report.instructions},
               {"ranks", Json::array()},
               {"problems", Json::array()}};
  if (cross) json["kv_tokens"] = schedule.problem().key_layout.tokens();
  json["counted"] = as_json(cost_of(report));
  if (formula.known()) {
    json["formula"] = as_json(static_cast<const Cost&>(formula));
    json["formula"]["exact"] = formula.exact;
  } else {
    json["formula"] = nullptr;
    json["formula_reason"] = formula.reason;
  }
  for (size_t rank = 0; rank < report.ranks.size(); ++rank) {
    const RankReport& r = report.ranks[rank];
    json["ranks"].push_back({{"rank", rank},
                             {"work", r.work},
                             {"work_backward", r.work_backward},
                             {"bytes_sent", r.bytes_sent},
                             {"bytes_backward", r.bytes_backward},
                             {"messages", r.messages},
                             {"messages_backward", r.messages_backward},
                             {"exposed_bytes", r.exposed_bytes},
                             {"exposed_backward", r.exposed_backward},
                             {"live_bytes", r.live_bytes},
                             {"saved_bytes", r.saved_bytes}});
  }
  for (const Finding& f : report.problems) {
    json["problems"].push_back({{"rank", f.rank}, {"instruction", f.instruction}, {"kind", f.kind}, {"text", f.text}});
  }
  return json;
}

// How far a closed form is from what was counted: "exact", "within 1.2%", or the number that is not as claimed.
std::string agreement(const Formula& formula, const Report& report) {
  if (!formula.known()) return "none";
  const auto claimed = numbers_of(formula), counted = numbers_of(cost_of(report));
  double worst = 0;
  for (size_t i = 0; i < counted.size(); ++i) {
    const auto [name, real] = counted[i];
    if (claimed[i].second == real) continue;
    if (formula.exact) return std::string(name) + " " + std::to_string(claimed[i].second) + "?";
    const auto apart = static_cast<double>(std::abs(claimed[i].second - real));
    worst = std::max(worst, real == 0 ? 1 : apart / static_cast<double>(real));
  }
  return formula.exact ? "exact" : "within " + format_fixed(100 * worst, 1) + "%";
}

// One line for people: the verdict and the largest numbers of any rank.
std::vector<std::string> as_row(const Schedule& schedule, const Report& report, const Formula& formula) {
  int64_t most_work = 0, work = 0, bytes = 0, messages = 0, live = 0;
  for (const RankReport& r : report.ranks) {
    work += r.work;
    most_work = std::max(most_work, r.work);
    bytes = std::max(bytes, r.bytes_sent);
    messages = std::max(messages, r.messages);
    live = std::max(live, r.live_bytes);
  }
  const double mean = static_cast<double>(work) / static_cast<double>(report.ranks.size());
  return {schedule.method(),
          report.ok() ? "right" : "WRONG",
          format_count(static_cast<double>(report.instructions)),
          work > 0 ? format_fixed(static_cast<double>(most_work) / mean, 3) : "-",
          format_bytes(bytes),
          std::to_string(messages),
          format_bytes(live),
          agreement(formula, report)};
}

Table result_table() {
  return Table({{"method"},
                {"verdict"},
                {"instructions", Align::right},
                {"busiest/mean", Align::right},
                {"bytes sent", Align::right},
                {"messages", Align::right},
                {"live bytes", Align::right},
                {"closed form"}});
}

std::string problems_as_text(const Report& report) {
  std::string text;
  for (const Finding& f : report.problems) {
    text += "rank " + std::to_string(f.rank) + ", instruction " + std::to_string(f.instruction) + ", " + f.kind + ": " +
            f.text + "\n";
  }
  return text;
}

std::string sentence(std::string reason) {
  reason[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(reason[0])));
  return reason + ".\n";
}

int verify_one(const Schedule& schedule, const VerifyArguments& options, bool cross, Context& context) {
  const Report report = prove(schedule, options, context);
  const Formula formula = formula_for(schedule, options);
  if (options.problem.json) {
    context.out.write(as_json(schedule, report, formula, cross).dump(2) + "\n");
  } else {
    Table table = result_table();
    table.add_row(as_row(schedule, report, formula));
    context.out.write(
        table.text() + problems_as_text(report) + (formula.known() ? "" : sentence(formula.reason)) +
        (report.ok() ? "Proved: every allowed pair once, every message matched, no deadlock, no misuse of values.\n"
                     : ""));
  }
  return report.ok() ? kExitFine : kExitWrong;
}

int verify_all(const VerifyArguments& options, Context& context) {
  Json results = Json::array();
  Table table = result_table();
  std::string refusals, problems;
  bool ok = true;
  for (const Method* method : methods_for(options.problem.layer)) {
    const std::string name(method->name);
    try {
      const Schedule schedule = schedule_for(name, options.problem, options.problem.backward);
      const Report report = prove(schedule, options, context);
      const Formula formula = formula_for(schedule, options);
      ok &= report.ok();
      results.push_back(as_json(schedule, report, formula, options.problem.cross()));
      table.add_row(as_row(schedule, report, formula));
      problems += problems_as_text(report);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unsupported) throw;
      results.push_back({{"method", name}, {"refused", error.what()}});
      refusals += name + " refuses: " + error.what() + "\n";
    }
  }
  context.out.write(options.problem.json ? Json{{"ok", ok}, {"results", results}}.dump(2) + "\n"
                                         : table.text() + refusals + problems);
  return ok ? kExitFine : kExitWrong;
}

int run(const VerifyArguments& given, Context& context) {
  VerifyArguments options = given;
  if (!options.file.empty()) {
    if (!options.method.empty()) {
      throw Error(ErrorCode::usage, "a method and --file are both given; the file says which method wrote it");
    }
    const int64_t limit = options.large ? std::numeric_limits<int64_t>::max() : Schedule::kStoreLimit;
    const Schedule schedule = schedule_from_json(read_file(options.file), limit);
    const bool cross = schedule.problem().mask.queries() != schedule.problem().mask.keys();
    return verify_one(schedule, options, cross, context);
  }
  if (options.large) throw Error(ErrorCode::usage, "--large goes with --file; a method is verified at any size");
  require_method(options.method, "verify");
  if (options.method != "all") find_method(options.method);
  options.problem.check();
  if (options.method == "all") {
    if (!options.problem.method_options.empty()) {
      throw Error(ErrorCode::usage, "--option goes with one method, not with all; leave it out");
    }
    return verify_all(options, context);
  }
  return verify_one(schedule_for(options.method, options.problem, options.problem.backward), options,
                    options.problem.cross(), context);
}

}  // namespace

Command verify_command() {
  auto options = std::make_shared<VerifyArguments>();
  Command command("verify", "prove that a schedule is right: coverage, messages, no deadlock, lifetimes");
  command.details(
      "Exit code 0: proved. 1: a problem was found; each is told with rank, instruction and "
      "tokens.");
  command.example("weft verify zigzag --ranks 7 --tokens 5003 --heads 6 --kv-heads 2 --backward");
  command.example("weft verify all --ranks 4 --docs 1,4000,37,900 --mask causal+window:256");
  command.example("weft verify all --ranks 4 --docs 900,37 --kv-docs 20,4000 --mask full");
  command.example("weft verify --file schedule.json --large");
  add_method_name(command, "method to verify, or all; weft methods lists them", &options->method);
  command.text("--file", "FILE", "a schedule written by weft show --json or by hand", &options->file);
  command.flag("--large", "allow a file of more than 2 million instructions", &options->large);
  command.count("--threads", "N",
                "that prove together, for more than 64 ranks (default: one for each processor, at most 16)",
                &options->threads, {.min = 1, .max = VerifyOptions::kThreads});
  add_problem_options(command, options->problem);
  command.action([options](Context& context) { return run(*options, context); });
  return command;
}

}  // namespace weft::cli
