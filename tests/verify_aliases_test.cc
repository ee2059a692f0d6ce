// An alias is another method under its own name: the same schedule, instruction by instruction.
#include <gtest/gtest.h>

#include <algorithm>

#include "weft/methods/registry.h"
#include "weft/schedule/json.h"

namespace weft {
namespace {

// All programs, one instruction a line, without the method's name.
std::string program_text(std::string_view method, const Problem& problem,
                         const std::map<std::string, std::string>& options = {}) {
  const Schedule schedule = make_schedule(method, problem, options);
  return to_json(Schedule("any", schedule.shared_problem(), std::make_shared<const StoredSchedule>(schedule.store())));
}

TEST(Aliases, WriteTheSameSchedule) {
  int aliases = 0;
  for (const Method* alias : all_methods()) {
    if (alias->alias_of.empty()) continue;
    ++aliases;
    const Method& original = find_method(alias->alias_of);
    EXPECT_TRUE(original.alias_of.empty()) << alias->name;
    std::map<std::string, std::string> defaults;
    for (const MethodOption& option : alias->options) {
      defaults.emplace(option.name, option.fallback);
      EXPECT_EQ(std::count_if(original.options.begin(), original.options.end(),
                              [&](const MethodOption& o) { return o.name == option.name; }),
                1)
          << option.name;
    }
    for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{53}, {1, 20, 7, 30}, {2}}) {
      for (const MaskRule rule : {MaskRule{}, MaskRule{.causal = true}, MaskRule{.causal = true, .window = 9}}) {
        for (int ranks : {1, 2, 3, 5, 8}) {
          for (bool backward : {false, true}) {
            Problem problem =
                self_attention(Mask::documents(lengths, rule), layout_of(alias->name, lengths, ranks), 4, 2, 8);
            problem.backward = backward;
            EXPECT_EQ(program_text(alias->name, problem), program_text(alias->alias_of, problem, defaults))
                << alias->name << ", " << ranks << " ranks, " << to_string(rule);
          }
        }
      }
    }
  }
  EXPECT_EQ(aliases, 1);
}

// The alias names a value that the original does not have as its default: without it, the schedules differ.
TEST(Aliases, LssDiffersFromAllGatherInWhatItKeeps) {
  Problem problem = self_attention(Mask::of(53, {.causal = true}), layout_of("lss", {53}, 4), 4, 2, 8);
  problem.backward = true;
  EXPECT_NE(program_text("lss", problem), program_text("all-gather", problem));
  EXPECT_EQ(program_text("lss", problem, {{"backward", "refetch"}}), program_text("all-gather", problem));
}

}  // namespace
}  // namespace weft
