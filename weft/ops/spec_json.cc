#include "weft/ops/spec_json.h"

#include <nlohmann/json.hpp>

#include "weft/base/error.h"

namespace weft {

using Json = nlohmann::ordered_json;

PlanSpec plan_spec_from_json(const std::string& text) {
  try {
    const Json json = Json::parse(text);
    PlanSpec spec;
    spec.group = json.at("group");
    spec.method = json.at("method");
    spec.layout = json.at("layout");
    if (json.contains("runs")) {
      spec.runs.emplace();
      for (const Json& rank : json.at("runs")) {
        std::vector<Run>& runs = spec.runs->emplace_back();
        for (const Json& run : rank) runs.push_back({run.at(0), run.at(1), run.at(2)});
      }
    }
    spec.options = json.at("options").get<std::map<std::string, std::string>>();
    spec.documents = Documents(json.at("documents").get<std::vector<int64_t>>(),
                               {.causal = json.at("causal").get<bool>(), .window = json.at("window").get<int64_t>()});
    spec.layer = layer_of(json.at("layer").get<std::string>());
    spec.log_decay = json.at("log_decay").get<std::vector<double>>();
    spec.key_heads = json.at("key_heads");
    spec.householders = json.at("householders");
    spec.canonical = json.at("canonical");
    spec.heads = json.at("heads"), spec.kv_heads = json.at("kv_heads");
    spec.dim = json.at("dim"), spec.dim_v = json.at("dim_v");
    spec.timeout = json.at("timeout");
    return spec;
  } catch (const Json::exception& error) {
    throw Error(ErrorCode::usage,
                std::string("a plan's specification is not as the Python package writes it: ") + error.what());
  }
}

std::string describe_plan(const AttentionPlan& plan) {
  const Schedule schedule = plan.schedule({.element = DType::bf16, .backward = true});
  const Report report = verify(schedule);
  Json json = {
      {"method", plan.method()},          {"why", plan.why()},     {"mask_pairs", schedule.problem().mask.area()},
      {"tokens", plan.layout().tokens()}, {"proved", report.ok()}, {"ranks", Json::array()}};
  for (size_t rank = 0; rank < report.ranks.size(); ++rank) {
    const RankReport& r = report.ranks[rank];
    json["ranks"].push_back({{"tokens", plan.layout().tokens_of(static_cast<int>(rank))},
                             {"work", r.work + r.work_backward},
                             {"bytes_sent", r.bytes_sent},
                             {"messages", r.messages},
                             {"live_bytes", r.live_bytes},
                             {"saved_bytes", r.saved_bytes}});
  }
  return json.dump();
}

}  // namespace weft
