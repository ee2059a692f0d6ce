#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/testing.h"
#include "weft/files/atomic_file.h"

namespace weft::cli {
namespace {

TEST(TorchCommands, EachHasHelpWithAnExample) { expect_help_with_an_example(torch_commands()); }

TEST(TorchCommands, ExamplesAreReadable) { expect_readable_examples(torch_commands()); }

// weft gives way to them by name, and lists them with these summaries.
TEST(TorchCommands, AreThoseThatWeftStandsFor) {
  std::vector<std::pair<std::string, std::string>> here, there;
  for (const Command& command : torch_commands()) here.emplace_back(command.name(), command.summary());
  for (const Command& command : all_commands()) {
    if (!command.why_unavailable().empty()) there.emplace_back(command.name(), command.summary());
  }
  EXPECT_EQ(here, there);
}

// A hybrid of linear layers and attention, by its config.json: the same loss for every number of ranks and every method.
TEST(TorchCommands, TrainAndEvalTakeAHybridByItsConfig) {
  const std::string folder = ::testing::TempDir() + "train_config_" + std::to_string(::getpid());
  make_folder(folder + "/text");
  for (const char* name : {"a", "b", "c"})
    write_file(folder + "/text/" + name, std::string(90, name[0]) + " and so on");
  const std::string config = folder + "/config.json";
  const auto last_loss = [&](const std::string& layer, const std::string& arguments) {
    write_file(config, R"({"model_type": "weft_hybrid", "vocab_size": 257, "hidden_size": 32, "intermediate_size": 48,
      "num_hidden_layers": 4, "num_attention_heads": 2, "full_attention_interval": 4, "linear_num_value_heads": 2,
      "linear_key_head_dim": 8, "linear_value_head_dim": 12, "linear_layer": ")" +
                           layer + "\"}");
    const Outcome run = run_with(torch_commands(), words_of("train --text " + folder +
                                                            "/text --tokens 120 --steps 3 --json "
                                                            "--model-config " +
                                                            config + arguments));
    EXPECT_EQ(run.code, 0) << (run.complaints.empty() ? "" : run.complaints[0]);
    return run.code == 0 ? nlohmann::json::parse(run.out)["last_loss"].get<double>() : NAN;
  };
  for (const char* layer : {"gdn", "gla"}) {
    const double one = last_loss(layer, " --ranks 1 --out " + folder + "/" + layer);
    for (const char* other : {" --ranks 2", " --ranks 3 --linear-method log-step", " --ranks 2 --method ulysses"}) {
      EXPECT_NEAR(last_loss(layer, other), one, 1e-5 * one) << layer << other;
    }
    const Outcome eval =
        run_with(torch_commands(), words_of("eval --model " + folder + "/" + layer + "/model --text " + folder +
                                            "/text --tokens 120 --ranks 2 --linear-method chain --json"));
    EXPECT_EQ(eval.code, 0);
  }
  const auto complaint_of = [&](const std::string& arguments) {
    const Outcome run = run_with(torch_commands(), words_of("train --text " + folder +
                                                            "/text --tokens 120 --model-config " + config + arguments));
    EXPECT_NE(run.code, 0);
    EXPECT_EQ(run.complaints.size(), 1u);
    return run.complaints.empty() ? "" : run.complaints[0];
  };
  EXPECT_TRUE(has(complaint_of(" --model tiny"), "--model-config and --model both say what the model is"));
  EXPECT_TRUE(has(complaint_of(" --init " + folder), "--model-config and --init"));
  EXPECT_TRUE(has(complaint_of(" --linear-method zigzag"), "computes softmax attention, not layer gla"));
  EXPECT_TRUE(has(complaint_of(" --method striped --ranks 2"), "neighbouring tokens"));
  // A model without linear layers, however it is given, has nothing to run by such a method.
  const std::string plain = folder + "/plain", text = " --text " + folder + "/text --tokens 120 ";
  ASSERT_EQ(run_with(torch_commands(), words_of("train --steps 1 --model tiny --out " + plain + text)).code, 0);
  for (const std::string& line :
       {"train --model tiny" + text, "train --init " + plain + "/model" + text,
        "train --steps 2 --resume " + plain + " ", "eval --model " + plain + "/model" + text}) {
    const Outcome run = run_with(torch_commands(), words_of(line + "--linear-method chain"));
    EXPECT_EQ(run.code, 2) << line;
    ASSERT_EQ(run.complaints.size(), 1u) << line;
    EXPECT_TRUE(has(run.complaints[0], "--linear-method chain: the model has no linear layers")) << run.complaints[0];
  }
  EXPECT_EQ(run_with(torch_commands(), words_of("train --steps 2 --resume " + plain)).code, 0);
  write_file(config, R"({"model_type": "qwen3_next", "vocab_size": 257})");
  EXPECT_TRUE(has(complaint_of(""), "llama, qwen3_5_text, bamba and weft_hybrid are supported"));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace weft::cli
