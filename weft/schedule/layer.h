// Layer: what mixes tokens, softmax attention or a linear recurrence over a state. docs/linear.md states each recurrence.
//
// A linear layer keeps, per head, a state R of dim x dim_v: R_t = decay_t R_{t-1} + k_t v_t^T, out_t = scale * R_t^T q_t,
// and every document begins with R = 0. So a run of neighbouring tokens is an affine map of the state that enters it:
// the run's own state (what it makes of zero) and its transition, and schedules move those instead of keys and values.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace weft {

enum class Layer : uint8_t {
  softmax,  // attention
  linear,   // R decays not at all: plain linear attention
  retnet,   // by a constant of the head: RetNet, Lightning Attention, TransNormer
  mamba2,   // by a number of the token and head: Mamba-2 / SSD, simple GLA
  gla,      // by a vector of the token and head, one number for each row of R: GLA, HGRN2
};
inline constexpr int kLayerCount = 5;
const char* name_of(Layer layer);
// Throws Error(usage) with the nearest name for an unknown one.
Layer layer_of(std::string_view name);
// The names of all but softmax.
std::vector<std::string_view> linear_layer_names();

// What R is multiplied by at each token: the field `g` holds its natural logarithm, at most 0.
enum class Decay : uint8_t { none, constant, scalar, channel };
Decay decay_of(Layer layer);
// Whether the decay is an input, one row of `g` per token.
inline bool has_gates(Layer layer) { return decay_of(layer) >= Decay::scalar; }

// RetNet's: log(1 - 2^(-5 - h)) for head h, as its paper has them for up to 8 heads; further heads repeat these.
std::vector<double> retnet_log_decays(int64_t heads);

}  // namespace weft
