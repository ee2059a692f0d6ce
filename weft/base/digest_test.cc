#include "weft/base/digest.h"

#include <gtest/gtest.h>

#include <set>

namespace weft {
namespace {

TEST(Digest, IsTheSameEverywhere) {
  EXPECT_EQ(mix64(1), 0x5692161d100b05e5u);  // published value of splitmix64's finaliser
  EXPECT_EQ(Digest().add(int64_t{5003}).add("zigzag").hex(), "5330a5368f4444c2");
}

TEST(Digest, FramesItsPieces) {
  const auto of = [](auto... pieces) {
    Digest digest;
    (digest.add(pieces), ...);
    return digest.value();
  };
  EXPECT_NE(of("ab", "c"), of("a", "bc"));
  EXPECT_NE(of(""), of());
  EXPECT_NE(of("", "a"), of("a", ""));
  EXPECT_NE(of(1, 2), of(2, 1));
  EXPECT_NE(of(std::string_view("a\0", 2)), of("a"));
  EXPECT_EQ(of(7), of(int64_t{7}));
  EXPECT_EQ(of(uint8_t{7}), of(size_t{7}));
}

TEST(Digest, SmallInputsDoNotCollide) {
  std::set<uint64_t> seen;
  for (int a = -100; a < 100; ++a) {
    for (int b = -100; b < 100; ++b) seen.insert(Digest().add(a).add(b).value());
  }
  EXPECT_EQ(seen.size(), 40000u);
}

}  // namespace
}  // namespace weft
