// Partial results that travel in a narrow type: within the bound made for it, and visibly less exact.
#include <gtest/gtest.h>

#include "tests/execute_case.h"

namespace weft {
namespace {

ExecuteCase case_of(DType element, DType wire) {
  return {.lengths = {150, 7, 99},
          .ranks = 4,
          .heads = 4,
          .kv_heads = 2,
          .dim = 16,
          .dim_v = 16,
          .element = element,
          .wire = wire};
}

TEST(ExecuteWire, EveryMethodStaysWithinTheBound) {
  for (const Method* method : all_methods()) {
    for (const DType element : {DType::fp32, DType::bf16}) {
      for (const DType wire : {DType::bf16, DType::fp16}) {
        for (const std::string mask : {"full", "causal"}) {
          ExecuteCase c = case_of(element, wire);
          c.method = method->name, c.mask = mask;
          SCOPED_TRACE(c.describe());
          for (const TensorError& error : check_schedule(c.schedule()).errors) {
            EXPECT_TRUE(error.ok()) << error.name << " " << error.max_abs << " of " << error.bound;
          }
        }
      }
    }
  }
}

// ring sends sums of dk and dv only; out and dq stay home.
TEST(ExecuteWire, TheLossIsSeenWhereItIs) {
  const CheckReport wide = check_schedule(case_of(DType::fp32, DType::fp32).schedule());
  const CheckReport narrow = check_schedule(case_of(DType::fp32, DType::bf16).schedule());
  EXPECT_TRUE(wide.ok && narrow.ok);
  for (size_t i = 0; i < wide.errors.size(); ++i) {
    const TensorError &a = wide.errors[i], &b = narrow.errors[i];
    if (a.name == "dk" || a.name == "dv") {
      EXPECT_GT(b.max_abs, 100 * a.max_abs) << a.name;
      EXPECT_GT(b.max_abs, a.bound) << a.name << ": the bound of an fp32 wire would have refused it";
    } else {
      EXPECT_EQ(b.max_abs, a.max_abs) << a.name;
    }
    if (a.name == "lse") {
      EXPECT_EQ(b.bound, a.bound);
    } else {
      EXPECT_GT(b.bound, a.bound) << a.name;
    }
  }
}

TEST(ExecuteWire, WiderThanTheAccumulatorIsRefused) {
  EXPECT_THROW(case_of(DType::bf16, DType::fp64).schedule(), Error);
}

}  // namespace
}  // namespace weft
