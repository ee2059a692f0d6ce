// weft check: runs a method on random data and compares it with dense attention.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/problem_options.h"
#include "cli/schedules.h"
#include "weft/base/digest.h"
#include "weft/base/table.h"
#include "weft/execute/check.h"
#include "weft/files/atomic_file.h"
#include "weft/files/safetensors.h"

namespace weft::cli {
namespace {

struct CheckArguments {
  std::string method;
  std::string save;
  ProblemOptions problem;
};

using Json = nlohmann::ordered_json;

Json mask_as_json(const Mask& mask) {
  Json rectangles = Json::array();
  for (const BandRectangle& band : mask.bands()) {
    const auto diagonal = [](int64_t d, int64_t unbounded) { return d == unbounded ? Json() : Json(d); };
    rectangles.push_back({{"q", {band.q.begin, band.q.end}},
                          {"k", {band.k.begin, band.k.end}},
                          {"lo", diagonal(band.lo, kUnboundedBelow)},
                          {"hi", diagonal(band.hi, kUnboundedAbove)}});
  }
  return {{"tokens", mask.queries()}, {"kv_tokens", mask.keys()}, {"rectangles", rectangles}};
}

void save(const std::string& folder, const Problem& problem, const CheckTensors& tensors) {
  make_folder(folder);
  const auto entry = [&](Field field, const HostTensor& tensor) {
    std::vector<int64_t> shape = {tensor.rows, tensor.heads};
    if (field == Field::u || field == Field::du) {
      shape = {tensor.heads, tensor.columns};
    } else if (kDocumentFields.has(field)) {
      shape.insert(shape.end(), {problem.dim, problem.dim_v});
    } else if (field != Field::lse) {
      shape.push_back(tensor.columns);
    }
    return TensorToWrite{name_of(field), stored_type_of(tensor.type), shape, tensor.data()};
  };
  std::vector<TensorToWrite> inputs, outputs;
  const auto add = [&](std::vector<TensorToWrite>& to, Fields fields) {
    fields.for_each([&](Field field) { to.push_back(entry(field, tensors.of(field))); });
  };
  constexpr Fields kResults = Field::out | Field::lse;  // that backward takes again
  add(inputs, Fields::from_bits(problem.inputs_of(true).bits() & ~kResults.bits()));
  if (traits_of(problem.layer).bonus) add(inputs, Field::u), add(outputs, Field::du);
  const Fields results = problem.results_of(false);
  add(outputs, problem.return_lse ? results : Fields::from_bits(results.bits() & ~Fields(Field::lse).bits()));
  add(outputs, problem.results_of(true));
  write_safetensors(folder + "/inputs.safetensors", inputs);
  write_safetensors(folder + "/outputs.safetensors", outputs);
  write_file(folder + "/mask.json", mask_as_json(problem.mask).dump() + "\n");
}

std::string short_number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2e", x);
  return text;
}

// Of every bit of the results, in the order of the sequence: equal digests mean equal results.
std::string digest_of(const CheckTensors& tensors) {
  Digest digest;
  for (const Field field : {Field::out, Field::lse, Field::dq, Field::dk, Field::dv, Field::dg, Field::dbeta, Field::da,
                            Field::db, Field::final_state, Field::dinitial_state, Field::du}) {
    const HostTensor& tensor = tensors.of(field);
    digest.add(std::string_view(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()));
  }
  return digest.hex();
}

int run(const CheckArguments& given, Context& context) {
  CheckArguments options = given;
  require_method(options.method, "check");
  options.problem.check();
  const Schedule schedule = schedule_for(options.method, options.problem, true, true);
  const CheckReport report =
      check_schedule(schedule, {.seed = static_cast<uint64_t>(options.problem.seed), .stop = &context.stop});
  if (!options.save.empty()) save(options.save, schedule.problem(), report.tensors);
  if (options.problem.json) {
    Json json = {{"ok", report.ok},
                 {"method", options.method},
                 {"digest", digest_of(report.tensors)},
                 {"errors", Json::object()}};
    for (const TensorError& e : report.errors)
      json["errors"][e.name] = {{"max_abs", e.max_abs}, {"max_rel", e.max_rel}, {"bound", e.bound}};
    context.out.write(json.dump(2) + "\n");
  } else {
    Table table({{"tensor"},
                 {"largest error", Align::right},
                 {"relative", Align::right},
                 {"allowed", Align::right},
                 {"verdict"}});
    for (const TensorError& e : report.errors) {
      table.add_row(
          {e.name, short_number(e.max_abs), short_number(e.max_rel), short_number(e.bound), e.ok() ? "fine" : "WRONG"});
    }
    context.out.write(table.text() + "digest of the results: " + digest_of(report.tensors) + "\n");
  }
  return report.ok ? kExitFine : kExitWrong;
}

}  // namespace

Command check_command() {
  auto options = std::make_shared<CheckArguments>();
  Command command(
      "check",
      "run a method, forward and backward, and compare it with dense attention, or a linear layer with its recurrence");
  command.details(
      "Exit code 0: within the error bounds. 1: not. Equal digests mean equal bits: with --canonical, of every method, "
      "layout and number of ranks.");
  command.example("weft check ulysses --ranks 4 --tokens 1000 --mask full --heads 5 --kv-heads 1 --dtype bf16");
  command.example("weft check ring --ranks 4 --tokens 1000 --wire-dtype bf16");
  command.example("weft check ring --ranks 4 --tokens 1000 --canonical");
  command.example("weft check chain --layer gla --ranks 4 --tokens 1000 --key-dim 16 --value-dim 32");
  command.example("weft check usp --ranks 4 --tokens 1000 --kv-tokens 300 --mask full");
  add_method_name(command, "method to check; weft methods lists them", &options->method);
  command.text("--save", "DIR", "write inputs, outputs and mask into this folder", &options->save);
  add_problem_options(command, options->problem);
  command.action([options](Context& context) { return run(*options, context); });
  return command;
}

}  // namespace weft::cli
