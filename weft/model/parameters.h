// The weights of a model as one flat array of floats: what optimisers, checkpoints and ranks share.
//
//   ParameterMap map(config);
//   std::vector<float> weights(map.size());
//   map.initialise(weights, seed);                   // or map.load("folder", weights)
//   map.save("out/model", config, weights);          // config.json + model.safetensors
//
// Tensor names are Hugging Face's. q, k and v of a layer follow each other without gaps, and so do gate and up: as one
// matrix each they need one product. Other tensors begin at a multiple of 16 elements, so that they are aligned for vector
// loads; the gaps are zero and stay zero. Linear layers of hybrid models have q, k, v, the output's gate and what makes their
// gates one below the other, too. No torch here.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "weft/model/config.h"

namespace weft {

// How a parameter begins.
enum class Start : uint8_t {
  normal,     // deviation 0.02
  ones,       // norms
  zeros,      // biases, and norms that multiply by 1 + weight
  taps,       // of short convolutions: evenly between -1/2 and 1/2, as torch begins four of them
  log_rate,   // A_log of a gated delta rule: log of a number between 1 and 16
  time_step,  // dt_bias: what softplus makes a number between 0.001 and 0.1 of, evenly in its logarithm
};

struct Parameter {
  std::string name;
  std::vector<int64_t> shape;
  int64_t offset = 0;  // of its first element in the flat array
  int64_t count = 0;
  // Weight decay applies to the matrices inside the layers and to an untied output matrix, not to
  // norms and not to the embedding table (tied or not).
  bool decays = false;
  Start start = Start::normal;
};

// Names that differ between architectures.
struct LayerNames {
  std::string linear = "linear_attn.", mlp = "mlp.", post_norm = "post_attention_layernorm.weight";  // in a layer
  std::string final_norm = "model.norm.weight";
};
LayerNames layer_names(const ModelConfig& config);

class ParameterMap {
 public:
  explicit ParameterMap(const ModelConfig& config);

  // In the order of their offsets.
  const std::vector<Parameter>& parameters() const { return parameters_; }
  const Parameter& at(std::string_view name) const;
  // Elements of the flat array, gaps included.
  int64_t size() const { return size_; }

  // As each says (Start); each tensor has its own random stream.
  void initialise(std::span<float> weights, uint64_t seed) const;

  // Reads model.safetensors, or the files that model.safetensors.index.json names, from `folder`.
  // fp64, fp32, bf16 and fp16 are converted to fp32. Throws Error(format) if a tensor is missing, has
  // another shape, or is one that this model does not have.
  void load(const std::string& folder, std::span<float> weights) const;

  // Writes config.json and the weights in fp32; into several files and an index when they exceed
  // `max_file_bytes`. Each file is replaced atomically.
  void save(const std::string& folder, const ModelConfig& config, std::span<const float> weights,
            int64_t max_file_bytes = int64_t{5} << 30) const;

 private:
  std::vector<Parameter> parameters_;
  int64_t size_ = 0;
};

}  // namespace weft
