// Every method's schedule as a document and back; damaged documents are judged and drawn, never crash.
#include <gtest/gtest.h>

#include "weft/base/error.h"
#include "weft/base/random.h"
#include "weft/base/test_level.h"
#include "weft/draw/svg.h"
#include "weft/draw/text.h"
#include "weft/methods/registry.h"
#include "weft/schedule/json.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

Problem problem_of(std::string_view method, const std::vector<int64_t>& lengths, MaskRule rule, int ranks) {
  Problem problem = self_attention(Mask::documents(lengths, rule), layout_of(method, lengths, ranks), 6, 2, 16);
  problem.backward = true;
  return problem;
}

class EveryMethod : public testing::TestWithParam<std::string_view> {};

TEST_P(EveryMethod, RoundTripIsExactAndProved) {
  for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{97}, {1, 40, 7, 30}, {2}}) {
    for (const MaskRule& rule : {MaskRule{}, MaskRule{.causal = true}, MaskRule{.causal = true, .window = 9}}) {
      for (int ranks : {1, 2, 3, 4, 7}) {
        const Schedule written = make_schedule(GetParam(), problem_of(GetParam(), lengths, rule, ranks));
        const std::string text = to_json(written);
        const Schedule read = schedule_from_json(text);
        ASSERT_EQ(to_json(read), text);
        const Report one = verify(written), two = verify(read);
        ASSERT_TRUE(two.ok()) << two.problems[0].text;
        ASSERT_EQ(one.instructions, two.instructions);
        for (size_t rank = 0; rank < one.ranks.size(); ++rank) {
          EXPECT_EQ(one.ranks[rank].work, two.ranks[rank].work);
          EXPECT_EQ(one.ranks[rank].work_backward, two.ranks[rank].work_backward);
          EXPECT_EQ(one.ranks[rank].bytes_sent, two.ranks[rank].bytes_sent);
          EXPECT_EQ(one.ranks[rank].messages, two.ranks[rank].messages);
          EXPECT_EQ(one.ranks[rank].live_bytes, two.ranks[rank].live_bytes);
        }
      }
    }
  }
}

// One number of a valid document changed, or one line dropped, doubled or swapped with the next: whatever can still be
// read is judged.
TEST_P(EveryMethod, DamagedDocumentsAreJudged) {
  const std::string valid = to_json(make_schedule(GetParam(), problem_of(GetParam(), {30, 11}, {.causal = true}, 3)));
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < valid.size();) {
    const size_t end = valid.find('\n', begin);
    lines.push_back(valid.substr(begin, end - begin));
    begin = end + 1;
  }
  Random random(11);
  const auto below = [&](size_t end) { return static_cast<size_t>(random.uniform(static_cast<int64_t>(end))); };
  const auto is_instruction = [](const std::string& line) { return line.starts_with("      {\"op\""); };
  int judged = 0, wrong = 0;
  const int trials = test_level() == 0 ? 100 : test_level() == 1 ? 500 : 5000;
  for (int trial = 0; trial < trials; ++trial) {
    std::vector<std::string> changed = lines;
    size_t at = below(lines.size() - 1);
    while (!is_instruction(lines[at]) || !is_instruction(lines[at + 1]) || !lines[at].ends_with(',') ||
           !lines[at + 1].ends_with(',')) {
      at = below(lines.size() - 1);
    }
    switch (below(4)) {
      case 0: changed.erase(changed.begin() + static_cast<int64_t>(at)); break;
      case 1: changed.insert(changed.begin() + static_cast<int64_t>(at), lines[at]); break;
      case 2: std::swap(changed[at], changed[at + 1]); break;
      default: {
        std::string& line = changed[at];
        const size_t digit = line.find_first_of("0123456789", below(line.size()));
        if (digit != std::string::npos) line[digit] = static_cast<char>('0' + below(10));
        if (below(4) == 0 && digit != std::string::npos) line.insert(digit, "1234567");
      }
    }
    std::string text;
    for (const std::string& line : changed) text += line + "\n";
    try {
      const Schedule schedule = schedule_from_json(text);
      ++judged;
      VerifyOptions options;
      options.explain = trial % 4 == 0;
      wrong += !verify(schedule, options).ok();
      const std::string once = to_json(schedule);
      ASSERT_EQ(to_json(schedule_from_json(once)), once);
      if (trial % 5 == 0) {
        draw_text(schedule);
        draw_svg(schedule);
      }
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::format) << error.what();
    }
  }
  EXPECT_GT(judged, trials / 2);
  EXPECT_GT(wrong, trials / 4);
}

std::vector<std::string_view> names() {
  std::vector<std::string_view> result;
  for (const Method* method : all_methods()) result.push_back(method->name);
  return result;
}

INSTANTIATE_TEST_SUITE_P(Methods, EveryMethod, testing::ValuesIn(names()), [](const auto& test) {
  std::string name(test.param);
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
});

}  // namespace
}  // namespace weft
