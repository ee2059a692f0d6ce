#include "weft/model/config.h"

#include <algorithm>
#include <utility>

#include "weft/base/error.h"
#include "weft/base/text.h"
#include "weft/layout/halo.h"

namespace weft {

namespace {

void check_linear(const ModelConfig& config) {
  const LinearConfig& linear = *config.linear;
  if (linear.layer != Layer::gdn && linear.layer != Layer::gla && linear.layer != Layer::mamba2) {
    throw Error(ErrorCode::unsupported, std::string("linear_layer ") + name_of(linear.layer) +
                                            " in a model; gdn, gla and mamba2 are supported");
  }
  const std::pair<const char*, int64_t> sizes[] = {
      {"linear_num_value_heads", linear.num_heads},     {"linear_num_key_heads", linear.num_key_heads},
      {"linear_conv_kernel_dim", linear.conv_width},    {"linear_key_head_dim", linear.key_head_dim},
      {"linear_value_head_dim", linear.value_head_dim}, {"linear_gate_low_rank_dim", linear.gate_low_rank_dim}};
  for (const auto& [name, value] : sizes) {
    if (value < 1 || value > 65536) {
      throw Error(ErrorCode::usage, std::string(name) + " is " + std::to_string(value) + "; allowed are 1 to 65536");
    }
  }
  if (linear.num_heads % linear.num_key_heads != 0) {
    throw Error(ErrorCode::usage, std::to_string(linear.num_heads) + " value heads cannot share " +
                                      std::to_string(linear.num_key_heads) +
                                      " key heads evenly; linear_num_value_heads must be a multiple of "
                                      "linear_num_key_heads");
  }
  if (linear.conv_width > kWidestConvolution) {
    throw Error(ErrorCode::usage, "linear_conv_kernel_dim is " + std::to_string(linear.conv_width) +
                                      "; allowed are 1 to " + std::to_string(kWidestConvolution));
  }
  if (config.architecture == Architecture::qwen3_5 && linear.layer != Layer::gdn) {
    throw Error(ErrorCode::unsupported, std::string("linear_layer ") + name_of(linear.layer) +
                                            " in a qwen3_5_text model, whose linear layers are gdn");
  }
  if (static_cast<int64_t>(config.linear_layers.size()) != config.num_hidden_layers) {
    throw Error(ErrorCode::usage, "layer_types has " + std::to_string(config.linear_layers.size()) +
                                      " entries; num_hidden_layers is " + std::to_string(config.num_hidden_layers));
  }
}

}  // namespace

int64_t LinearConfig::input_rows() const {
  const int64_t gates = layer == Layer::gla ? gate_low_rank_dim : layer == Layer::mamba2 ? num_heads : 2 * num_heads;
  return mixed_columns() + value_columns() + gates;
}

int64_t ModelConfig::linear_layer_count() const {
  return linear ? std::count(linear_layers.begin(), linear_layers.end(), true) : 0;
}

void ModelConfig::check() const {
  const std::pair<const char*, int64_t> sizes[] = {
      {"vocab_size", vocab_size},
      {"hidden_size", hidden_size},
      {"intermediate_size", intermediate_size},
      {"num_hidden_layers", num_hidden_layers},
      {"num_attention_heads", num_attention_heads},
      {"num_key_value_heads", num_key_value_heads},
      {"head_dim", head_dim},
  };
  constexpr int64_t kMax = int64_t{1} << 20;  // far above every real model
  for (const auto& [name, value] : sizes) {
    if (value < 1 || value > kMax) {
      throw Error(ErrorCode::usage,
                  std::string(name) + " is " + std::to_string(value) + "; allowed are 1 to " + std::to_string(kMax));
    }
  }
  if (linear) check_linear(*this);
  if (architecture != Architecture::llama && !linear) {
    throw Error(ErrorCode::usage, "a hybrid model without sizes of its linear layers");
  }
  // In doubles: with the limits above the exact number may exceed 63 bits.
  const double weights =
      2.0 * vocab_size * hidden_size +
      1.0 * num_hidden_layers * hidden_size * (4.0 * num_attention_heads * head_dim + 3.0 * intermediate_size) +
      (linear ? 1.0 * num_hidden_layers *
                    (hidden_size * (1.0 * linear->input_rows() + linear->value_columns()) +
                     1.0 * linear->mixed_columns() * linear->conv_width)
              : 0.0);
  if (weights > 1e12) {
    throw Error(ErrorCode::usage,
                "a model of " + format_count(weights) + " weights is too large; at most 1e12 are allowed");
  }
  if (num_attention_heads % num_key_value_heads != 0) {
    throw Error(ErrorCode::usage, std::to_string(num_attention_heads) + " attention heads cannot share " +
                                      std::to_string(num_key_value_heads) +
                                      " key-value heads evenly; num_attention_heads must be a multiple of "
                                      "num_key_value_heads");
  }
  if (!has_attention_block() && partial_rotary_factor != 1) {
    throw Error(ErrorCode::unsupported, "partial_rotary_factor; only whole heads are rotated in a Llama");
  }
  if (!(partial_rotary_factor > 0 && partial_rotary_factor <= 1) || rotary_dim() % 2 != 0 || rotary_dim() < 2) {
    throw Error(ErrorCode::usage, "head_dim is " + std::to_string(head_dim) +
                                      (partial_rotary_factor == 1
                                           ? std::string()
                                           : " and partial_rotary_factor " + format_double(partial_rotary_factor)) +
                                      "; rotary embedding needs an even number of columns");
  }
  const auto in_range = [](const char* name, double value, double max) {
    if (!(value > 0 && value <= max)) {
      throw Error(ErrorCode::usage, std::string(name) + " is " + format_double(value) +
                                        "; it must be above 0 and at most " + format_double(max));
    }
  };
  in_range("rms_norm_eps", rms_norm_eps, 1);
  in_range("rope_theta", rope_theta, 1e15);
  in_range("rope factor", rope_scaling.factor, 1e9);
  if (rope_scaling.kind == RopeScaling::Kind::llama3) {
    in_range("low_freq_factor", rope_scaling.low_freq_factor, 1e9);
    in_range("high_freq_factor", rope_scaling.high_freq_factor, 1e9);
    if (rope_scaling.high_freq_factor <= rope_scaling.low_freq_factor ||
        rope_scaling.original_max_position_embeddings < 1) {
      throw Error(ErrorCode::usage,
                  "llama3 rotary scaling needs high_freq_factor > low_freq_factor "
                  "and original_max_position_embeddings > 0");
    }
  }
}

int64_t ModelConfig::parameter_count() const {
  const int64_t gates_of_attention =
      gated_attention() ? hidden_size * num_attention_heads * head_dim + 2 * head_dim : 0;
  const int64_t attention =
      hidden_size * head_dim * (2 * num_attention_heads + 2 * num_key_value_heads) + gates_of_attention;
  const int64_t around = hidden_size * (3 * intermediate_size + 2);
  const int64_t outside = vocab_size * hidden_size * (tie_word_embeddings ? 1 : 2) + hidden_size;
  const int64_t linears = linear_layer_count();
  const int64_t count = outside + num_hidden_layers * around + (num_hidden_layers - linears) * attention;
  if (linears == 0) return count;
  const int64_t gates = linear->layer == Layer::gla
                            ? linear->num_heads * linear->key_head_dim * (linear->gate_low_rank_dim + 1)
                            : (linear->layer == Layer::mamba2 ? 3 : 2) * linear->num_heads;
  const int64_t width = linear->conv_width + (linear->conv_bias ? 1 : 0);
  const int64_t taps = linear->conv_width > 1 ? linear->mixed_columns() * width : 0;
  const int64_t norm = linear->layer == Layer::mamba2 ? linear->value_columns() : linear->value_head_dim;
  return count + linears * (hidden_size * (linear->input_rows() + linear->value_columns()) + gates + taps + norm);
}

const std::vector<std::string_view>& model_preset_names() {
  static const std::vector<std::string_view> names = {"tiny", "small", "medium", "large"};
  return names;
}

ModelConfig model_preset(std::string_view name) {
  const auto make = [](int64_t hidden, int64_t intermediate, int64_t layers, int64_t heads, int64_t kv_heads,
                       int64_t head_dim) {
    ModelConfig config;
    config.hidden_size = hidden;
    config.intermediate_size = intermediate;
    config.num_hidden_layers = layers;
    config.num_attention_heads = heads;
    config.num_key_value_heads = kv_heads;
    config.head_dim = head_dim;
    return config;
  };
  if (name == "tiny") return make(48, 128, 2, 4, 2, 12);
  if (name == "small") return make(256, 768, 6, 4, 2, 64);
  if (name == "medium") return make(512, 1408, 9, 8, 4, 64);
  if (name == "large") return make(768, 2048, 18, 12, 4, 64);
  throw unknown_name_error("model", name, model_preset_names());
}

}  // namespace weft
