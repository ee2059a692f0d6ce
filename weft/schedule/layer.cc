#include "weft/schedule/layer.h"

#include <cmath>

#include "weft/base/text.h"

namespace weft {
namespace {

constexpr std::string_view kNames[kLayerCount] = {"softmax", "linear", "retnet", "mamba2", "gla"};

}  // namespace

const char* name_of(Layer layer) { return kNames[static_cast<size_t>(layer)].data(); }

Layer layer_of(std::string_view name) {
  for (int i = 0; i < kLayerCount; ++i) {
    if (kNames[i] == name) return static_cast<Layer>(i);
  }
  throw unknown_name_error("layer", name, {std::begin(kNames), std::end(kNames)});
}

std::vector<std::string_view> linear_layer_names() { return {std::begin(kNames) + 1, std::end(kNames)}; }

Decay decay_of(Layer layer) {
  switch (layer) {
    case Layer::retnet: return Decay::constant;
    case Layer::mamba2: return Decay::scalar;
    case Layer::gla: return Decay::channel;
    default: return Decay::none;
  }
}

std::vector<double> retnet_log_decays(int64_t heads) {
  std::vector<double> logs;
  for (int64_t head = 0; head < heads; ++head)
    logs.push_back(std::log1p(-std::exp2(-5.0 - static_cast<double>(head % 8))));
  return logs;
}

}  // namespace weft
