// weft bench methods: every method on the same problems, in one table.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/bench.h"
#include "cli/schedules.h"
#include "weft/base/progress.h"
#include "weft/base/random.h"
#include "weft/base/table.h"
#include "weft/methods/registry.h"
#include "weft/verify/verify.h"

namespace weft::cli {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::string> methods_named(const std::string& list) {
  std::vector<std::string> names;
  if (list.empty() || list == "all") {
    for (const Method* method : all_methods()) {
      if (!method->reference) names.emplace_back(method->name);
    }
    return names;
  }
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    const std::string name = list.substr(begin, end - begin);
    find_method(name);
    if (std::find(names.begin(), names.end(), name) != names.end()) {
      throw Error(ErrorCode::usage, "--methods: " + in_quotes(name) + " is named twice; name it once");
    }
    names.push_back(name);
    begin = end + 1;
  }
  return names;
}

// A problem that all methods are timed on.
struct Batch {
  std::string name;
  ProblemOptions problem;  // checked
};

// What the options describe; where they name no documents, also a packed batch of as many tokens.
std::vector<Batch> batches_of(const ProblemOptions& options, const Context& context) {
  ProblemOptions problem = options;
  problem.ranks = ranks_of(context, problem.ranks, 2);
  if (problem.tokens == 0 && problem.docs.empty()) problem.tokens = 16 * 1024;
  problem.check();
  std::vector<Batch> batches = {{problem.docs.empty() ? "sequence" : "packed", problem}};
  if (problem.docs.empty() && !problem.cross()) {
    problem.docs = long_tail_lengths(problem.tokens, problem.seed);
    batches.push_back({"packed", problem});
  }
  return batches;
}

// One row of the table.
struct Row {
  const Batch* batch;
  std::string method;
  std::string refused;  // why the method cannot do it; then nothing below
  AttentionTiming timing;
  int64_t bytes_sent = 0, messages = 0;  // of all ranks, by the proof
};

class Bench {
 public:
  Bench(Context& context, int64_t repeat, size_t rows)
      : context_(context), repeat_(repeat), progress_("bench", repeat * static_cast<int64_t>(rows)) {}

  Row measure(const Batch& batch, const std::string& method) {
    Row row{&batch, method, "", {}};
    const int64_t before = done_;
    done_ += repeat_;
    try {
      const Schedule schedule = schedule_for(method, batch.problem, true);
      prove(schedule, row);
      row.timing = time_attention(schedule, alone_for(batch.problem), {.pairs = repeat_}, context_,
                                  [&](int64_t pairs) { progress_.update(before + pairs, batch.name + ", " + method); });
    } catch (const Error& error) {
      if (error.code() == ErrorCode::stopped || error.code() == ErrorCode::usage) throw;
      if (error.code() != ErrorCode::unsupported) throw Error(error.code(), method + ": " + error.what());
      row.refused = error.what();
    }
    return row;
  }
  void finish() { progress_.finish(); }

 private:
  void prove(const Schedule& schedule, Row& row) {
    const Report report = verify(schedule, {.stop = &context_.stop});
    if (!report.ok()) throw Error(ErrorCode::wrong, "the schedule is wrong: " + report.problems[0].text);
    for (const RankReport& rank : report.ranks) {
      row.bytes_sent += rank.bytes_sent;
      row.messages += rank.messages;
    }
  }

  Context& context_;
  int64_t repeat_;
  int64_t done_ = 0;  // pairs
  Progress progress_;
};

double total_seconds(const AttentionTiming& timing) { return timing.forward_seconds + timing.backward_seconds; }

Json as_json(const Row& row) {
  if (!row.refused.empty()) return {{"method", row.method}, {"refused", row.refused}};
  const AttentionTiming& t = row.timing;
  return {{"method", row.method},
          {"forward_seconds", t.forward_seconds},
          {"backward_seconds", t.backward_seconds},
          {"efficiency", t.efficiency},
          {"flops_per_second", t.flops_per_second},
          {"bytes_sent", row.bytes_sent},
          {"messages", row.messages},
          {"waiting_seconds", t.waiting_seconds},
          {"idle_seconds", t.idle_seconds},
          {"peak_bytes", t.peak_bytes},
          {"idle_share", t.idle_share},
          {"valid", t.not_valid.empty()}};
}

Json as_json(const Batch& batch, const std::vector<Row>& rows) {
  const ProblemOptions& p = batch.problem;
  Json json = {{"batch", batch.name},
               {"documents", p.lengths()},
               {"mask", to_string(p.rule)},
               {"area", p.mask().area()},
               {"methods", Json::array()}};
  if (p.cross()) json["kv_documents"] = p.kv_lengths();
  for (const Row& row : rows) {
    if (row.batch == &batch) json["methods"].push_back(as_json(row));
  }
  return json;
}

Json as_json(const std::vector<Batch>& batches, const std::vector<Row>& rows, int64_t repeat) {
  const ProblemOptions& p = batches[0].problem;
  Json json = {{"ranks", p.ranks},
               {"tokens", p.tokens},
               {"heads", p.heads},
               {"kv_heads", p.kv_heads},
               {"head_dim", p.head_dim},
               {"dtype", name_of(p.dtype)},
               {"kernels", timed_kernels(p.dtype).name()},
               {"repeat", repeat},
               {"batches", Json::array()}};
  for (const Batch& batch : batches) json["batches"].push_back(as_json(batch, rows));
  return json;
}

std::string describe(const Batch& batch) {
  const ProblemOptions& p = batch.problem;
  const std::vector<int64_t> lengths = p.lengths();
  std::string text = batch.name + ": " + std::to_string(p.tokens) + " tokens";
  if (p.cross()) text += ", " + std::to_string(p.kv_tokens) + " of keys";
  if (lengths.size() > 1) {
    const auto [shortest, longest] = std::minmax_element(lengths.begin(), lengths.end());
    text += " in " + std::to_string(lengths.size()) + " documents of " + std::to_string(*shortest) + " to " +
            std::to_string(*longest);
  }
  return text + ", " + to_string(p.rule) + "\n";
}

std::string percent(double part, double whole) { return format_fixed(100 * part / whole, 1) + "%"; }

std::string as_text(const std::vector<Batch>& batches, const std::vector<Row>& rows) {
  const ProblemOptions& p = batches[0].problem;
  std::string text = std::to_string(p.ranks) + " ranks, " + std::string(name_of(p.dtype)) + ", " +
                     std::to_string(p.heads) + " heads (" + std::to_string(p.kv_heads) + " of keys) of " +
                     std::to_string(p.head_dim) + ", kernels " + std::string(timed_kernels(p.dtype).name()) + "\n";
  for (const Batch& batch : batches) text += describe(batch);
  Table table({{"batch"},
               {"method"},
               {"forward", Align::right},
               {"backward", Align::right},
               {"efficiency", Align::right},
               {"sent", Align::right},
               {"waiting", Align::right},
               {"idle", Align::right},
               {"peak memory of a rank", Align::right}});
  std::string refusals, doubt;
  for (const Row& row : rows) {
    if (!row.refused.empty()) {
      refusals += row.method + " refuses " + row.batch->name + ": " + row.refused + "\n";
      continue;
    }
    const AttentionTiming& t = row.timing;
    table.add_row({row.batch->name, row.method, format_duration(t.forward_seconds), format_duration(t.backward_seconds),
                   format_fixed(t.efficiency, 3), format_bytes(row.bytes_sent),
                   percent(t.waiting_seconds, total_seconds(t)), percent(t.idle_seconds, total_seconds(t)),
                   format_bytes(t.peak_bytes)});
    if (!t.not_valid.empty() && doubt.empty()) doubt = "not valid, first at " + row.method + ": " + t.not_valid + "\n";
  }
  return text + table.text() + refusals + doubt;
}

}  // namespace

std::vector<int64_t> long_tail_lengths(int64_t tokens, int64_t seed) {
  constexpr int64_t kShortest = 32;
  Random random(static_cast<uint64_t>(seed), 7);
  std::vector<int64_t> lengths;
  for (int64_t left = tokens; left > 0; left -= lengths.back()) {
    int64_t length = kShortest;  // doubled as often as a coin says so
    while (length < tokens && random.uniform(2) == 1) length *= 2;
    lengths.push_back(std::min(left, length + random.uniform(length)));
  }
  return lengths;
}

int bench_methods(const BenchOptions& options, Context& context) {
  const std::vector<std::string> methods = methods_named(options.methods);
  const std::vector<Batch> batches = batches_of(options.problem, context);
  const int64_t repeat = options.repeat > 0 ? options.repeat : 3;
  Bench bench(context, repeat, batches.size() * methods.size());
  std::vector<Row> rows;
  for (const Batch& batch : batches) {
    for (const std::string& method : methods) rows.push_back(bench.measure(batch, method));
  }
  bench.finish();
  context.out.write(options.problem.json ? as_json(batches, rows, repeat).dump(2) + "\n" : as_text(batches, rows));
  return kExitFine;
}

}  // namespace weft::cli
