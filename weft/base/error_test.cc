#include "weft/base/error.h"

#include <gtest/gtest.h>

#include "weft/base/stop.h"

namespace weft {
namespace {

TEST(Error, CarriesCodeAndText) {
  const Error error(ErrorCode::usage, "ranks 0; give 1 or more");
  EXPECT_EQ(error.code(), ErrorCode::usage);
  EXPECT_STREQ(error.what(), "ranks 0; give 1 or more");
}

TEST(Check, FailsWithConditionAndPlaceOnOneLine) {
  WEFT_CHECK(1 + 1 == 2);
  try {
    WEFT_CHECK(1 + 1 == 3);
    FAIL();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_EQ(error.code(), ErrorCode::internal);
    EXPECT_NE(text.find("1 + 1 == 3 is false"), std::string::npos);
    EXPECT_NE(text.find("error_test.cc:"), std::string::npos);
    EXPECT_EQ(text.find('\n'), std::string::npos);
  }
}

TEST(StopFlag, ThrowsOnceRaised) {
  StopFlag stop;
  EXPECT_NO_THROW(stop.poll());
  stop.raise();
  EXPECT_TRUE(stop.raised());
  EXPECT_THROW(stop.poll(), Error);
}

}  // namespace
}  // namespace weft
