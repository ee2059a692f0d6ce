#include "weft/model/parameters.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "weft/base/dtype.h"
#include "weft/base/error.h"
#include "weft/base/random.h"
#include "weft/base/text.h"
#include "weft/files/atomic_file.h"
#include "weft/files/safetensors.h"

namespace weft {

namespace {

constexpr int64_t kAlignment = 16;  // elements: 64 bytes
constexpr double kDeviation = 0.02;
constexpr const char* kIndex = "model.safetensors.index.json";

template <typename Stored, typename Convert>
void convert(std::span<const std::byte> from, float* to, int64_t count, Convert convert_one) {
  for (int64_t i = 0; i < count; ++i) {
    Stored value;  // through memcpy: the file need not align its tensors
    std::memcpy(&value, from.data() + i * static_cast<int64_t>(sizeof(Stored)), sizeof(Stored));
    to[i] = convert_one(value);
  }
}

void copy_as_float(const SafetensorsFile& file, const StoredTensor& tensor, float* to) {
  const auto bytes = file.data(tensor);
  const int64_t count = tensor.elements();
  switch (tensor.type) {
    case StoredType::f32:
      if (count > 0) std::memcpy(to, bytes.data(), bytes.size());
      return;
    case StoredType::f64: return convert<double>(bytes, to, count, [](double x) { return static_cast<float>(x); });
    case StoredType::bf16: return convert<uint16_t>(bytes, to, count, bf16_to_float);
    case StoredType::f16: return convert<uint16_t>(bytes, to, count, fp16_to_float);
    default:
      throw Error(ErrorCode::unsupported, file.path() + ": tensor " + tensor.name + " has type " +
                                              std::string(name_of(tensor.type)) +
                                              "; weights must be F64, F32, F16 or BF16 (not quantised)");
  }
}

std::string shape_text(const std::vector<int64_t>& shape) { return "[" + join(shape) + "]"; }

// The safetensors files of a model folder.
std::vector<std::string> weight_files(const std::string& folder) {
  const std::string index = folder + "/" + kIndex;
  if (::access(index.c_str(), F_OK) != 0) return {folder + "/model.safetensors"};
  const auto document = nlohmann::json::parse(read_file(index), nullptr, false);
  const auto fail = [&](const std::string& problem) { return Error(ErrorCode::format, index + " " + problem); };
  if (document.is_discarded() || !document.is_object() || !document.contains("weight_map") ||
      !document["weight_map"].is_object()) {
    throw fail("is not JSON with an object weight_map");
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : document["weight_map"].items()) {
    if (!file.is_string()) throw fail("names no file for tensor " + in_quotes(tensor));
    const auto& name = file.get_ref<const std::string&>();
    // The index comes with the model, from anywhere: it must not reach out of the folder.
    if (name.empty() || name.find('/') != std::string::npos) {
      throw fail("names " + in_quotes(name) + ", which is not a file of its folder");
    }
    names.insert(folder + "/" + name);
  }
  return {names.begin(), names.end()};
}

double first_value(Start start, Random& random) {
  switch (start) {
    case Start::normal: return kDeviation * random.normal();
    case Start::ones: return 1;
    case Start::zeros: return 0;
    case Start::taps: return random.uniform() - 0.5;
    case Start::log_rate: return std::log(1 + 15 * random.uniform());
    case Start::time_step: {
      const double step = 0.001 * std::pow(100, random.uniform());
      return step + std::log(-std::expm1(-step));
    }
  }
  throw Error(ErrorCode::internal, "a parameter begins in no known way");
}

}  // namespace

LayerNames layer_names(const ModelConfig& config) {
  if (config.architecture != Architecture::bamba) return {};
  return {.linear = "mamba.",
          .mlp = "feed_forward.",
          .post_norm = "pre_ff_layernorm.weight",
          .final_norm = "model.final_layernorm.weight"};
}

ParameterMap::ParameterMap(const ModelConfig& config) {
  config.check();
  const auto align = [&] { size_ = (size_ + kAlignment - 1) / kAlignment * kAlignment; };
  const auto add_next = [&](std::string name, std::vector<int64_t> shape, bool decays, Start start = Start::normal) {
    int64_t count = 1;  // cannot overflow: the config was checked
    for (const int64_t extent : shape) count *= extent;
    parameters_.push_back({std::move(name), std::move(shape), size_, count, decays, start});
    size_ += count;
  };
  const auto add = [&](std::string name, std::vector<int64_t> shape, bool decays, Start start = Start::normal) {
    add_next(std::move(name), std::move(shape), decays, start);
    align();
  };
  const LayerNames names = layer_names(config);
  const bool qwen = config.architecture == Architecture::qwen3_5;
  // Of norms that multiply by 1 + weight, 0 is no change.
  const auto add_norm = [&](std::string name, int64_t columns) {
    add(std::move(name), {columns}, false, qwen ? Start::zeros : Start::ones);
  };
  const int64_t hidden = config.hidden_size;
  const int64_t o_size = config.num_attention_heads * config.head_dim;
  const int64_t q_size = config.gated_attention() ? 2 * o_size : o_size;
  const int64_t kv_size = config.num_key_value_heads * config.head_dim;
  add("model.embed_tokens.weight", {config.vocab_size, hidden}, false);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    add_norm(layer + "input_layernorm.weight", hidden);
    if (config.is_linear(i)) {
      const LinearConfig& linear = *config.linear;
      const std::string l = layer + names.linear;
      const int64_t heads = linear.num_heads, keys = linear.key_columns(), values = linear.value_columns();
      const bool mamba = linear.layer == Layer::mamba2;
      if (mamba) {
        add(l + "in_proj.weight", {linear.input_rows(), hidden}, true);
      } else if (qwen) {
        add_next(l + "in_proj_qkv.weight", {linear.mixed_columns(), hidden}, true);
      } else {
        add_next(l + "q_proj.weight", {keys, hidden}, true);
        add_next(l + "k_proj.weight", {keys, hidden}, true);
        add_next(l + "v_proj.weight", {values, hidden}, true);
      }
      if (!mamba) add_next(l + (qwen ? "in_proj_z.weight" : "g_proj.weight"), {values, hidden}, true);
      if (linear.layer == Layer::gla) {
        const int64_t gates = heads * linear.key_head_dim;
        add(l + "gk_proj.0.weight", {linear.gate_low_rank_dim, hidden}, true);
        add(l + "gk_proj.1.weight", {gates, linear.gate_low_rank_dim}, true);
        add(l + "gk_proj.1.bias", {gates}, false, Start::zeros);
      } else {
        if (!mamba) {
          add_next(l + (qwen ? "in_proj_b.weight" : "b_proj.weight"), {heads, hidden}, true);
          add(l + (qwen ? "in_proj_a.weight" : "a_proj.weight"), {heads, hidden}, true);
        }
        if (mamba) add(l + "D", {heads}, false, Start::ones);
        add(l + "A_log", {heads}, false, Start::log_rate);
        add(l + "dt_bias", {heads}, false, Start::time_step);
      }
      if (linear.conv_width > 1) {
        add(l + "conv1d.weight", {linear.mixed_columns(), 1, linear.conv_width}, true, Start::taps);
        if (linear.conv_bias) add(l + "conv1d.bias", {linear.mixed_columns()}, false, Start::zeros);
      }
      add(l + "norm.weight", {mamba ? values : linear.value_head_dim}, false, Start::ones);
      add(l + (qwen || mamba ? "out_proj.weight" : "o_proj.weight"), {hidden, values}, true);
    } else {
      add_next(layer + "self_attn.q_proj.weight", {q_size, hidden}, true);
      add_next(layer + "self_attn.k_proj.weight", {kv_size, hidden}, true);
      add(layer + "self_attn.v_proj.weight", {kv_size, hidden}, true);
      add(layer + "self_attn.o_proj.weight", {hidden, o_size}, true);
      if (config.gated_attention()) {
        add_norm(layer + "self_attn.q_norm.weight", config.head_dim);
        add_norm(layer + "self_attn.k_norm.weight", config.head_dim);
      }
    }
    add_norm(layer + names.post_norm, hidden);
    add_next(layer + names.mlp + "gate_proj.weight", {config.intermediate_size, hidden}, true);
    add(layer + names.mlp + "up_proj.weight", {config.intermediate_size, hidden}, true);
    add(layer + names.mlp + "down_proj.weight", {hidden, config.intermediate_size}, true);
  }
  add_norm(names.final_norm, hidden);
  if (!config.tie_word_embeddings) add("lm_head.weight", {config.vocab_size, hidden}, true);
}

const Parameter& ParameterMap::at(std::string_view name) const {
  for (const Parameter& parameter : parameters_) {
    if (parameter.name == name) return parameter;
  }
  throw Error(ErrorCode::internal, "there is no parameter " + std::string(name));
}

void ParameterMap::initialise(std::span<float> weights, uint64_t seed) const {
  WEFT_CHECK(static_cast<int64_t>(weights.size()) == size_);
  std::fill(weights.begin(), weights.end(), 0.0f);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& parameter = parameters_[i];
    const auto part = weights.subspan(static_cast<size_t>(parameter.offset), static_cast<size_t>(parameter.count));
    Random random(seed, i);
    for (float& weight : part) weight = static_cast<float>(first_value(parameter.start, random));
  }
}

void ParameterMap::load(const std::string& folder, std::span<float> weights) const {
  WEFT_CHECK(static_cast<int64_t>(weights.size()) == size_);
  std::fill(weights.begin(), weights.end(), 0.0f);
  std::map<std::string_view, const Parameter*> missing;
  for (const Parameter& parameter : parameters_) missing.emplace(parameter.name, &parameter);
  const bool tied = !missing.contains("lm_head.weight");
  for (const std::string& path : weight_files(folder)) {
    const SafetensorsFile file(path);
    for (const StoredTensor& tensor : file.tensors()) {
      const auto found = missing.find(tensor.name);
      if (found == missing.end()) {
        // Tables that older writers stored, and the second name of a tied matrix, carry nothing new.
        if (tensor.name.ends_with(".rotary_emb.inv_freq")) continue;
        if (tensor.name.starts_with("mtp.")) continue;  // layers that guess further tokens, beside the model
        if (tied && tensor.name == "lm_head.weight") continue;
        throw Error(ErrorCode::format, path + " has a tensor " + in_quotes(tensor.name) +
                                           " that its config.json has no place for, or has it twice");
      }
      const Parameter& parameter = *found->second;
      if (tensor.shape != parameter.shape) {
        throw Error(ErrorCode::format, path + ": tensor " + tensor.name + " has shape " + shape_text(tensor.shape) +
                                           "; config.json says " + shape_text(parameter.shape));
      }
      copy_as_float(file, tensor, weights.data() + parameter.offset);
      missing.erase(found);
    }
  }
  if (!missing.empty()) {
    throw Error(ErrorCode::format, folder + " lacks " + std::to_string(missing.size()) + " tensors, e.g. " +
                                       missing.begin()->second->name);
  }
}

void ParameterMap::save(const std::string& folder, const ModelConfig& config, std::span<const float> weights,
                        int64_t max_file_bytes) const {
  WEFT_CHECK(static_cast<int64_t>(weights.size()) == size_);
  make_folder(folder);
  write_config(folder + "/config.json", config);
  std::vector<std::vector<TensorToWrite>> files(1);
  int64_t bytes = 0, total = 0;
  for (const Parameter& parameter : parameters_) {
    const int64_t more = parameter.count * 4;
    if (bytes > 0 && bytes + more > max_file_bytes) {
      files.emplace_back();
      bytes = 0;
    }
    bytes += more;
    total += more;
    files.back().push_back({parameter.name, StoredType::f32, parameter.shape, weights.data() + parameter.offset});
  }
  // transformers refuses files without this entry.
  const std::map<std::string, std::string> metadata = {{"format", "pt"}};
  const std::string index = folder + "/" + kIndex;
  if (files.size() == 1) {
    write_safetensors(folder + "/model.safetensors", files[0], metadata);
    ::unlink(index.c_str());  // of an earlier, larger model: readers would prefer it
    return;
  }
  const auto five_digits = [](size_t n) {
    const std::string digits = std::to_string(n);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  nlohmann::ordered_json weight_map = nlohmann::ordered_json::object();
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string name = "model-" + five_digits(i + 1) + "-of-" + five_digits(files.size()) + ".safetensors";
    write_safetensors(folder + "/" + name, files[i], metadata);
    for (const TensorToWrite& tensor : files[i]) weight_map[tensor.name] = name;
  }
  const nlohmann::ordered_json document = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  write_file(index, document.dump(2) + "\n");
}

}  // namespace weft
