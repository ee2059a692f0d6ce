#include "weft/verify/verify.h"

#include <algorithm>
#include <thread>

#include "weft/verify/scheduler.h"

namespace weft {
namespace {

using verify_internal::Order;
using verify_internal::Scheduler;
using verify_internal::Trace;

// Where the first missing contribution went, in words.
std::string story_of(const Trace& trace) {
  if (trace.events.empty()) return "it is computed nowhere";
  std::string text;
  const size_t shown = std::min<size_t>(trace.events.size(), 6);
  for (size_t i = 0; i < shown; ++i) {
    const Trace::Event& event = trace.events[i];
    text += (i ? ", then " : "") + event.text + " on rank " + std::to_string(event.rank) + " at instruction " +
            std::to_string(event.instruction);
  }
  return text + (shown < trace.events.size() ? ", ..." : "");
}

int threads_of(const VerifyOptions& options) {
  if (options.threads > 0) return options.threads;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, VerifyOptions::kThreads);
}

}  // namespace

Cost cost_of(const Report& report) {
  Cost cost;
  cost.forward.steps = report.steps;
  cost.backward.steps = report.steps_backward;
  const auto add = [](Amount& amount, int64_t mine) {
    amount.total += mine;
    amount.busiest = std::max(amount.busiest, mine);
  };
  for (const RankReport& rank : report.ranks) {
    add(cost.forward.work, rank.work);
    add(cost.backward.work, rank.work_backward);
    add(cost.forward.messages, rank.messages - rank.messages_backward);
    add(cost.backward.messages, rank.messages_backward);
    add(cost.forward.bytes, rank.bytes_sent - rank.bytes_backward);
    add(cost.backward.bytes, rank.bytes_backward);
    add(cost.forward.exposed_bytes, rank.exposed_bytes - rank.exposed_backward);
    add(cost.backward.exposed_bytes, rank.exposed_backward);
    cost.live_bytes = std::max(cost.live_bytes, rank.live_bytes);
    cost.saved_bytes = std::max(cost.saved_bytes, rank.saved_bytes);
  }
  return cost;
}

Report verify(const Schedule& schedule, const VerifyOptions& options) {
  Report quick;
  if (schedule.ranks() > options.few_ranks) {  // the state of a few fits into the cache anyway
    const int threads = std::min(threads_of(options), schedule.ranks());
    quick = Scheduler(schedule, options, {.order = Order::by_band, .threads = threads, .max_problems = 1}).run();
    if (quick.ok()) return quick;
  }
  // In the order that explains best what is wrong, if something is.
  const auto in_turn = [&](Trace* trace) {
    return Scheduler(schedule, options, {.max_problems = options.max_problems, .trace = trace}).run();
  };
  Report report = in_turn(nullptr);
  if (report.ok() && !quick.ok()) return quick;  // the orders disagree: nothing is proved
  const auto lacking = std::find_if(report.problems.begin(), report.problems.end(), [](const Finding& finding) {
    return finding.kind == "coverage" && finding.text.find(" lacks ") != std::string::npos;
  });
  if (lacking == report.problems.end() || !options.explain) return report;
  // Once to learn which contribution is missing first, once to follow it. Both only happen for wrong schedules.
  Trace trace;
  in_turn(&trace);
  if (trace.fields.empty()) return report;
  trace.events.clear();
  in_turn(&trace);
  lacking->text += "; the first of them: " + story_of(trace);
  return report;
}

Report verify_or_throw(const Schedule& schedule) {
  Report report = verify(schedule);
  if (report.ok()) return report;
  throw Error(ErrorCode::wrong,
              "the schedule of method " + schedule.method() + " is wrong: " + report.problems[0].text);
}

}  // namespace weft
