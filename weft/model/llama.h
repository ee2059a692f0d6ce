// The Llama family, and hybrids with linear layers in it or as Qwen3.5 is one, on this rank's rows of a packed sequence.
//
//   Llama model(config, weights, gradients, at::kBFloat16);  // views of flat arrays
//   at::Tensor x = model.hidden(ids, positions, attention);  // [tokens, hidden]
//   at::Tensor loss = model.loss(x, labels, 1.0 / global_count);
//   loss.backward();                                         // adds to `gradients`
//
// RMSNorm, rotary embedding by the given position ids, grouped-query attention through an
// AttentionFunction, linear layers (linear_block.h) and gates (attention_block.h) where the config has them, SwiGLU, tied or untied embeddings. Nothing else
// than attention, convolutions and recurrences mixes rows, so any split of the rows over ranks gives the same numbers.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "weft/model/attention.h"
#include "weft/model/attention_block.h"
#include "weft/model/blocks.h"
#include "weft/model/config.h"
#include "weft/model/linear_block.h"
#include "weft/model/parameters.h"

namespace weft {

class Llama {
 public:
  // `weights` is a flat array laid out by ParameterMap(config), borrowed, not copied: all ranks may
  // share one. `gradients`, of the same size and type, receives sums of gradients in backward; if it is
  // undefined the model cannot be trained. Activations are stored as `compute`; matrix products take their operands as
  // operands_for(compute) says, or as `operands`.
  Llama(const ModelConfig& config, const at::Tensor& weights, const at::Tensor& gradients, at::ScalarType compute,
        Operands operands = {});

  const ModelConfig& config() const { return config_; }

  // Final hidden states, normalised: [tokens, hidden] from int64 ids and positions [tokens].
  // `linear` for models with linear layers, `convolution` for those with convolutions in them.
  at::Tensor hidden(const at::Tensor& ids, const at::Tensor& positions, const AttentionFunction& attention,
                    const LinearFunction& linear = {}, const ConvolutionFunction& convolution = {}) const;

  // scale * sum of the cross entropy over rows whose label is not -100, in fp32 (fp64 if the weights
  // are). labels: int64 [tokens]. Logits exist for a bounded number of rows at a time.
  at::Tensor loss(const at::Tensor& hidden, const at::Tensor& labels, double scale) const;

 private:
  struct DecoderLayer {
    at::Tensor input_norm, qkv, o, post_norm, gate_up, down;
    std::optional<LinearWeights> linear;         // in place of qkv and o
    std::optional<AttentionBlockWeights> block;  // likewise
  };
  struct Mixers {
    const AttentionFunction& attention;
    const LinearFunction& linear;
    const ConvolutionFunction& convolution;
    at::Tensor cos, sin;
  };
  // What a norm multiplies by.
  at::Tensor scale_of(const at::Tensor& norm) const;
  at::Tensor mix(const DecoderLayer& layer, const at::Tensor& x, const Mixers& mixers) const;

  ModelConfig config_;
  at::ScalarType compute_, operands_;
  at::Tensor embedding_, final_norm_, output_;
  std::vector<DecoderLayer> layers_;
  at::Tensor inverse_frequencies_;
};

}  // namespace weft
