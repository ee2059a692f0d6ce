// Pictures of every method: golden tables, totals equal to the verifier's counts, SVG that is well formed and in which
// no text covers another.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "weft/draw/canvas.h"
#include "weft/draw/summary.h"
#include "weft/draw/svg.h"
#include "weft/draw/text.h"
#include "weft/methods/registry.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

Schedule schedule_of(std::string_view method, int ranks, int64_t tokens, bool backward,
                     MaskRule rule = {.causal = true}) {
  Problem problem = self_attention(Mask::of(tokens, rule), layout_of(method, {tokens}, ranks), 8, 2, 64);
  problem.backward = backward;
  return make_schedule(method, problem);
}

// Compares with tests/golden/NAME; WEFT_UPDATE_GOLDEN=1 writes it instead.
void expect_golden(const std::string& name, const std::string& text) {
  const std::string path = std::string(WEFT_SOURCE_DIR) + "/tests/golden/" + name;
  if (std::getenv("WEFT_UPDATE_GOLDEN")) {
    std::ofstream(path) << text;
    return;
  }
  std::ifstream file(path);
  std::stringstream golden;
  golden << file.rdbuf();
  EXPECT_EQ(text, golden.str()) << "if the change is meant, run with WEFT_UPDATE_GOLDEN=1";
}

TEST(DrawText, GoldenTables) {
  expect_golden("ring_4.txt", draw_text(schedule_of("ring", 4, 4096, true)));
  expect_golden("zigzag_4.txt", draw_text(schedule_of("zigzag", 4, 4096, true)));
  expect_golden("ulysses_4.txt", draw_text(schedule_of("ulysses", 4, 4096, false)));
  expect_golden("zigzag_12.txt", draw_text(schedule_of("zigzag", 12, 12288, false)));
}

TEST(DrawText, SaysWhatIsLeftOut) {
  const std::string text = draw_text(schedule_of("zigzag", 20, 4096, false), {.max_ranks = 16, .max_steps = 3});
  EXPECT_NE(text.find("ranks 0 to 15 of 20 are shown"), std::string::npos) << text;
  EXPECT_NE(text.find("later steps are not shown"), std::string::npos) << text;
  EXPECT_EQ(text.find("step 3"), std::string::npos) << text;
}

TEST(Describe, NamesMasks) {
  EXPECT_EQ(describe(Mask::of(9, {})), "full");
  EXPECT_EQ(describe(Mask::of(9, {.causal = true})), "causal");
  EXPECT_EQ(describe(Mask::of(9, {.window = 3})), "window:3");
  EXPECT_EQ(describe(Mask::of(9, {.causal = true, .window = 3})), "causal+window:3");
  EXPECT_EQ(describe(Mask::documents({4, 5}, {.causal = true})), "2 documents, causal");
  EXPECT_EQ(describe(Mask::cross(4, 9)), "full");
  EXPECT_EQ(describe(Mask::from_bands(9, 9, {{.q = {0, 4}, .k = {3, 5}}})), "1 mask rectangles");
  EXPECT_EQ(describe(Mask::from_bands(9, 9, {})), "empty mask");
}

class EveryMethod : public testing::TestWithParam<std::string_view> {};

TEST_P(EveryMethod, TotalsAreTheVerifiers) {
  for (int ranks : {1, 2, 3, 5, 8}) {
    for (const MaskRule& rule : {MaskRule{}, MaskRule{.causal = true}, MaskRule{.causal = true, .window = 31}}) {
      const Schedule schedule = schedule_of(GetParam(), ranks, 203, true, rule);
      const Report report = verify(schedule);
      const Summary summary = summarise(schedule, ranks);
      ASSERT_EQ(summary.totals.size(), report.ranks.size());
      for (size_t rank = 0; rank < report.ranks.size(); ++rank) {
        EXPECT_EQ(summary.totals[rank].work, static_cast<double>(report.ranks[rank].work));
        EXPECT_EQ(summary.totals[rank].work_backward, static_cast<double>(report.ranks[rank].work_backward));
        EXPECT_EQ(summary.totals[rank].bytes_sent, static_cast<double>(report.ranks[rank].bytes_sent));
        EXPECT_EQ(summary.totals[rank].messages, report.ranks[rank].messages);
        double shown = 0;
        for (const auto& row : summary.cells) shown += row[rank].work();
        EXPECT_EQ(shown, summary.totals[rank].work + summary.totals[rank].work_backward);
      }
    }
  }
}

// One text element, as far as its place goes.
struct Text {
  double left, right, top, bottom;
  std::string text;
};

std::string attribute(const std::string& tag, const std::string& name) {
  const std::string key = " " + name + "=\"";
  const size_t at = tag.find(key);
  if (at == std::string::npos) return "";
  const size_t begin = at + key.size();
  return tag.substr(begin, tag.find('"', begin) - begin);
}

// Reads the elements, checks that they nest, and collects the texts.
std::vector<Text> texts_of(const std::string& svg) {
  std::vector<std::string> open;
  std::vector<Text> texts;
  for (size_t at = svg.find('<'); at != std::string::npos; at = svg.find('<', at + 1)) {
    const size_t end = svg.find('>', at);
    EXPECT_NE(end, std::string::npos);
    if (end == std::string::npos) return texts;
    const std::string tag = svg.substr(at + 1, end - at - 1);
    if (tag[0] == '/') {
      EXPECT_FALSE(open.empty());
      EXPECT_EQ(open.back(), tag.substr(1));
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
      if (open.back() == "text") {
        const std::string text = svg.substr(end + 1, svg.find('<', end) - end - 1);
        if (text.empty()) continue;
        const double x = std::stod(attribute(tag, "x")), y = std::stod(attribute(tag, "y"));
        const double size = std::stod(attribute(tag, "font-size")), width = draw_internal::text_width(text, size);
        const std::string anchor = attribute(tag, "text-anchor");
        const double left = anchor == "middle" ? x - width / 2 : anchor == "end" ? x - width : x;
        texts.push_back({left, left + width, y - 0.72 * size, y + 0.05 * size, text});
      }
    }
  }
  EXPECT_TRUE(open.empty());
  return texts;
}

TEST_P(EveryMethod, SvgIsSoundAndReadable) {
  for (int ranks : {1, 2, 3, 4, 8, 9, 16, 17, 32, 40}) {
    for (bool backward : {false, true}) {
      const std::string svg = draw_svg(schedule_of(GetParam(), ranks, 8192, backward));
      EXPECT_EQ(svg.find("<script"), std::string::npos);
      EXPECT_EQ(svg.find("href"), std::string::npos);
      EXPECT_EQ(svg.find("nan"), std::string::npos);
      const std::string head = svg.substr(0, svg.find('>'));
      const double width = std::stod(attribute(head, "width")), height = std::stod(attribute(head, "height"));
      const std::vector<Text> texts = texts_of(svg);
      EXPECT_GT(texts.size(), 5u);
      for (size_t i = 0; i < texts.size(); ++i) {
        const Text& a = texts[i];
        EXPECT_TRUE(a.left >= 0 && a.right <= width && a.top >= 0 && a.bottom <= height) << a.text;
        for (size_t j = i + 1; j < texts.size(); ++j) {
          const Text& b = texts[j];
          const bool apart = a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
          ASSERT_TRUE(apart) << ranks << " ranks: '" << a.text << "' and '" << b.text << "'";
        }
      }
    }
  }
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

TEST(DrawSvg, LongNamesAndHostileOnes) {
  const Schedule plain = schedule_of("ring", 2, 64, false);
  const auto stored = std::make_shared<const StoredSchedule>(plain.store());
  const Schedule odd("<script>&\"" + std::string(150, 'w') + "\n\x01", plain.shared_problem(), stored);
  const std::string svg = draw_svg(odd);
  EXPECT_EQ(svg.find("<script"), std::string::npos);
  EXPECT_EQ(svg.find('\x01'), std::string::npos);
  texts_of(svg);
}

TEST(DrawSvg, ShowsTheFirstOfManyRanks) {
  const std::string svg = draw_svg(schedule_of("zigzag", 300, 8192, false));
  EXPECT_NE(svg.find("300 ranks, the first 128 shown"), std::string::npos);
  EXPECT_LT(svg.size(), 8'000'000u);
}

}  // namespace
}  // namespace weft
