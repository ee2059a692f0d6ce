#include "weft/schedule/dependencies.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

// Numbers of the exchanges that must be complete before a drop that names some rows of the value that one receives.
std::vector<uint64_t> before_drop(Range received, Range dropped, ValueId dropped_value) {
  SetPool pool;
  const SetId heads = pool.intern(Range{0, 2});
  const auto slice = [&](ValueId value, Range rows) {
    return Slice{value, pool.intern(rows), heads, Field::k | Field::v};
  };
  const std::vector<Part> parts = {{slice(ValueId{5}, {0, 9}), 1, Combine::copy},
                                   {slice(ValueId{3}, received), 1, Combine::copy}};
  const std::vector<Slice> slices = {slice(dropped_value, dropped)};
  const std::vector<Instruction> instructions = {{.op = Op::exchange, .sources = 1, .targets = 1},
                                                 {.op = Op::drop, .sources = 1}};
  const Block block{instructions, slices, parts};
  Dependencies dependencies(pool);
  dependencies.issue(block, instructions[0]);
  std::vector<uint64_t> complete;
  dependencies.before(block, instructions[1], [&](uint64_t number) { complete.push_back(number); });
  return complete;
}

TEST(Dependencies, AValueEndsAsAWhole) {
  EXPECT_EQ(before_drop({0, 4}, {0, 4}, ValueId{3}), (std::vector<uint64_t>{0}));
  EXPECT_EQ(before_drop({0, 4}, {4, 8}, ValueId{3}), (std::vector<uint64_t>{0}));  // rows that nothing receives
  EXPECT_TRUE(before_drop({0, 4}, {0, 4}, ValueId{7}).empty());
  EXPECT_TRUE(before_drop({0, 4}, {0, 4}, ValueId{5}).empty());  // what is being sent may end
}

}  // namespace
}  // namespace weft
