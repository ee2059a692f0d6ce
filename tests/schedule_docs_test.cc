// docs/schedule.md says what the format is: its example must be a document that is read, proved and written again as it
// stands, and every name of the format must be in it.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "weft/methods/registry.h"
#include "weft/schedule/json.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

std::string page() {
  std::ifstream file(WEFT_SOURCE_DIR "/docs/schedule.md");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string example() {
  const std::string text = page();
  const size_t at = text.find("```json\n") + 8;
  return text.substr(at, text.find("```", at) - at);
}

TEST(ScheduleDocs, ExampleIsReadProvedAndWrittenAgain) {
  const Schedule schedule = schedule_from_json(example());
  const Report report = verify(schedule);
  EXPECT_TRUE(report.ok()) << report.problems[0].text;
  EXPECT_EQ(to_json(schedule), example());
}

TEST(ScheduleDocs, ExampleIsWhatTheProgramPrints) {
  const Problem problem = self_attention(Mask::of(4, {.causal = true}), layout_of("ring", {4}, 2), 1, 1, 8);
  EXPECT_EQ(to_json(make_schedule("ring", problem)), example());
}

TEST(ScheduleDocs, EveryNameIsExplained) {
  const std::string text = page();
  const auto named = [&](std::string_view name) {
    std::string plain, quoted;
    plain.append("`").append(name).append("`");
    quoted.append("`\"").append(name).append("\"`");
    return text.find(plain) != std::string::npos || text.find(quoted) != std::string::npos;
  };
  for (int i = 0; i < kOpCount; ++i) EXPECT_TRUE(named(name_of(static_cast<Op>(i)))) << i;
  for (int i = 0; i < kFieldCount; ++i) EXPECT_TRUE(named(name_of(static_cast<Field>(i)))) << i;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(named(name_of(static_cast<Combine>(i)))) << i;
  for (const char* name :
       {"tokens",  "key_tokens", "heads",  "kv_heads", "head_dim",     "value_dim", "scale",   "backward", "return_lse",
        "dtype",   "wire",       "mask",   "layout",   "key_layout",   "op",        "step",    "lane",     "send",
        "receive", "value",      "form",   "whole",    "accumulating", "fields",    "queries", "keys",     "bundles",
        "sources", "targets",    "format", "version",  "method",       "problem",   "programs"}) {
    EXPECT_TRUE(named(name)) << name;
  }
}

}  // namespace
}  // namespace weft
