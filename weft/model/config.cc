#include "weft/model/config.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "weft/base/error.h"
#include "weft/base/text.h"
#include "weft/files/atomic_file.h"

namespace weft {

namespace {

using Json = nlohmann::ordered_json;

// Reads fields of one JSON object; messages name the file and the field.
class ConfigFields {
 public:
  ConfigFields(const Json& object, std::string path) : object_(object), path_(std::move(path)) {
    if (!object.is_object()) throw malformed("is not a JSON object");
  }

  bool has(const char* name) const { return object_.contains(name) && !object_.at(name).is_null(); }
  const Json& at(const char* name) const { return object_.at(name); }

  int64_t integer(const char* name) const {
    if (!has(name)) throw malformed(std::string("lacks ") + name);
    return integer(name, 0);
  }
  int64_t integer(const char* name, int64_t otherwise) const {
    if (!has(name)) return otherwise;
    const Json& value = at(name);
    if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{1} << 62)) {
      throw mistyped(name, "a whole number");
    }
    return value.get<int64_t>();
  }
  double number(const char* name, double otherwise) const {
    if (!has(name)) return otherwise;
    if (!at(name).is_number()) throw mistyped(name, "a number");
    return at(name).get<double>();
  }
  bool boolean(const char* name, bool otherwise) const {
    if (!has(name)) return otherwise;
    if (!at(name).is_boolean()) throw mistyped(name, "true or false");
    return at(name).get<bool>();
  }
  std::string text(const char* name, const std::string& otherwise) const {
    if (!has(name)) return otherwise;
    if (!at(name).is_string()) throw mistyped(name, "a text");
    return at(name).get<std::string>();
  }

  Error unsupported(const std::string& what) const {
    return Error(ErrorCode::unsupported, path_ + " asks for " + what);
  }

 private:
  Error malformed(const std::string& what) const { return Error(ErrorCode::format, path_ + " " + what); }
  Error mistyped(const char* name, const char* wanted) const {
    return malformed("has " + std::string(name) + " = " + in_quotes(at(name).dump()) + ", which is not " + wanted);
  }

  const Json& object_;
  std::string path_;
};

// transformers 4 writes rope_theta beside rope_scaling, version 5 both inside rope_parameters.
void read_rope(const ConfigFields& fields, const std::string& path, ModelConfig& config) {
  config.rope_theta = fields.number("rope_theta", 10000);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!fields.has(key)) continue;
    const ConfigFields rope(fields.at(key), path + " " + key);
    config.rope_theta = rope.number("rope_theta", config.rope_theta);
    if (rope.number("partial_rotary_factor", 1) != 1) {
      throw rope.unsupported("partial_rotary_factor; only whole heads are rotated here");
    }
    const std::string kind = rope.text("rope_type", rope.text("type", "default"));
    RopeScaling& scaling = config.rope_scaling;
    if (kind == "default") continue;
    scaling.factor = rope.number("factor", 1);
    if (kind == "linear") {
      scaling.kind = RopeScaling::Kind::linear;
    } else if (kind == "llama3") {
      scaling.kind = RopeScaling::Kind::llama3;
      scaling.low_freq_factor = rope.number("low_freq_factor", 1);
      scaling.high_freq_factor = rope.number("high_freq_factor", 4);
      scaling.original_max_position_embeddings =
          rope.integer("original_max_position_embeddings", config.max_position_embeddings);
    } else {
      throw rope.unsupported("the rotary scaling " + in_quotes(kind) + "; default, linear and llama3 are supported");
    }
  }
}

constexpr const char* kHybrid = "weft_hybrid";
constexpr const char* kLinear = "linear_attention";
constexpr const char* kFull = "full_attention";

// Which layers are linear: listed one by one, or all but every n-th.
std::vector<bool> read_layer_types(const ConfigFields& fields, int64_t layers) {
  std::vector<bool> linear;
  if (fields.has("layer_types")) {
    for (const Json& type : fields.at("layer_types")) {
      if (type != kLinear && type != kFull) {
        throw fields.unsupported("layer type " + in_quotes(type.dump()) + "; " + kLinear + " and " + kFull +
                                 " are supported");
      }
      linear.push_back(type == kLinear);
    }
    return linear;
  }
  const int64_t interval = fields.integer("full_attention_interval", 4);
  if (interval < 1)
    throw fields.unsupported("full_attention_interval " + std::to_string(interval) + "; give 1 or more");
  for (int64_t i = 0; i < std::min<int64_t>(layers, 1 << 20); ++i) linear.push_back((i + 1) % interval != 0);
  return linear;
}

void read_linear(const ConfigFields& fields, ModelConfig& config) {
  if (fields.text("model_type", "llama") != kHybrid) return;
  LinearConfig& linear = config.linear.emplace();
  linear.layer = layer_of(fields.text("linear_layer", "gdn"));
  linear.num_heads = fields.integer("linear_num_value_heads");
  linear.key_head_dim = fields.integer("linear_key_head_dim");
  linear.value_head_dim = fields.integer("linear_value_head_dim", linear.key_head_dim);
  linear.gate_low_rank_dim = fields.integer("linear_gate_low_rank_dim", 16);
  if (fields.integer("linear_num_key_heads", linear.num_heads) != linear.num_heads) {
    throw fields.unsupported(
        "linear_num_key_heads other than linear_num_value_heads; heads that share keys are not supported");
  }
  if (fields.integer("linear_conv_kernel_dim", 1) != 1) {
    throw fields.unsupported("linear_conv_kernel_dim; linear layers have no short convolution here");
  }
  config.linear_layers = read_layer_types(fields, config.num_hidden_layers);
}

void refuse_the_rest(const ConfigFields& fields) {
  const std::string type = fields.text("model_type", "llama");
  if (type != "llama" && type != kHybrid) {
    throw fields.unsupported("model_type " + in_quotes(type) + "; llama and " + kHybrid + " are supported");
  }
  for (const char* name : {"attention_bias", "mlp_bias"}) {
    if (fields.boolean(name, false)) {
      throw fields.unsupported(std::string(name) + "; only models without biases are supported");
    }
  }
  const std::string activation = fields.text("hidden_act", "silu");
  if (activation != "silu") {
    throw fields.unsupported("hidden_act " + in_quotes(activation) + "; only silu is supported");
  }
  if (fields.number("partial_rotary_factor", 1) != 1) {
    throw fields.unsupported("partial_rotary_factor; only whole heads are rotated here");
  }
  if (fields.number("attention_dropout", 0) != 0) {
    throw fields.unsupported("attention_dropout; only 0 is supported");
  }
  for (const char* name : {"quantization_config", "sliding_window"}) {
    if (fields.has(name)) throw fields.unsupported(std::string(name) + ", which is not supported");
  }
}

void check_linear(const ModelConfig& config) {
  const LinearConfig& linear = *config.linear;
  if (linear.layer != Layer::gdn && linear.layer != Layer::gla) {
    throw Error(ErrorCode::unsupported,
                std::string("linear_layer ") + name_of(linear.layer) + " in a model; gdn and gla are supported");
  }
  const std::pair<const char*, int64_t> sizes[] = {{"linear_num_value_heads", linear.num_heads},
                                                   {"linear_key_head_dim", linear.key_head_dim},
                                                   {"linear_value_head_dim", linear.value_head_dim},
                                                   {"linear_gate_low_rank_dim", linear.gate_low_rank_dim}};
  for (const auto& [name, value] : sizes) {
    if (value < 1 || value > 65536) {
      throw Error(ErrorCode::usage, std::string(name) + " is " + std::to_string(value) + "; allowed are 1 to 65536");
    }
  }
  if (static_cast<int64_t>(config.linear_layers.size()) != config.num_hidden_layers) {
    throw Error(ErrorCode::usage, "layer_types has " + std::to_string(config.linear_layers.size()) +
                                      " entries; num_hidden_layers is " + std::to_string(config.num_hidden_layers));
  }
}

}  // namespace

int64_t LinearConfig::input_rows() const {
  const int64_t gates = layer == Layer::gla ? gate_low_rank_dim : 2 * num_heads;
  return num_heads * 2 * (key_head_dim + value_head_dim) + gates;
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
  // In doubles: with the limits above the exact number may exceed 63 bits.
  const double weights =
      2.0 * vocab_size * hidden_size +
      1.0 * num_hidden_layers * hidden_size * (4.0 * num_attention_heads * head_dim + 3.0 * intermediate_size) +
      (linear
           ? 1.0 * num_hidden_layers * hidden_size * (linear->input_rows() + linear->num_heads * linear->value_head_dim)
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
  if (head_dim % 2 != 0) {
    throw Error(ErrorCode::usage,
                "head_dim is " + std::to_string(head_dim) + "; rotary embedding needs an even number");
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
  const int64_t heads = head_dim * (2 * num_attention_heads + 2 * num_key_value_heads);
  const int64_t around = hidden_size * (3 * intermediate_size + 2);
  const int64_t outside = vocab_size * hidden_size * (tie_word_embeddings ? 1 : 2) + hidden_size;
  const int64_t linears = linear_layer_count();
  const int64_t count = outside + num_hidden_layers * around + (num_hidden_layers - linears) * hidden_size * heads;
  if (linears == 0) return count;
  const int64_t keys = linear->num_heads * linear->key_head_dim, values = linear->num_heads * linear->value_head_dim;
  const int64_t gates = linear->layer == Layer::gla ? keys * (linear->gate_low_rank_dim + 1) : 2 * linear->num_heads;
  return count + linears * (hidden_size * (linear->input_rows() + values) + gates + linear->value_head_dim);
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

ModelConfig parse_config(std::string_view json, const std::string& path) {
  const Json document = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) throw Error(ErrorCode::format, path + " is not correct JSON");
  const ConfigFields fields(document, path);
  refuse_the_rest(fields);
  ModelConfig config;
  config.vocab_size = fields.integer("vocab_size");
  config.hidden_size = fields.integer("hidden_size");
  config.intermediate_size = fields.integer("intermediate_size");
  config.num_hidden_layers = fields.integer("num_hidden_layers");
  config.num_attention_heads = fields.integer("num_attention_heads");
  config.num_key_value_heads = fields.integer("num_key_value_heads", config.num_attention_heads);
  // What is missing has the value that transformers assumes.
  config.head_dim =
      fields.integer("head_dim", config.num_attention_heads > 0 ? config.hidden_size / config.num_attention_heads : 0);
  config.max_position_embeddings = fields.integer("max_position_embeddings", 2048);
  config.rms_norm_eps = fields.number("rms_norm_eps", 1e-6);
  config.tie_word_embeddings = fields.boolean("tie_word_embeddings", false);
  config.eos_token_id.reset();
  if (fields.has("eos_token_id") && !fields.at("eos_token_id").is_array()) {
    config.eos_token_id = fields.integer("eos_token_id");
  }
  read_rope(fields, path, config);
  try {
    read_linear(fields, config);
    config.check();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::usage) throw;
    throw Error(ErrorCode::format, path + ": " + error.what());
  }
  return config;
}

ModelConfig read_config(const std::string& path) { return parse_config(read_file(path, size_t{16} << 20), path); }

std::string config_json(const ModelConfig& config) {
  Json rope = {{"rope_type", "default"}, {"rope_theta", config.rope_theta}};
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind != RopeScaling::Kind::none) {
    rope["rope_type"] = scaling.kind == RopeScaling::Kind::linear ? "linear" : "llama3";
    rope["factor"] = scaling.factor;
  }
  if (scaling.kind == RopeScaling::Kind::llama3) {
    rope["low_freq_factor"] = scaling.low_freq_factor;
    rope["high_freq_factor"] = scaling.high_freq_factor;
    rope["original_max_position_embeddings"] = scaling.original_max_position_embeddings;
  }
  Json scaling_of_version_4 = nullptr;
  if (scaling.kind != RopeScaling::Kind::none) {
    scaling_of_version_4 = rope;
    scaling_of_version_4.erase("rope_theta");
  }
  Json document = {
      {"architectures", {config.linear ? "WeftHybridForCausalLM" : "LlamaForCausalLM"}},
      {"model_type", config.linear ? kHybrid : "llama"},
      {"vocab_size", config.vocab_size},
      {"hidden_size", config.hidden_size},
      {"intermediate_size", config.intermediate_size},
      {"num_hidden_layers", config.num_hidden_layers},
      {"num_attention_heads", config.num_attention_heads},
      {"num_key_value_heads", config.num_key_value_heads},
      {"head_dim", config.head_dim},
      {"hidden_act", "silu"},
      {"max_position_embeddings", config.max_position_embeddings},
      {"rms_norm_eps", config.rms_norm_eps},
      // Both spellings: transformers 4 reads the first two, version 5 the third.
      {"rope_theta", config.rope_theta},
      {"rope_scaling", scaling_of_version_4},
      {"rope_parameters", rope},
      {"attention_bias", false},
      {"attention_dropout", 0.0},
      {"mlp_bias", false},
      {"tie_word_embeddings", config.tie_word_embeddings},
      {"bos_token_id", nullptr},
      {"eos_token_id", config.eos_token_id ? Json(*config.eos_token_id) : Json(nullptr)},
      {"torch_dtype", "float32"},
      {"dtype", "float32"},
      {"use_cache", true},
  };
  if (config.linear) {
    const LinearConfig& linear = *config.linear;
    Json types = Json::array();
    for (const bool is_linear : config.linear_layers) types.push_back(is_linear ? kLinear : kFull);
    document["layer_types"] = types;
    document["linear_layer"] = name_of(linear.layer);
    document["linear_num_key_heads"] = linear.num_heads;
    document["linear_num_value_heads"] = linear.num_heads;
    document["linear_key_head_dim"] = linear.key_head_dim;
    document["linear_value_head_dim"] = linear.value_head_dim;
    document["linear_conv_kernel_dim"] = 1;
    if (linear.layer == Layer::gla) document["linear_gate_low_rank_dim"] = linear.gate_low_rank_dim;
  }
  return document.dump(2) + "\n";
}

void write_config(const std::string& path, const ModelConfig& config) { write_file(path, config_json(config)); }

}  // namespace weft
