#include "weft/model/parameters.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <numeric>

#include "weft/base/error.h"
#include "weft/files/atomic_file.h"
#include "weft/files/safetensors.h"

namespace weft {
namespace {

class ModelFilesTest : public ::testing::Test {
 protected:
  ModelFilesTest() {
    folder_ = ::testing::TempDir() + "model_files_test_" + std::to_string(::getpid());
    make_folder(folder_);
  }
  ~ModelFilesTest() override { std::filesystem::remove_all(folder_); }

  // Each tensor's values are its own numbers; gaps stay zero.
  static std::vector<float> numbered(const ParameterMap& map) {
    std::vector<float> out(static_cast<size_t>(map.size()));
    for (const Parameter& p : map.parameters()) {
      for (int64_t i = 0; i < p.count; ++i) {
        out[static_cast<size_t>(p.offset + i)] = static_cast<float>(p.offset + i);
      }
    }
    return out;
  }
  std::string folder_;
};

ErrorCode code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.code();
  }
  ADD_FAILURE() << "accepted";
  return ErrorCode::internal;
}

TEST(ModelConfigTest, RoundTripKeepsEverything) {
  for (const std::string_view name : model_preset_names()) {
    ModelConfig config = model_preset(name);
    EXPECT_EQ(parse_config(config_json(config), "x"), config);
    config.tie_word_embeddings = !config.tie_word_embeddings;
    config.eos_token_id.reset();
    config.rope_scaling = {RopeScaling::Kind::llama3, 8, 1, 4, 4096};
    EXPECT_EQ(parse_config(config_json(config), "x"), config);
    config.rope_scaling = {RopeScaling::Kind::linear, 2};
    EXPECT_EQ(parse_config(config_json(config), "x"), config);
  }
  EXPECT_NEAR(model_preset("small").parameter_count(), 5e6, 1e6);
  EXPECT_EQ(code_of([] { model_preset("smal"); }), ErrorCode::usage);
}

TEST(ModelConfigTest, MissingFieldsHaveTransformersDefaults) {
  const ModelConfig c = parse_config(
      R"({"vocab_size":300,"hidden_size":64,"intermediate_size":128,"num_hidden_layers":2,
          "num_attention_heads":4,"rope_scaling":null,"bos_token_id":1,"eos_token_id":[1,2]})",
      "x");
  EXPECT_EQ(c.num_key_value_heads, 4);
  EXPECT_EQ(c.head_dim, 16);
  EXPECT_EQ(c.rope_theta, 10000);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_FALSE(c.tie_word_embeddings);
}

TEST(ModelConfigTest, RefusesWhatItWouldComputeWrongly) {
  const std::string sizes =
      R"("vocab_size":300,"hidden_size":64,"intermediate_size":128,"num_hidden_layers":2,
         "num_attention_heads":4)";
  for (const std::string extra :
       {R"("attention_bias":true)", R"("mlp_bias":true)", R"("hidden_act":"gelu")", R"("model_type":"qwen2")",
        R"("rope_scaling":{"rope_type":"yarn","factor":4})", R"("rope_parameters":{"rope_type":"dynamic"})",
        R"("partial_rotary_factor":0.5)", R"("quantization_config":{})", R"("sliding_window":4096)"}) {
    SCOPED_TRACE(extra);
    EXPECT_EQ(code_of([&] { parse_config("{" + sizes + "," + extra + "}", "x"); }), ErrorCode::unsupported);
  }
  for (const std::string& text :
       {std::string(""), std::string("[]"), std::string("{}"), std::string("{\"vocab_size\":300}"),
        "{" + sizes + R"(,"head_dim":"a"})", "{" + sizes + R"(,"head_dim":15})", "{" + sizes + R"(,"head_dim":1e300})",
        "{" + sizes + R"(,"head_dim":-2})", "{" + sizes + R"(,"num_key_value_heads":3})",
        "{" + sizes + R"(,"rms_norm_eps":0})", "{" + sizes + R"(,"vocab_size":99999999999999999999})",
        "{" + sizes + R"(,"hidden_size":1048576,"intermediate_size":1048576})", "{" + sizes + R"(,"rope_scaling":[]})",
        "{" + sizes + R"(,"tie_word_embeddings":1})"}) {
    SCOPED_TRACE(text);
    EXPECT_EQ(code_of([&] { parse_config(text, "x"); }), ErrorCode::format);
  }
}

TEST(ParameterMapTest, LaysOutAlignedAndDisjoint) {
  const ModelConfig config = model_preset("tiny");
  const ParameterMap map(config);
  int64_t end = 0, count = 0;
  for (const Parameter& p : map.parameters()) {
    EXPECT_EQ(p.offset % 16, 0);
    EXPECT_GE(p.offset, end);
    end = p.offset + p.count;
    count += p.count;
  }
  EXPECT_LE(end, map.size());
  EXPECT_EQ(count, config.parameter_count());
}

TEST(ParameterMapTest, InitialisationIsNormalAndFollowsTheSeed) {
  const ParameterMap map(model_preset("tiny"));
  std::vector<float> a(static_cast<size_t>(map.size())), b = a, c = a;
  map.initialise(a, 1);
  map.initialise(b, 1);
  map.initialise(c, 2);
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
  const Parameter& p = map.at("model.layers.1.mlp.up_proj.weight");
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < p.count; ++i) {
    const double x = a[static_cast<size_t>(p.offset + i)];
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / static_cast<double>(p.count), 0, 1e-3);
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(p.count)), 0.02, 1e-3);
  EXPECT_EQ(a[static_cast<size_t>(map.at("model.norm.weight").offset)], 1);
}

TEST_F(ModelFilesTest, SaveAndLoadInOneOrManyFiles) {
  ModelConfig config = model_preset("tiny");
  for (const bool tied : {true, false}) {
    config.tie_word_embeddings = tied;
    const ParameterMap map(config);
    const std::vector<float> weights = numbered(map);
    for (const int64_t max_bytes : {int64_t{1} << 40, int64_t{20000}, int64_t{1}}) {
      map.save(folder_, config, weights, max_bytes);
      EXPECT_EQ(read_config(folder_ + "/config.json"), config);
      std::vector<float> read(weights.size(), -1);
      map.load(folder_, read);
      EXPECT_EQ(read, weights);
    }
    // The single file again, although the index of many files was there.
    std::vector<float> other(weights.size(), 0), read(weights.size());
    map.save(folder_, config, other);
    map.load(folder_, read);
    EXPECT_EQ(read, other);
  }
}

TEST_F(ModelFilesTest, ConvertsOtherTypes) {
  const ModelConfig config = model_preset("tiny");
  const ParameterMap map(config);
  std::vector<TensorToWrite> tensors;
  std::vector<std::vector<uint16_t>> halves;
  std::vector<std::vector<double>> doubles;
  for (const Parameter& p : map.parameters()) {
    const bool as_double = p.shape.size() == 1;
    if (as_double) {
      doubles.emplace_back(static_cast<size_t>(p.count), 1.5);
      tensors.push_back({p.name, StoredType::f64, p.shape, nullptr});
    } else {
      halves.emplace_back(static_cast<size_t>(p.count), uint16_t{0x3fc0});  // bf16 1.5
      tensors.push_back({p.name, StoredType::bf16, p.shape, nullptr});
    }
  }
  size_t d = 0, h = 0;
  for (TensorToWrite& t : tensors) {
    t.data = t.type == StoredType::f64 ? static_cast<const void*>(doubles[d++].data()) : halves[h++].data();
  }
  write_safetensors(folder_ + "/model.safetensors", tensors);
  std::vector<float> read(static_cast<size_t>(map.size()));
  map.load(folder_, read);
  for (const Parameter& p : map.parameters()) {
    EXPECT_EQ(read[static_cast<size_t>(p.offset + p.count - 1)], 1.5f);
  }
}

TEST_F(ModelFilesTest, RefusesFoldersThatDoNotFit) {
  const ModelConfig config = model_preset("tiny");
  const ParameterMap map(config);
  std::vector<float> weights(static_cast<size_t>(map.size()));
  const auto load = [&] { map.load(folder_, weights); };
  EXPECT_EQ(code_of(load), ErrorCode::io);  // nothing there
  ModelConfig other = config;
  other.num_hidden_layers = 1;
  const ParameterMap smaller(other);
  smaller.save(folder_, other, std::span(weights).first(static_cast<size_t>(smaller.size())));
  EXPECT_EQ(code_of(load), ErrorCode::format);  // tensors missing
  other.num_hidden_layers = 3;
  const ParameterMap larger(other);
  larger.save(folder_, other, std::vector<float>(static_cast<size_t>(larger.size())));
  EXPECT_EQ(code_of(load), ErrorCode::format);  // tensors without a place
  other.num_hidden_layers = 2;
  other.intermediate_size = 64;
  const ParameterMap narrower(other);
  narrower.save(folder_, other, std::vector<float>(static_cast<size_t>(narrower.size())));
  EXPECT_EQ(code_of(load), ErrorCode::format);  // wrong shape
  for (const std::string index : {"", "[]", "{\"weight_map\":1}", "{\"weight_map\":{\"a\":1}}",
                                  "{\"weight_map\":{\"a\":\"../../etc/passwd\"}}"}) {
    write_file(folder_ + "/model.safetensors.index.json", index);
    EXPECT_EQ(code_of(load), ErrorCode::format);
  }
  write_file(folder_ + "/model.safetensors.index.json", "{\"weight_map\":{\"a\":\"gone\"}}");
  EXPECT_EQ(code_of(load), ErrorCode::io);
}

}  // namespace
}  // namespace weft
