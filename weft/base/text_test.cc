#include "weft/base/text.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

namespace weft {
namespace {

// The message of the Error that `call` throws.
template <typename Call>
std::string message_of(Call&& call, ErrorCode code = ErrorCode::usage) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST(Join, StringsAndNumbers) {
  EXPECT_EQ(join(std::vector<std::string>{"a", "b"}), "a, b");
  EXPECT_EQ(join(std::vector<int64_t>{1, 2, 3}, " x "), "1 x 2 x 3");
  EXPECT_EQ(join(std::vector<std::string_view>{}), "");
}

TEST(InQuotes, StaysOnOneLine) {
  EXPECT_EQ(in_quotes("a b"), "'a b'");
  EXPECT_EQ(in_quotes("a\nb\x7f\xff"), "'a\\x0ab\\x7f\\xff'");
  EXPECT_EQ(in_quotes(std::string(61, 'x')), "'" + std::string(60, 'x') + "...'");
}

TEST(Format, Bytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1 KiB");
  EXPECT_EQ(format_bytes(1610612736), "1.5 GiB");
  EXPECT_EQ(format_bytes((int64_t{1} << 30) - 1), "1 GiB");
  EXPECT_EQ(format_bytes(std::numeric_limits<int64_t>::max()), "8 EiB");
}

TEST(Format, Count) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(7), "7");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(999.6), "1 k");
  EXPECT_EQ(format_count(12345), "12.3 k");
  EXPECT_EQ(format_count(4.56e9), "4.56 G");
}

TEST(Format, Duration) {
  EXPECT_EQ(format_duration(0), "0 us");
  EXPECT_EQ(format_duration(850e-6), "850 us");
  EXPECT_EQ(format_duration(0.0123), "12.3 ms");
  EXPECT_EQ(format_duration(0.99999), "1 s");
  EXPECT_EQ(format_duration(4.2), "4.2 s");
  EXPECT_EQ(format_duration(59.99), "1m 00s");
  EXPECT_EQ(format_duration(200), "3m 20s");
  EXPECT_EQ(format_duration(7500), "2h 05m");
  EXPECT_EQ(format_duration(86400 * 3 + 4 * 3600), "3d 04h");
  EXPECT_EQ(format_duration(-1), "?");
}

TEST(Format, Fixed) {
  EXPECT_EQ(format_fixed(1.0 / 3, 4), "0.3333");
  EXPECT_EQ(format_fixed(-1e300, 0).size(), 302u);
  EXPECT_EQ(format_double(0.1), "0.1");
}

TEST(ParseCount, Values) {
  EXPECT_EQ(parse_count("--tokens", "5003"), 5003);
  EXPECT_EQ(parse_count("--tokens", "16K"), 16384);
  EXPECT_EQ(parse_count("--tokens", "2m"), 2 << 20);
  EXPECT_EQ(parse_count("x", "-7", {.min = -10}), -7);
  EXPECT_EQ(parse_count("x", "9223372036854775807"), std::numeric_limits<int64_t>::max());
}

TEST(ParseCount, Refusals) {
  for (const char* text : {"", "K", "8Q", "8KK", " 8", "8 ", "+8", "1.5K", "0x10", "--8", "8\n"}) {
    EXPECT_NE(message_of([&] { parse_count("--tokens", text); }).find("--tokens: "), std::string::npos) << text;
  }
  for (const char* text : {"9223372036854775808", "9007199254740992K", "99999999999999999999999"}) {
    EXPECT_NE(message_of([&] { parse_count("x", text); }).find("too large"), std::string::npos);
  }
  EXPECT_EQ(message_of([] { parse_count("--ranks", "0", {.min = 1, .max = 65536}); }),
            "--ranks: '0' is out of range; give a whole number from 1 to 65536 "
            "(suffix K = 1024, M = 1024^2)");
}

TEST(ParseDouble, ValuesAndRefusals) {
  EXPECT_EQ(parse_double("--scale", "0.125"), 0.125);
  EXPECT_EQ(parse_double("--scale", "-1e-3"), -1e-3);
  for (const char* text : {"", "x", "1,5", "nan", "inf", "1e999", "1 "}) {
    message_of([&] { parse_double("--scale", text); });
  }
}

TEST(ParseList, Separators) {
  const std::vector<int64_t> expected = {4, 1, 9};
  for (const char* text : {"4,1,9", "4 1 9", " 4, 1 ,9\n", "4\t1\r\n9"}) {
    EXPECT_EQ(parse_list("--docs", text), expected) << text;
  }
  EXPECT_EQ(parse_list("--docs", "1K"), std::vector<int64_t>{1024});
}

TEST(ParseList, Refusals) {
  for (const char* text : {"", "  ", "4,,9", ",4", "4,", "4;9", "4,x", "4,-1", "@/nonexistent"}) {
    EXPECT_THROW(parse_list("--docs", text, {.min = 1}), Error) << text;
  }
  EXPECT_NE(message_of([] { parse_list("--docs", "4,0,9", {.min = 1}); }).find("'0'"), std::string::npos);
}

TEST(ParseList, File) {
  const std::string path = testing::TempDir() + "weft_text_test_list";
  std::ofstream(path) << "4, 1\n9\n";
  EXPECT_EQ(parse_list("--docs", "@" + path), (std::vector<int64_t>{4, 1, 9}));
  std::ofstream(path, std::ios::trunc) << "";
  EXPECT_THROW(parse_list("--docs", "@" + path), Error);
  std::remove(path.c_str());
  // A folder opens on Linux but cannot be read; a device never ends.
  const std::string folder = "@" + testing::TempDir();
  EXPECT_NE(message_of([&] { parse_list("--docs", folder); }, ErrorCode::io).find("cannot read"), std::string::npos);
  EXPECT_NE(message_of([] { parse_list("--docs", "@/dev/zero"); }).find("larger than"), std::string::npos);
}

TEST(EditDistance, CountsChanges) {
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("zigzg", "zigzag"), 1);
  EXPECT_EQ(edit_distance("rnig", "ring"), 1);  // neighbours swapped
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
}

TEST(UnknownName, SuggestsTheNearest) {
  EXPECT_STREQ(unknown_name_error("method", "zigzg", {"ring", "zigzag"}).what(),
               "unknown method 'zigzg'; did you mean 'zigzag'? known: ring, zigzag");
  EXPECT_STREQ(unknown_name_error("method", "quite-other", {"ring", "zigzag"}).what(),
               "unknown method 'quite-other'; known: ring, zigzag");
  EXPECT_EQ(nearest_name("zig", {"ring", "zigzag"}), "zigzag");
  EXPECT_EQ(nearest_name("", {"ring"}), std::nullopt);
  EXPECT_EQ(nearest_name(std::string(1 << 20, 'z'), {"zigzag"}), std::nullopt);
}

}  // namespace
}  // namespace weft
