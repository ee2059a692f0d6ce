// Layer: what mixes tokens, softmax attention or a linear recurrence over a state. docs/linear.md states each recurrence.
//
// A linear layer keeps, per head, a state R of dim x dim_v: R_t = F_t R_{t-1} + k_t v_t^T, out_t = scale * R_t^T q_t, and
// every document begins with R = 0. So a run of neighbouring tokens is an affine map of the state that enters it: the run's
// own state (what it makes of zero) and its transition, the product of its F_t, and schedules move those instead of keys
// and values. What F_t is, and which inputs it is made of, is all that sets layers apart: each is a row of a table.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace weft {

enum class Layer : uint8_t {
  softmax,   // attention
  linear,    // plain linear attention
  retnet,    // RetNet, Lightning Attention, TransNormer
  mamba2,    // Mamba-2 / SSD, simple GLA
  gla,       // GLA, HGRN2
  deltanet,  // DeltaNet
  gdn,       // Gated DeltaNet
  kda,       // Kimi Delta Attention
  rwkv6,     // RWKV-6
  rwkv7,     // RWKV-7, and any diagonal matrix plus one of rank one
  // The state's columns are multiplied, by numbers of any size and sign.
  elementwise,  // RG-LRU, minGRU, QRNN; a Newton step of a GRU
  pairwise,     // LRU, S5 (complex numbers); a Newton step of an LSTM
};
inline constexpr int kLayerCount = 12;
const char* name_of(Layer layer);
// Throws Error(usage) with the nearest name for an unknown one.
Layer layer_of(std::string_view name);
// The names of all but softmax.
std::vector<std::string_view> linear_layer_names();

// What the rows of R are multiplied by at each token, D_t = diag(exp g_t): g is 0, a constant of the head, a number of the
// token and head, or a vector with one number for each row. At most 0.
enum class Decay : uint8_t { none, constant, scalar, channel };
// What else F_t does.
enum class Mixing : uint8_t {
  none,      // F = D
  delta,     // F = (I - beta k k^T) D, and k v^T is written beta times: the delta rule, with an input beta
  low_rank,  // F = D + b a^T, with inputs a and b
  columns,   // R_t = R_{t-1} A_t^T + k_t v_t^T, A_t made of diagonals, an input a: LayerTraits::blocks
};
struct LayerTraits {
  std::string_view name;
  Decay decay = Decay::none;
  Mixing mixing = Mixing::none;
  // out_t reads the state before token t, and of its own key as much as the parameter u says: R_{t-1} + diag(u) k_t v_t^T.
  bool bonus = false;
  bool unit_scale = false;  // the scale that is meant where none is given is 1, not 1/sqrt(dim)
  // Mixing::columns: A_t is blocks x blocks diagonals, each of dim_v / blocks numbers: a holds them row by row.
  int blocks = 0;
};
const LayerTraits& traits_of(Layer layer);

inline Decay decay_of(Layer layer) { return traits_of(layer).decay; }
// Whether the decay is an input, one row of `g` per token.
inline bool has_gates(Layer layer) { return decay_of(layer) >= Decay::scalar; }
// Whether the transition of a run is a whole matrix that mixes rows of the state, and not its diagonal.
inline bool mixes_rows(Layer layer) {
  return traits_of(layer).mixing == Mixing::delta || traits_of(layer).mixing == Mixing::low_rank;
}
// Of layers whose transitions act on columns of the state, else 0: LayerTraits::blocks.
inline int64_t column_blocks(Layer layer) { return traits_of(layer).blocks; }
// Whether a run's transition depends on its inputs, so that only who has those knows it.
inline bool has_transition(Layer layer) { return has_gates(layer) || traits_of(layer).mixing != Mixing::none; }

// RetNet's: log(1 - 2^(-5 - h)) for head h, as its paper has them for up to 8 heads; further heads repeat these.
std::vector<double> retnet_log_decays(int64_t heads);

}  // namespace weft
