#include "weft/schedule/layer.h"

#include <cmath>

#include "weft/base/text.h"

namespace weft {
namespace {

// In the order of the enumeration.
constexpr LayerTraits kLayers[kLayerCount] = {
    {.name = "softmax"},
    {.name = "linear"},
    {.name = "retnet", .decay = Decay::constant},
    {.name = "mamba2", .decay = Decay::scalar, .unit_scale = true},
    {.name = "gla", .decay = Decay::channel},
    {.name = "deltanet", .mixing = Mixing::delta},
    {.name = "gdn", .decay = Decay::scalar, .mixing = Mixing::delta},
    {.name = "kda", .decay = Decay::channel, .mixing = Mixing::delta},
    {.name = "rwkv6", .decay = Decay::channel, .bonus = true, .unit_scale = true},
    {.name = "rwkv7", .decay = Decay::channel, .mixing = Mixing::low_rank, .unit_scale = true},
    {.name = "elementwise", .mixing = Mixing::columns, .unit_scale = true, .blocks = 1},
    {.name = "pairwise", .mixing = Mixing::columns, .unit_scale = true, .blocks = 2},
};

std::vector<std::string_view> names_from(int first) {
  std::vector<std::string_view> names;
  for (int i = first; i < kLayerCount; ++i) names.push_back(kLayers[i].name);
  return names;
}

}  // namespace

const LayerTraits& traits_of(Layer layer) { return kLayers[static_cast<size_t>(layer)]; }

const char* name_of(Layer layer) { return traits_of(layer).name.data(); }

Layer layer_of(std::string_view name) {
  for (int i = 0; i < kLayerCount; ++i) {
    if (kLayers[i].name == name) return static_cast<Layer>(i);
  }
  throw unknown_name_error("layer", name, names_from(0));
}

std::vector<std::string_view> linear_layer_names() { return names_from(1); }

std::vector<double> retnet_log_decays(int64_t heads) {
  std::vector<double> logs;
  for (int64_t head = 0; head < heads; ++head)
    logs.push_back(std::log1p(-std::exp2(-5.0 - static_cast<double>(head % 8))));
  return logs;
}

}  // namespace weft
