// config.json of model folders, as Hugging Face writes it.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "weft/base/error.h"
#include "weft/base/text.h"
#include "weft/files/atomic_file.h"
#include "weft/model/config.h"

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
  const bool partial = config.has_attention_block();
  const double share = config.architecture == Architecture::qwen3_5 ? 0.25 : partial ? 0.5 : 1;
  config.partial_rotary_factor = fields.number("partial_rotary_factor", share);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!fields.has(key)) continue;
    const ConfigFields rope(fields.at(key), path + " " + key);
    config.rope_theta = rope.number("rope_theta", config.rope_theta);
    config.partial_rotary_factor = rope.number("partial_rotary_factor", config.partial_rotary_factor);
    if (!partial && config.partial_rotary_factor != 1) {
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
constexpr const char* kQwen = "qwen3_5_text";
constexpr const char* kBamba = "bamba";
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

// Bamba's words for the same.
void read_bamba(const ConfigFields& fields, ModelConfig& config) {
  if (fields.boolean("mamba_proj_bias", false)) {
    throw fields.unsupported("mamba_proj_bias; only projections without biases are supported");
  }
  if (fields.number("z_loss_coefficient", 0) != 0) throw fields.unsupported("z_loss_coefficient; only 0 is supported");
  if (fields.has("time_step_limit")) {
    const Json& limit = fields.at("time_step_limit");
    if (limit != Json::array({0.0, Json{{"__float__", "Infinity"}}})) {
      throw fields.unsupported("time_step_limit " + in_quotes(limit.dump()) +
                               "; only none, 0 to infinity, is supported");
    }
  }
  LinearConfig& linear = config.linear.emplace();
  linear.layer = Layer::mamba2;
  linear.num_heads = fields.integer("mamba_n_heads", 128);
  linear.num_key_heads = fields.integer("mamba_n_groups", 1);
  linear.key_head_dim = fields.integer("mamba_d_state", 256);
  linear.conv_width = fields.integer("mamba_d_conv", 4);
  linear.conv_bias = linear.conv_width > 1 && fields.boolean("mamba_conv_bias", true);
  const int64_t columns = fields.integer("mamba_expand", 2) * config.hidden_size;
  const bool given = fields.has("mamba_d_head") && fields.at("mamba_d_head") != "auto";
  linear.value_head_dim = given                  ? fields.integer("mamba_d_head")
                          : linear.num_heads > 0 ? columns / linear.num_heads
                                                 : 0;
  if (linear.value_columns() != columns) {
    throw Error(ErrorCode::usage, "mamba_n_heads x mamba_d_head is " + std::to_string(linear.value_columns()) +
                                      "; mamba_expand x hidden_size is " + std::to_string(columns));
  }
  config.linear_layers.assign(static_cast<size_t>(std::clamp<int64_t>(config.num_hidden_layers, 0, 1 << 20)), true);
  if (!fields.has("attn_layer_indices")) return;
  for (const Json& index : fields.at("attn_layer_indices")) {
    if (!index.is_number_integer() || index < 0 || index >= config.num_hidden_layers) {
      throw Error(ErrorCode::usage, "attn_layer_indices has " + index.dump() + "; num_hidden_layers is " +
                                        std::to_string(config.num_hidden_layers));
    }
    config.linear_layers[index.get<size_t>()] = false;
  }
}

void read_linear(const ConfigFields& fields, ModelConfig& config) {
  if (config.architecture == Architecture::bamba) return read_bamba(fields, config);
  const bool qwen = config.architecture == Architecture::qwen3_5;
  if (!qwen && fields.text("model_type", "llama") != kHybrid) return;
  LinearConfig& linear = config.linear.emplace();
  linear.layer = layer_of(fields.text("linear_layer", "gdn"));
  linear.num_heads = fields.integer("linear_num_value_heads");
  linear.key_head_dim = fields.integer("linear_key_head_dim");
  linear.value_head_dim = fields.integer("linear_value_head_dim", linear.key_head_dim);
  linear.gate_low_rank_dim = fields.integer("linear_gate_low_rank_dim", 16);
  linear.num_key_heads = fields.integer("linear_num_key_heads", linear.num_heads);
  linear.conv_width = fields.integer("linear_conv_kernel_dim", qwen ? 4 : 1);
  linear.conv_bias = !qwen && linear.layer == Layer::mamba2 && linear.conv_width > 1;
  config.linear_layers = read_layer_types(fields, config.num_hidden_layers);
}

void refuse_the_rest(const ConfigFields& fields) {
  const std::string type = fields.text("model_type", "llama");
  if (type != "llama" && type != kHybrid && type != kQwen && type != kBamba) {
    throw fields.unsupported("model_type " + in_quotes(type) + "; llama, " + kQwen + ", " + kBamba + " and " + kHybrid +
                             " are supported");
  }
  if (!fields.boolean("attn_output_gate", true)) {
    throw fields.unsupported("attn_output_gate = false; attention of a qwen3_5_text model has gates here");
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
  if (type != kQwen && type != kBamba && fields.number("partial_rotary_factor", 1) != 1) {
    throw fields.unsupported("partial_rotary_factor; only whole heads are rotated here");
  }
  if (fields.number("attention_dropout", 0) != 0) {
    throw fields.unsupported("attention_dropout; only 0 is supported");
  }
  for (const char* name : {"quantization_config", "sliding_window"}) {
    if (fields.has(name)) throw fields.unsupported(std::string(name) + ", which is not supported");
  }
}

}  // namespace

ModelConfig parse_config(std::string_view json, const std::string& path) {
  const Json document = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) throw Error(ErrorCode::format, path + " is not correct JSON");
  const ConfigFields fields(document, path);
  refuse_the_rest(fields);
  ModelConfig config;
  const std::string type = fields.text("model_type", "llama");
  config.architecture = type == kQwen    ? Architecture::qwen3_5
                        : type == kBamba ? Architecture::bamba
                                         : Architecture::llama;
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
  const bool qwen = config.architecture == Architecture::qwen3_5, bamba = config.architecture == Architecture::bamba;
  if (config.has_attention_block()) rope["partial_rotary_factor"] = config.partial_rotary_factor;
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
      {"architectures",
       {qwen            ? "Qwen3_5ForCausalLM"
        : bamba         ? "BambaForCausalLM"
        : config.linear ? "WeftHybridForCausalLM"
                        : "LlamaForCausalLM"}},
      {"model_type", qwen            ? kQwen
                     : bamba         ? kBamba
                     : config.linear ? kHybrid
                                     : "llama"},
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
  if (config.has_attention_block()) {
    for (const char* not_theirs : {"rope_theta", "rope_scaling"}) document.erase(not_theirs);
  }
  if (bamba) {
    const LinearConfig& linear = *config.linear;
    Json attention = Json::array();
    for (size_t i = 0; i < config.linear_layers.size(); ++i) {
      if (!config.linear_layers[i]) attention.push_back(i);
    }
    document["attn_layer_indices"] = attention;
    document["mamba_n_heads"] = linear.num_heads;
    document["mamba_d_head"] = linear.value_head_dim;
    document["mamba_n_groups"] = linear.num_key_heads;
    document["mamba_d_state"] = linear.key_head_dim;
    document["mamba_d_conv"] = linear.conv_width;
    document["mamba_conv_bias"] = linear.conv_bias;
    document["mamba_expand"] = linear.value_columns() / config.hidden_size;
    document["mamba_proj_bias"] = false;
  } else if (config.linear) {
    const LinearConfig& linear = *config.linear;
    Json types = Json::array();
    for (const bool is_linear : config.linear_layers) types.push_back(is_linear ? kLinear : kFull);
    document["layer_types"] = types;
    if (qwen) {
      document.erase("mlp_bias");
    } else {
      document["linear_layer"] = name_of(linear.layer);
    }
    document["linear_num_key_heads"] = linear.num_key_heads;
    document["linear_num_value_heads"] = linear.num_heads;
    document["linear_key_head_dim"] = linear.key_head_dim;
    document["linear_value_head_dim"] = linear.value_head_dim;
    document["linear_conv_kernel_dim"] = linear.conv_width;
    if (linear.layer == Layer::gla) document["linear_gate_low_rank_dim"] = linear.gate_low_rank_dim;
  }
  return document.dump(2) + "\n";
}

void write_config(const std::string& path, const ModelConfig& config) { write_file(path, config_json(config)); }

}  // namespace weft
