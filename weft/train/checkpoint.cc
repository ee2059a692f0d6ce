#include "weft/train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "weft/base/error.h"
#include "weft/files/atomic_file.h"
#include "weft/files/safetensors.h"

namespace weft {

namespace fs = std::filesystem;

namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr const char* kPrefix = "step-";
constexpr const char* kFirst = "exp_avg.";
constexpr const char* kSecond = "exp_avg_sq.";

// N of "step-N"; nothing for other names, temporary ones among them.
std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const char* begin = name.data() + std::strlen(kPrefix);
  const char* end = name.data() + name.size();
  int64_t step = 0;
  const auto [rest, error] = std::from_chars(begin, end, step);
  if (error != std::errc() || rest != end || step < 0) return std::nullopt;
  return step;
}

std::vector<int64_t> steps_in(const std::string& folder) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (const auto step = step_of(it->path().filename().string())) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::string step_folder(const std::string& folder, int64_t step) {
  return folder + "/" + kPrefix + std::to_string(step);
}

Json options_json(const TrainOptions& o) {
  return {{"text", o.text},
          {"out", o.out},
          {"dtype", name_of(o.dtype)},
          {"ranks", o.ranks},
          {"tokens", o.tokens},
          {"sequences_per_step", o.sequences_per_step},
          {"steps", o.steps},
          {"lr", o.lr},
          {"final_lr_share", o.final_lr_share},
          {"warmup_steps", o.warmup_steps},
          {"clip", o.clip},
          {"beta1", o.adam.beta1},
          {"beta2", o.adam.beta2},
          {"eps", o.adam.eps},
          {"weight_decay", o.adam.weight_decay},
          {"seed", o.seed},
          {"checkpoint_every", o.checkpoint_every},
          {"keep_checkpoints", o.keep_checkpoints},
          {"notes", o.notes}};
}

TrainOptions options_of(const Json& json) {
  TrainOptions o;
  json.at("text").get_to(o.text);
  json.at("out").get_to(o.out);
  o.dtype = dtype_of(json.at("dtype").get<std::string>());
  json.at("ranks").get_to(o.ranks);
  json.at("tokens").get_to(o.tokens);
  json.at("sequences_per_step").get_to(o.sequences_per_step);
  json.at("steps").get_to(o.steps);
  json.at("lr").get_to(o.lr);
  json.at("final_lr_share").get_to(o.final_lr_share);
  json.at("warmup_steps").get_to(o.warmup_steps);
  json.at("clip").get_to(o.clip);
  json.at("beta1").get_to(o.adam.beta1);
  json.at("beta2").get_to(o.adam.beta2);
  json.at("eps").get_to(o.adam.eps);
  json.at("weight_decay").get_to(o.adam.weight_decay);
  json.at("seed").get_to(o.seed);
  json.at("checkpoint_every").get_to(o.checkpoint_every);
  json.at("keep_checkpoints").get_to(o.keep_checkpoints);
  json.at("notes").get_to(o.notes);
  return o;
}

}  // namespace

std::string write_checkpoint(const std::string& folder, const CheckpointState& state, const ParameterMap& map,
                             std::span<const float> weights, std::span<const float> first_moment,
                             std::span<const float> second_moment) {
  const std::string path = step_folder(folder, state.step);
  AtomicFolder target(path);
  map.save(target.path(), state.options.model, weights);
  std::vector<TensorToWrite> moments;
  for (const Parameter& p : map.parameters()) {
    moments.push_back({kFirst + p.name, StoredType::f32, p.shape, first_moment.data() + p.offset});
    moments.push_back({kSecond + p.name, StoredType::f32, p.shape, second_moment.data() + p.offset});
  }
  write_safetensors(target.path() + "/optimizer.safetensors", moments);
  const Json document = {{"format", "weft-checkpoint"},
                         {"version", kVersion},
                         {"step", state.step},
                         {"data",
                          {{"epoch", state.data.epoch},
                           {"document", state.data.document},
                           {"offset", state.data.offset},
                           {"fingerprint", state.corpus_fingerprint}}},
                         {"options", options_json(state.options)}};
  // Paths need not be UTF-8: what is not is replaced.
  write_file(target.path() + "/state.json", document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  target.commit();
  return path;
}

std::string find_checkpoint(const std::string& path) {
  std::error_code error;
  fs::path clean = fs::path(path).lexically_normal();
  if (!clean.has_filename()) clean = clean.parent_path();  // "out/" means "out"
  const std::string folder = clean.string();
  if (!fs::is_directory(folder, error)) {
    throw Error(ErrorCode::usage, "there is no folder " + path + " to resume from");
  }
  if (fs::exists(folder + "/state.json", error)) return folder;
  for (const std::string& place : {folder + "/checkpoints", folder}) {
    const std::vector<int64_t> steps = steps_in(place);
    if (!steps.empty()) return step_folder(place, steps.back());
  }
  throw Error(ErrorCode::usage, "there is no checkpoint in " + path +
                                    "; give a folder that training wrote with --out, or a step-N folder in it");
}

CheckpointState read_checkpoint_state(const std::string& folder) {
  const std::string path = folder + "/state.json";
  CheckpointState state;
  try {
    const Json document = Json::parse(read_file(path, size_t{16} << 20));
    if (document.at("format") != "weft-checkpoint" || document.at("version") != kVersion) {
      throw Error(ErrorCode::format, path + " is not a weft checkpoint of version " + std::to_string(kVersion));
    }
    document.at("step").get_to(state.step);
    const Json& data = document.at("data");
    data.at("epoch").get_to(state.data.epoch);
    data.at("document").get_to(state.data.document);
    data.at("offset").get_to(state.data.offset);
    data.at("fingerprint").get_to(state.corpus_fingerprint);
    state.options = options_of(document.at("options"));
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorCode::format, path + " is damaged: " + error.what());
  }
  state.options.model = read_config(folder + "/config.json");
  if (state.step < 0) throw Error(ErrorCode::format, path + " has a negative step");
  return state;
}

void read_checkpoint_arrays(const std::string& folder, const ParameterMap& map, std::span<float> weights,
                            std::span<float> first_moment, std::span<float> second_moment) {
  map.load(folder, weights);
  const SafetensorsFile file(folder + "/optimizer.safetensors");
  for (const Parameter& parameter : map.parameters()) {
    for (const auto& [prefix, array] : {std::pair{kFirst, first_moment}, {kSecond, second_moment}}) {
      const StoredTensor* tensor = file.find(prefix + parameter.name);
      if (tensor == nullptr || tensor->type != StoredType::f32 || tensor->shape != parameter.shape) {
        throw Error(ErrorCode::format,
                    file.path() + " lacks " + prefix + parameter.name + " or has it in another shape");
      }
      const auto bytes = file.data(*tensor);
      std::memcpy(array.data() + parameter.offset, bytes.data(), bytes.size());
    }
  }
}

void remove_old_checkpoints(const std::string& folder, int64_t keep, int64_t newest) {
  if (keep <= 0) return;
  std::vector<int64_t> steps = steps_in(folder);
  std::erase_if(steps, [&](int64_t step) { return step > newest; });
  for (int64_t i = 0; i + keep < static_cast<int64_t>(steps.size()); ++i) {
    std::error_code ignored;  // a folder that cannot be removed is no reason to stop training
    fs::remove_all(step_folder(folder, steps[static_cast<size_t>(i)]), ignored);
  }
}

}  // namespace weft
