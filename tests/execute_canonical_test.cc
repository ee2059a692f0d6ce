// Canonical results: the same bits for every method, layout and number of ranks, and right.
#include <gtest/gtest.h>

#include "tests/execute_case.h"
#include "weft/base/test_level.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

struct CanonicalCase : ExecuteCase {
  int64_t tile = 16;

  Schedule schedule() const {
    const auto rule = [&](const std::vector<int64_t>& of) {
      return layout.empty() ? layout_of(method, of, ranks, options) : make_layout(layout, of, ranks);
    };
    const Layout at = make_tiled_layout(lengths, tile, rule);
    Problem made = self_attention(Mask::documents(lengths, parse_mask_rule(mask)), at, heads, kv_heads, dim);
    made.dim_v = dim_v;
    made.backward = true;
    made.return_lse = true;
    made.element = element;
    made.wire = made.accumulator();
    made.canonical_tile = tile;
    return make_schedule(method, made, options);
  }
};

// All but references, which refuse.
std::vector<const Method*> canonical_methods() {
  std::vector<const Method*> methods;
  for (const Method* method : all_methods()) {
    if (!method->reference) methods.push_back(method);
  }
  return methods;
}

// Every method, and options that change how it cuts or orders.
std::vector<std::pair<std::string, Options>> all_variants() {
  std::vector<std::pair<std::string, Options>> variants;
  for (const Method* method : canonical_methods()) {
    variants.emplace_back(method->name, Options());
    for (const MethodOption& option : method->options) {
      if (option.kind == MethodOption::Kind::integer) {
        variants.emplace_back(method->name, Options{{std::string(option.name), "2"}});
      }
      for (const std::string_view choice : option.choices) {
        if (option.kind == MethodOption::Kind::choice && choice != option.fallback) {
          variants.emplace_back(method->name, Options{{std::string(option.name), std::string(choice)}});
        }
      }
    }
  }
  return variants;
}

CheckTensors run(const CanonicalCase& c, const ExecuteOptions& options = {}) {
  return check_schedule(c.schedule(), {.seed = 7, .compare = false, .execute = options}).tensors;
}

const std::vector<std::string> kMasks = {"full", "causal", "window:20", "causal+window:37"};
const std::vector<std::vector<int64_t>> kLengths = {{300}, {1, 90, 33, 150, 7}};
const std::vector<std::pair<int64_t, int64_t>> kHeads = {{2, 2}, {4, 2}, {3, 1}};

void expect_same_bits(CanonicalCase c, size_t every = 1) {
  c.method = "ring", c.ranks = 1, c.layout = "contiguous";
  const CheckReport one = check_schedule(c.schedule(), {.seed = 7});
  for (const TensorError& e : one.errors) EXPECT_TRUE(e.ok()) << e.name << " " << e.max_abs << " of " << e.bound;
  c.layout = "";
  size_t n = 0, ran = 0, refused = 0;
  for (const auto& [method, options] : all_variants()) {
    for (const int ranks : {1, 2, 3, 4, 5, 8}) {
      if (n++ % every != 0) continue;
      c.method = method, c.options = options, c.ranks = ranks;
      SCOPED_TRACE(c.describe());
      try {
        EXPECT_EQ(different(one.tensors, run(c)), "");
      } catch (const Error& error) {  // only where an option does not fit the number of ranks or heads
        const bool by_option = !options.empty() && options.begin()->second == "2";
        EXPECT_TRUE(by_option && std::string(error.what()).find("canonical") == std::string::npos) << error.what();
        refused += 1;
      }
      ran += 1;
    }
  }
  EXPECT_LT(refused, ran / 4);
}

TEST(ExecuteCanonical, EveryMethodRanksMaskAndHeads) {
  for (const DType element : {DType::fp32, DType::bf16}) {
    for (const std::string& mask : kMasks) {
      for (const auto& lengths : kLengths) {
        for (const auto& [heads, kv_heads] : kHeads) {
          CanonicalCase c;
          c.element = element, c.mask = mask, c.lengths = lengths, c.heads = heads, c.kv_heads = kv_heads;
          c.dim = 8, c.dim_v = 8;
          expect_same_bits(c, test_level() == 0 ? 37 : test_level() == 1 ? 3 : 1);
        }
      }
    }
  }
}

TEST(ExecuteCanonical, DoublePrecision) {
  CanonicalCase c;
  c.element = DType::fp64, c.lengths = {100, 61}, c.heads = 4, c.kv_heads = 2;
  expect_same_bits(c, test_level() == 0 ? 7 : 1);
}

// The tile of the program, head dims that are no multiple of a vector, and more tokens.
TEST(ExecuteCanonical, TilesOf128) {
  CanonicalCase c;
  c.tile = kCanonicalTile, c.element = DType::fp32, c.heads = 2, c.kv_heads = 1, c.dim = 20, c.dim_v = 13;
  for (const auto& lengths : std::vector<std::vector<int64_t>>{{1700}, {500, 3, 700}}) {
    c.lengths = lengths;
    expect_same_bits(c, test_level() == 0 ? 37 : test_level() == 1 ? 3 : 1);
  }
}

TEST(ExecuteCanonical, AnyLayoutOfWholeTiles) {
  CanonicalCase c;
  c.element = DType::fp32, c.lengths = {70, 200, 5}, c.heads = 4, c.kv_heads = 2, c.dim = c.dim_v = 8;
  c.ranks = 1, c.layout = "contiguous";
  const CheckTensors one = run(c);
  for (const std::string_view layout : layout_names()) {
    for (const Method* method : canonical_methods()) {
      for (const int ranks : {3, 4}) {
        c.method = method->name, c.layout = layout, c.ranks = ranks;
        SCOPED_TRACE(c.describe());
        EXPECT_EQ(different(one, run(c)), "");
      }
    }
  }
}

TEST(ExecuteCanonical, TimingChangesNothing) {
  for (const Method* method : canonical_methods()) {
    CanonicalCase c;
    c.method = method->name, c.element = DType::bf16, c.lengths = {150, 90}, c.ranks = 4, c.dim = c.dim_v = 8;
    SCOPED_TRACE(c.describe());
    const CheckTensors plain = run(c);
    EXPECT_EQ(different(plain, run(c, {.overlap = false, .poison = true})), "");
    EXPECT_EQ(different(plain, run(c, {.poison = true, .delay_seed = 3})), "");
  }
}

// The tests above can fail: without the mode the same problems differ.
TEST(ExecuteCanonical, OtherwiseTheNumberOfRanksShows) {
  ExecuteCase c{.method = "zigzag", .lengths = {300}, .heads = 4, .kv_heads = 2, .dim = 8, .dim_v = 8};
  c.element = c.wire = DType::fp32;
  const auto tensors = [&](int ranks) {
    c.ranks = ranks;
    return check_schedule(c.schedule(), {.seed = 7, .compare = false}).tensors;
  };
  EXPECT_EQ(different(tensors(1), tensors(4)), "out, lse, dq, dk, dv");
}

// What the verifier counts is what is sent and held.
TEST(ExecuteCanonical, LiveBytesAreTheVerifiers) {
  for (const Method* method : canonical_methods()) {
    for (const DType element : {DType::fp64, DType::bf16}) {
      CanonicalCase c;
      c.method = method->name, c.element = element, c.lengths = {200, 70}, c.ranks = 4, c.heads = 6, c.kv_heads = 3;
      SCOPED_TRACE(c.describe());
      const Schedule schedule = c.schedule();
      const Report proved = verify(schedule);
      EXPECT_TRUE(proved.ok());
      const CheckReport report = check_schedule(schedule, {.compare = false});
      for (size_t rank = 0; rank < report.peak_bytes.size(); ++rank) {
        EXPECT_EQ(report.peak_bytes[rank], proved.ranks[rank].live_bytes) << "rank " << rank;
      }
    }
  }
}

// ---- refusals

std::string refusal(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was refused";
}

TEST(ExecuteCanonical, RefusesAShardThatCutsATile) {
  Problem problem = self_attention(Mask::of(100, {.causal = true}), Layout::contiguous(100, 3), 2, 2, 8);
  problem.canonical_tile = 16;
  EXPECT_EQ(
      refusal([&] { make_schedule("ring", problem); }),
      "canonical results need shards that begin and end at multiples of 16 positions, but a run of keys of rank 0 "
      "ends at position 33; use Layout::rounded_to_tiles, or a layout by name with --canonical");
  Problem narrow = self_attention(Mask::of(96, {.causal = true}), Layout::contiguous(96, 3), 2, 2, 8);
  narrow.canonical_tile = 16;
  narrow.wire = DType::bf16;
  EXPECT_EQ(refusal([&] { make_schedule("ring", narrow); }),
            "canonical results need partial results to travel as they are, not as bf16; leave the wire type out");
}

TEST(ExecuteCanonical, RefusesWholeRowsOfScores) {
  CanonicalCase c;
  c.method = "rsa", c.element = DType::fp32;
  EXPECT_EQ(refusal([&] { c.schedule(); }),
            "rsa sums over whole rows of scores, not tile by tile, and has no canonical results; use ring");
}

// A program that cuts a tile by itself: keys 0 .. 24 and 24 .. 48 attended one after the other.
Steps cut_inside_a_tile(int, Builder& b) {
  const Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value partial = b.partial(q);
  b.attend(q, kv[b.set(Range{0, 24})], partial);
  b.attend(q, kv[b.set(Range{24, 48})], partial);
  b.result(b.finish(partial));
  co_yield Step{};
}

TEST(ExecuteCanonical, RefusesAProgramThatCutsATile) {
  Problem problem = self_attention(Mask::of(48, {}), Layout::contiguous(48, 1), 2, 2, 8);
  problem.canonical_tile = 16;
  problem.return_lse = true;
  const auto schedule_of = [](const Problem& of) {
    return Schedule("cut", std::make_shared<const Problem>(of), cut_inside_a_tile);
  };
  const Report report = verify(schedule_of(problem));
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.problems[0].kind, "tile");
  EXPECT_EQ(report.problems[0].text,
            "attend: keys are cut at position 24, inside a tile of 16, with keys of one query on both sides");
  const std::string text = refusal([&] { check_schedule(schedule_of(problem)); });
  EXPECT_NE(text.find("keys are cut at position 24, inside a tile of 16, with keys of one query on both sides"),
            std::string::npos)
      << text;
  // No query sees keys on both sides: fine.
  Problem documents = self_attention(Mask::documents({24, 24}, {}), Layout::contiguous(48, 1), 2, 2, 8);
  documents.canonical_tile = 16;
  documents.return_lse = true;
  EXPECT_TRUE(verify(schedule_of(documents)).ok());
  EXPECT_TRUE(check_schedule(schedule_of(documents)).ok);
}

}  // namespace
}  // namespace weft
