// For tests of linear layers: one case as plain data, and the schedule that it stands for.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "weft/base/random.h"
#include "weft/methods/registry.h"

namespace weft {

struct LinearCase {
  std::string method = "chain";
  Layer layer = Layer::gla;
  std::vector<int64_t> lengths = {37};
  int ranks = 3;
  int64_t heads = 2, dim = 3, dim_v = 4;
  std::string layout = "";  // empty: the method's own
  std::map<std::string, std::string> options = {};
  DType element = DType::fp64;
  std::vector<int64_t> shards = {};  // tokens of each rank in order, some perhaps 0; overrides the layout
  bool initial_states = false, final_states = false;
  std::vector<int64_t> state_positions = {};
  int64_t householders = 1;
  bool both_ways = false;  // mask full
  int64_t key_heads = 0;   // 0: as many as heads
  std::optional<DType> wire = {};

  std::string describe() const {
    std::string text = method + " " + name_of(layer) + ", " + std::to_string(ranks) + " ranks, documents";
    for (int64_t length : lengths) text += " " + std::to_string(length);
    text += ", heads " + std::to_string(heads) + ", dims " + std::to_string(dim) + "/" + std::to_string(dim_v) +
            ", layout '" + layout + "', " + std::string(name_of(element));
    for (int64_t tokens : shards) text += ", shard " + std::to_string(tokens);
    if (both_ways) text += ", mask full";
    if (key_heads > 0) text += ", key heads " + std::to_string(key_heads);
    if (householders > 1) text += ", householders " + std::to_string(householders);
    if (initial_states) text += ", initial states";
    if (final_states) text += ", final states";
    for (int64_t position : state_positions) text += ", state after " + std::to_string(position);
    for (const auto& [key, value] : options) text += ", " + key + "=" + value;
    return text;
  }
  Layout placement() const {
    if (shards.empty()) return choose_layout(layout, method, Documents(lengths), ranks, options);
    std::vector<std::vector<Run>> runs;
    int64_t begin = 0;
    for (int64_t tokens : shards) {
      runs.push_back(tokens == 0 ? std::vector<Run>{} : std::vector<Run>{{begin, 1, tokens}});
      begin += tokens;
    }
    return Layout::from_runs(begin, std::move(runs));
  }
  // Columns of v: as many as asked for, or the next more that the layer takes.
  int64_t columns() const {
    const int64_t blocks = std::max<int64_t>(1, column_blocks(layer));
    return (dim_v + blocks - 1) / blocks * blocks;
  }
  Problem problem() const {
    Problem made = self_attention(Mask::documents(lengths, {.causal = !both_ways}), placement(), heads, heads, dim);
    made.dim_v = columns();
    made.layer = layer;
    if (decay_of(layer) == Decay::constant) made.log_decay = retnet_log_decays(heads);
    made.key_heads = key_heads;
    made.householders = householders;
    made.initial_states = initial_states;
    made.final_states = final_states;
    made.ask_for_states(state_positions);
    made.backward = true;
    made.element = element;
    made.wire = wire.value_or(made.accumulator());
    return made;
  }
  Schedule schedule() const { return make_schedule(method, problem(), options); }
};

inline constexpr Layer kLinearLayers[] = {Layer::linear,   Layer::retnet,      Layer::mamba2,  Layer::gla,
                                          Layer::deltanet, Layer::gdn,         Layer::kda,     Layer::rwkv6,
                                          Layer::rwkv7,    Layer::elementwise, Layer::pairwise};
static_assert(std::size(kLinearLayers) == kLayerCount - 1);

// Any of it, small: empty and unequal shards, more documents than ranks, documents of one token, every layout.
inline LinearCase random_linear_case(Random& random, std::string_view method = "") {
  LinearCase c;
  const auto methods = linear_methods();
  const auto any = static_cast<size_t>(random.uniform(static_cast<int64_t>(methods.size())));
  c.method = method.empty() ? methods[any]->name : method;
  c.layer = kLinearLayers[random.uniform(std::size(kLinearLayers))];
  if (traits_of(c.layer).mixing == Mixing::delta && random.uniform(2) == 0) c.householders = 2 + random.uniform(2);
  c.ranks = 1 + static_cast<int>(random.uniform(6));
  c.heads = 1 + random.uniform(3);
  c.dim = 1 + random.uniform(4), c.dim_v = 1 + random.uniform(4);
  c.lengths.clear();
  int64_t tokens = 0;
  for (int64_t documents = 1 + random.uniform(2) * random.uniform(6); documents > 0; --documents) {
    c.lengths.push_back(random.uniform(4) == 0 ? 1 : 1 + random.uniform(30));
    tokens += c.lengths.back();
  }
  if (random.uniform(3) == 0) {
    c.key_heads = 1 + random.uniform(2);
    c.heads = c.key_heads * (1 + random.uniform(3));
  }
  c.initial_states = random.uniform(3) == 0, c.final_states = random.uniform(3) == 0;
  for (int64_t n = random.uniform(3) == 0 ? 1 + random.uniform(5) : 0; n > 0; --n)
    c.state_positions.push_back(random.uniform(tokens));
  if (c.method == "all-scan" && random.uniform(2) == 0)
    c.options = {{"blocks", std::to_string(1 + random.uniform(c.heads))}};
  if (c.method == "hierarchical") c.options = {{"node", std::to_string(1 + random.uniform(4))}};
  if (c.method == "two-dimensional" && random.uniform(2) == 0) {
    const int64_t inner = 1 + random.uniform(std::min<int64_t>(3, c.heads));
    c.ranks = static_cast<int>(inner * (1 + random.uniform(4)));
    c.options = {{"inner", std::to_string(inner)}};
  }
  if (find_method(c.method).both_ways && random.uniform(6) == 0) {
    c.layer = Layer::linear, c.both_ways = true, c.householders = 1;
    c.initial_states = c.final_states = false, c.state_positions.clear(), c.options.clear();
  }
  static constexpr const char* kLayouts[] = {"", "zigzag", "document-zigzag"};
  c.layout = kLayouts[random.uniform(3)];
  if (random.uniform(3) > 0) return c;
  c.shards.assign(static_cast<size_t>(c.ranks), 0);
  for (int64_t& shard : c.shards) {
    shard = random.uniform(3) == 0 ? 0 : random.uniform(tokens + 1);
    tokens -= shard;
  }
  c.shards[static_cast<size_t>(random.uniform(c.ranks))] += tokens;
  return c;
}

}  // namespace weft
