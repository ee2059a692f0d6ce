// For tests that execute methods: one case as plain data, and the schedule it stands for.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "weft/execute/check.h"
#include "weft/methods/registry.h"

namespace weft {

using Options = std::map<std::string, std::string>;

struct ExecuteCase {
  std::string method = "ring";
  Options options = {};
  std::vector<int64_t> lengths = {37};
  std::string mask = "causal";
  int ranks = 2;
  int64_t heads = 2, kv_heads = 2;
  int64_t dim = 3, dim_v = 3;
  std::string layout = "";  // empty: the method's own
  DType element = DType::fp64;
  DType wire = DType::fp64;
  bool return_lse = true;

  std::string describe() const {
    std::string text = method;
    for (const auto& [key, value] : options) text += " " + key + "=" + value;
    text += " ranks=" + std::to_string(ranks) + " docs=";
    for (int64_t length : lengths) text += std::to_string(length) + ",";
    return text + " mask=" + mask + " heads=" + std::to_string(heads) + "/" + std::to_string(kv_heads) +
           " dim=" + std::to_string(dim) + "/" + std::to_string(dim_v) + " layout=" + layout + " " +
           std::string(name_of(element)) + "/" + std::string(name_of(wire));
  }
  Problem problem() const {
    const MaskRule rule = parse_mask_rule(mask);
    const Layout at = choose_layout(layout, method, Documents(lengths, rule), ranks, options);
    Problem made = self_attention(Mask::documents(lengths, rule), at, heads, kv_heads, dim);
    made.dim_v = dim_v;
    made.backward = true;
    made.return_lse = return_lse;
    made.element = element;
    made.wire = wire;
    return made;
  }
  Schedule schedule() const { return make_schedule(method, problem(), options); }
};

// Every method of the registry as it comes, and with the options that make another schedule of it.
inline const std::vector<std::pair<std::string, Options>>& methods_to_execute() {
  static const auto methods = [] {
    std::vector<std::pair<std::string, Options>> list;
    for (const Method* method : all_methods()) list.push_back({std::string(method->name), {}});
    const std::vector<std::pair<std::string, Options>> more = {
        {"ring", {{"direction", "reverse"}}},
        {"zigzag", {{"direction", "forward"}}},
        {"striped", {{"block", "3"}}},
        {"all-gather", {{"chunks", "3"}}},
        {"llama3", {{"stride", "2"}}},
        {"ulysses", {{"kv", "whole"}, {"exchange", "each"}}},
        {"usp", {{"placement", "outer"}}},
        {"usp", {{"order", "striped"}, {"kv", "whole"}}},
        {"double-ring", {{"ulysses", "1"}}},
        {"double-ring", {{"placement", "context-first"}, {"exchange", "each"}}},
        {"double-ring", {{"direction", "forward"}}},
        {"group-cast", {{"stages", "1"}, {"chunk", "5"}}},
        {"group-cast", {{"stages", "3"}}},
        {"mesh", {{"width", "1"}}},
        {"burst", {{"backward", "keys"}}},
        {"burst", {{"backward", "queries"}}},
        {"tree", {{"fan-in", "3"}}},
        {"mercury-team", {{"placement", "outer"}}},
    };
    list.insert(list.end(), more.begin(), more.end());
    return list;
  }();
  return methods;
}

// The names of the results that differ in at least one bit; "" when none does.
inline std::string different(const CheckTensors& a, const CheckTensors& b) {
  std::string names;
  const auto compare = [&](const char* name, const HostTensor& x, const HostTensor& y) {
    if (x.bytes != y.bytes) names += std::string(names.empty() ? "" : ", ") + name;
  };
  compare("out", a.out, b.out);
  compare("lse", a.lse, b.lse);
  compare("dq", a.dq, b.dq);
  compare("dk", a.dk, b.dk);
  compare("dv", a.dv, b.dv);
  return names;
}

}  // namespace weft
