// The shape of a Llama-family model, or of one in which linear layers stand for some of its attention layers, in Hugging
// Face's words, and its config.json.
//
//   ModelConfig config = model_preset("small");       // or read_config("llama/config.json")
//   config.check();
//   write_config("out/model/config.json", config);
//
// What this code does not compute (biases, other activations, unknown rotary scalings) is refused
// when the file is read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "weft/schedule/layer.h"

namespace weft {

// How rotary frequencies are changed for contexts longer than the model was made for.
struct RopeScaling {
  enum class Kind : uint8_t { none, linear, llama3 };
  Kind kind = Kind::none;
  double factor = 1;           // linear and llama3
  double low_freq_factor = 1;  // llama3 only, as the next two
  double high_freq_factor = 4;
  int64_t original_max_position_embeddings = 8192;
  friend bool operator==(const RopeScaling&, const RopeScaling&) = default;
};

// Whose formulas and tensor names a model has.
enum class Architecture : uint8_t {
  llama,    // and hybrids of our own: Llama with linear layers (linear_block.h)
  qwen3_5,  // Qwen3.5, dense, text: linear layers are Gated DeltaNet; attention has gates, heads that are normalised and partly rotated
            // (attention_block.h); norms multiply by 1 + weight
  bamba,    // Bamba: linear layers are Mamba-2; attention rotates a part of each head
};

// The linear layers of a hybrid model (linear_block.h), all of one kind.
struct LinearConfig {
  Layer layer = Layer::gdn;   // gdn, gla or mamba2
  int64_t num_heads = 0;      // of values, and states
  int64_t num_key_heads = 0;  // of q and k: each serves num_heads / num_key_heads heads that follow one another
  int64_t key_head_dim = 0;
  int64_t value_head_dim = 0;
  int64_t gate_low_rank_dim = 16;  // of gla: a token's gates are a product of rank so many
  int64_t conv_width = 1;          // of the short convolution of q, k and v; 1: there is none
  bool conv_bias = false;

  int64_t key_columns() const { return num_key_heads * key_head_dim; }
  int64_t value_columns() const { return num_heads * value_head_dim; }
  // Of what is convolved: q, k and v.
  int64_t mixed_columns() const { return 2 * key_columns() + value_columns(); }
  friend bool operator==(const LinearConfig&, const LinearConfig&) = default;

  // Rows of the matrix that makes everything out of the hidden state.
  int64_t input_rows() const;
};

struct ModelConfig {
  Architecture architecture = Architecture::llama;
  int64_t vocab_size = 257;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 8192;  // only noted in the file: nothing here is limited by it
  double rms_norm_eps = 1e-5;
  double rope_theta = 500000;
  RopeScaling rope_scaling;
  double partial_rotary_factor = 1;  // the share of a head's columns that is rotated: the first ones
  bool tie_word_embeddings = true;
  std::optional<int64_t> eos_token_id = 256;
  std::optional<LinearConfig> linear = {};  // of a hybrid model
  std::vector<bool> linear_layers = {};     // of a hybrid model: which layers are linear, one entry for each

  int64_t rotary_dim() const { return static_cast<int64_t>(static_cast<double>(head_dim) * partial_rotary_factor); }
  // Attention that is attention_block.h's.
  bool has_attention_block() const { return architecture != Architecture::llama; }
  // Attention that has a gate for each query, and norms of queries and keys.
  bool gated_attention() const { return architecture == Architecture::qwen3_5; }
  bool is_linear(int64_t layer) const { return linear && linear_layers[static_cast<size_t>(layer)]; }
  int64_t linear_layer_count() const;

  // Throws Error(usage) unless every size is positive, heads are a multiple of kv heads, rotated columns are
  // even and the weights can be counted.
  void check() const;
  int64_t parameter_count() const;
  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;
};

// Names for model_preset, smallest first.
const std::vector<std::string_view>& model_preset_names();

// A model of about the size its name says: "tiny" (50 thousand weights, for tests), "small" (5
// million), "medium" (25 million), "large" (110 million). Throws Error(usage) for another name.
ModelConfig model_preset(std::string_view name);

// config.json of a model folder, from its text; `path` is for messages. Throws Error(format) if it
// is malformed, Error(unsupported) for a model that this code would compute wrongly.
ModelConfig parse_config(std::string_view json, const std::string& path);
ModelConfig read_config(const std::string& path);

std::string config_json(const ModelConfig& config);
void write_config(const std::string& path, const ModelConfig& config);

}  // namespace weft
