#include "weft/mask/mask.h"

#include "weft/mask/testing.h"

namespace weft {
namespace {

// What the rule says in words, pair by pair.
PairTable documents_table(const std::vector<int64_t>& lengths, const MaskRule& rule) {
  std::vector<size_t> document;
  for (size_t d = 0; d < lengths.size(); ++d) {
    document.insert(document.end(), static_cast<size_t>(lengths[d]), d);
  }
  const auto tokens = static_cast<int64_t>(document.size());
  PairTable table(tokens, tokens);
  for (int64_t q = 0; q < tokens; ++q) {
    for (int64_t k = 0; k < tokens; ++k) {
      bool allowed = document[static_cast<size_t>(q)] == document[static_cast<size_t>(k)];
      if (rule.causal && k > q) allowed = false;
      if (rule.window > 0 && std::abs(q - k) >= rule.window) allowed = false;
      table.at(q, k) = allowed;
    }
  }
  return table;
}

TEST(MaskRule, GoodTextsAreReadAndPrinted) {
  EXPECT_EQ(parse_mask_rule("full"), (MaskRule{}));
  EXPECT_EQ(parse_mask_rule("causal"), (MaskRule{.causal = true}));
  EXPECT_EQ(parse_mask_rule("window:1"), (MaskRule{.window = 1}));
  EXPECT_EQ(parse_mask_rule("causal+window:256"), (MaskRule{.causal = true, .window = 256}));
  EXPECT_EQ(parse_mask_rule("window:2147483647"), (MaskRule{.window = kMost}));
  for (const char* text : {"full", "causal", "window:7", "causal+window:2147483647"}) {
    EXPECT_EQ(to_string(parse_mask_rule(text)), text);
  }
}

TEST(MaskRule, BadTextsAreRefused) {
  for (const char* text : {"",
                           " ",
                           "Full",
                           "full ",
                           " full",
                           "causal+",
                           "causal+full",
                           "causal+causal",
                           "window",
                           "window:",
                           "window:0",
                           "window:-1",
                           "window:+1",
                           "window: 1",
                           "window:1 ",
                           "window:1.5",
                           "window:1e3",
                           "window:0x10",
                           "window:2147483648",
                           "window:99999999999999999999999",
                           "window:-99999999999999999999999",
                           "causal+window:",
                           "causal+window:0",
                           "window:5+causal",
                           "causal window:5",
                           "causal,window:5",
                           "fullcausal",
                           "sliding",
                           "windows:5"}) {
    const std::string message = refusal([&] { parse_mask_rule(text); });
    EXPECT_NE(message.find("causal+window:W"), std::string::npos) << message;
  }
}

TEST(Mask, DocumentsAgreeWithTheRulePairByPair) {
  Random random(1);
  for (int trial = 0; trial < 400; ++trial) {
    const std::vector<int64_t> lengths = random_lengths(random, 8, 9);
    const MaskRule rule = random_rule(random);
    const Mask mask = Mask::documents(lengths, rule);
    ASSERT_NO_FATAL_FAILURE(expect_is(mask, documents_table(lengths, rule))) << to_string(rule);
    ASSERT_EQ(mask.bands().size(), lengths.size());
    if (lengths.size() == 1) {
      ASSERT_EQ(mask, Mask::of(lengths[0], rule));
    }
  }
}

TEST(Mask, OneDocumentAgreesWithTheRulePairByPair) {
  for (int64_t tokens : {1, 2, 3, 7, 16}) {
    for (bool causal : {false, true}) {
      for (int64_t window : {0, 1, 2, 5, 16, 17, 1000}) {
        const MaskRule rule{causal, window};
        ASSERT_NO_FATAL_FAILURE(expect_is(Mask::of(tokens, rule), documents_table({tokens}, rule)));
      }
    }
  }
  const MaskRule widest{.causal = true, .window = kMost};
  EXPECT_EQ(Mask::of(kMost, widest).area(), Mask::of(kMost, {.causal = true}).area());
  EXPECT_EQ(Mask::of(kMost, {}).area(), kMost * kMost);
}

TEST(Mask, CrossAllowsEveryPair) {
  PairTable table(3, 5);
  std::fill(table.allowed.begin(), table.allowed.end(), 1);
  expect_is(Mask::cross(3, 5), table);
}

TEST(Mask, CrossDocumentsMeetTheirOwn) {
  PairTable table(6, 7);
  for (int64_t q = 0; q < 6; ++q) {
    for (int64_t k = 0; k < 7; ++k) {
      // Documents of 3, 1, 2 queries with 2, 4, 1 keys.
      const int query_document = q < 3 ? 0 : q < 4 ? 1 : 2, key_document = k < 2 ? 0 : k < 6 ? 1 : 2;
      table.allowed[static_cast<size_t>(q * 7 + k)] = query_document == key_document;
    }
  }
  expect_is(Mask::cross_documents({3, 1, 2}, {2, 4, 1}), table);
  EXPECT_EQ(Mask::cross_documents({5}, {9}), Mask::cross(5, 9));
  EXPECT_EQ(Mask::cross_documents({4, 3}, {4, 3}), Mask::documents({4, 3}, {}));
  EXPECT_EQ(refusal([] {
              Mask::cross_documents({3, 1}, {2});
            }),
            "2 query documents but 1 key documents; give as many of both");
  refusal([] { Mask::cross_documents({}, {}); });
  refusal([] { Mask::cross_documents({3, 1}, {2, 0}); });
  refusal([] { Mask::cross_documents({3, kMost}, {2, 1}); });
}

TEST(Mask, HostileSizesAreRefused) {
  for (int64_t bad : {int64_t{0}, int64_t{-1}, kMost + 1, kHuge, -kHuge - 1}) {
    refusal([&] { Mask::of(bad, {}); });
    refusal([&] { Mask::cross(bad, 1); });
    refusal([&] { Mask::cross(1, bad); });
    refusal([&] { Mask::from_bands(bad, 1, {}); });
    refusal([&] { Mask::from_bands(1, bad, {}); });
    refusal([&] { Mask::documents({bad}, {}); });
    refusal([&] { Mask::documents({3, bad}, {}); });
  }
  refusal([&] { Mask::documents({}, {}); });
  refusal([&] { Mask::documents({kMost, 1}, {}); });
  refusal([&] { Mask::documents({kHuge, kHuge, 2}, {}); });
  refusal([&] { Mask::documents(std::vector<int64_t>(100, kMost), {}); });
  for (int64_t window : {int64_t{-1}, kMost + 1, kHuge, -kHuge - 1}) {
    refusal([&] { Mask::of(8, {.window = window}); });
    refusal([&] { Mask::documents({3, 4}, {.causal = true, .window = window}); });
  }
}

TEST(Mask, TheExampleOfTheHeader) {
  const Mask mask = Mask::documents({1, 4000, 37}, {.causal = true, .window = 256});
  EXPECT_EQ(mask.area(), 1 + (256 * 257 / 2 + (4000 - 256) * 256) + 37 * 38 / 2);
  EXPECT_TRUE(mask.covers(4000, 4000 - 255));
  EXPECT_FALSE(mask.covers(4000, 4000 - 256));
  EXPECT_FALSE(mask.covers(4001, 4000));
}

}  // namespace
}  // namespace weft
