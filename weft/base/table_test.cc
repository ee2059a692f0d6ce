#include "weft/base/table.h"

#include <gtest/gtest.h>

#include "weft/base/error.h"

namespace weft {
namespace {

TEST(Table, AlignsColumns) {
  Table table({{"method"}, {"bytes", Align::right}, {"note"}});
  table.add_row({"ring", "12.0 MiB", ""});
  table.add_row({"all-gather", "1 B", "x"});
  EXPECT_EQ(table.text(),
            "method         bytes  note\n"
            "----------  --------  ----\n"
            "ring        12.0 MiB\n"
            "all-gather       1 B  x\n");
}

TEST(Table, CountsCharactersNotBytes) {
  Table table({{"a"}, {"b"}});
  table.add_row({"\xc3\xa9\xc3\xa9", "1"});
  EXPECT_EQ(table.text(), "a   b\n--  -\n\xc3\xa9\xc3\xa9  1\n");
}

TEST(Table, RefusesARowOfAnotherWidth) { EXPECT_THROW(Table({{"a"}}).add_row({}), Error); }

}  // namespace
}  // namespace weft
