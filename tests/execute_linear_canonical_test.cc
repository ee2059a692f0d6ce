// Canonical results of linear layers: the same bits for every number of ranks, layout and method that can.
#include <gtest/gtest.h>

#include "tests/linear_case.h"
#include "weft/base/error.h"
#include "weft/base/test_level.h"
#include "weft/execute/check.h"
#include "weft/layout/document_tiles.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

struct CanonicalCase : LinearCase {
  bool canonical = true;

  Schedule tiled() const {
    Problem made = problem();
    made.query_layout = made.key_layout =
        canonical ? choose_layout(layout, method, Documents(lengths), ranks, options, kCanonicalTile) : placement();
    made.pairs = AllowedPairs(made.mask, made.query_layout.axis(), made.key_layout.axis());
    made.canonical_tile = canonical ? kCanonicalTile : 0;
    made.backward = !traits_of(layer).bonus;
    return make_schedule(method, std::move(made), options);
  }
};

// Every bit of every result, by field.
std::map<std::string, std::vector<std::byte>> bits_of(const CanonicalCase& c) {
  const Schedule schedule = c.tiled();
  CheckOptions options{.seed = 7};
  options.execute.poison = true;
  const CheckReport report = check_schedule(schedule, options);
  EXPECT_TRUE(report.ok) << c.describe();
  std::map<std::string, std::vector<std::byte>> bits;
  const auto keep = [&](Field field) {
    const HostTensor& tensor = report.tensors.of(field);
    bits[name_of(field)] = {tensor.bytes.begin(), tensor.bytes.end()};
  };
  schedule.problem().results_of(false).for_each(keep);
  if (schedule.problem().backward) schedule.problem().results_of(true).for_each(keep);
  return bits;
}

void expect_same(const std::map<std::string, std::vector<std::byte>>& want, const CanonicalCase& c) {
  SCOPED_TRACE(c.describe());
  for (const auto& [name, bytes] : bits_of(c)) EXPECT_TRUE(bytes == want.at(name)) << name;
}

CanonicalCase canonical_case(Layer layer, std::vector<int64_t> lengths) {
  CanonicalCase c;
  c.layer = layer, c.lengths = std::move(lengths), c.ranks = 1, c.dim = 9, c.dim_v = 6, c.element = DType::fp32;
  c.initial_states = c.final_states = true;
  return c;
}

std::vector<int> rank_counts() {
  if (test_level() == 2) return {1, 2, 3, 4, 5, 8};
  return test_level() == 1 ? std::vector<int>{2, 3, 8} : std::vector<int>{3};
}

TEST(LinearCanonical, OneResultForRanksLayoutsAndMethods) {
  for (const Layer layer : kLinearLayers) {
    for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{1000}, {300, 1, 520, 77}}) {
      CanonicalCase c = canonical_case(layer, lengths);
      c.state_positions = {127, lengths[0] - 1};
      const auto want = bits_of(c);
      for (const char* method : {"chain", "all-scan", "head-exchange"}) {
        for (const char* layout : {"contiguous", "zigzag", "document-zigzag"}) {
          for (const int ranks : rank_counts()) {
            c.method = method, c.layout = layout, c.ranks = ranks;
            expect_same(want, c);
          }
        }
      }
    }
  }
}

TEST(LinearCanonical, EveryElementType) {
  for (const DType element : {DType::fp64, DType::bf16, DType::fp16}) {
    for (const Layer layer : {Layer::gla, Layer::gdn, Layer::pairwise}) {
      CanonicalCase c = canonical_case(layer, {700, 90});
      c.element = element;
      const auto want = bits_of(c);
      c.method = "all-scan", c.layout = "zigzag", c.ranks = 3;
      expect_same(want, c);
    }
  }
}

TEST(LinearCanonical, Householders) {
  CanonicalCase c = canonical_case(Layer::gdn, {500});
  c.householders = 3;
  const auto want = bits_of(c);
  c.ranks = 3, c.method = "all-scan";
  expect_same(want, c);
}

// Sums over the heads that share q and k are in the order of the heads, but where ranks of head-exchange have some of them each.
TEST(LinearCanonical, SharedHeads) {
  for (const Layer layer : {Layer::mamba2, Layer::gdn}) {
    CanonicalCase c = canonical_case(layer, {500, 300});
    c.heads = 6, c.key_heads = 2;
    const auto want = bits_of(c);
    for (const char* method : {"chain", "all-scan"}) {
      for (const int ranks : {2, 3}) {
        c.method = method, c.layout = "zigzag", c.ranks = ranks;
        expect_same(want, c);
      }
    }
    c.method = "head-exchange", c.ranks = 2;
    expect_same(want, c);
    c.ranks = 3;
    try {
      c.tiled();
      ADD_FAILURE() << "sums over ranks are not canonical";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("no canonical dq and dk; use chain or all-scan"), std::string::npos);
    }
  }
}

// The control: without it bits differ, so the tests above can fail.
TEST(LinearCanonical, WithoutItBitsDiffer) {
  for (const Layer layer : {Layer::gla, Layer::gdn}) {
    CanonicalCase c = canonical_case(layer, {1000});
    c.canonical = false;
    const auto want = bits_of(c);
    c.ranks = 3;
    EXPECT_FALSE(bits_of(c).at("out") == want.at("out")) << name_of(layer);
  }
}

TEST(LinearCanonical, BordersAreMultiplesFromADocumentsBegin) {
  const std::vector<int64_t> lengths = {300, 1, 520, 77};
  for (const char* name : {"contiguous", "zigzag"}) {
    for (const int ranks : {1, 2, 3, 7}) {
      const Layout exact = make_layout(name, lengths, ranks), rounded = rounded_to_document_tiles(exact, lengths, 128);
      EXPECT_FALSE(first_cut_document_tile(rounded, lengths, 128)) << name << ranks;
      int64_t tokens = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        tokens += rounded.tokens_of(rank);
        for (const Range& run : rounded.shard(rank).ranges()) {
          const int64_t begin = run.begin < 300 ? 0 : run.begin < 301 ? 300 : run.begin < 821 ? 301 : 821;
          EXPECT_EQ((run.begin - begin) % 128, 0) << run.begin;
        }
      }
      EXPECT_EQ(tokens, 898);
      EXPECT_EQ(first_cut_document_tile(exact, lengths, 128).has_value(), ranks > 1) << name << ranks;
    }
  }
}

TEST(LinearCanonical, BytesAndMessagesAreThoseWithoutIt) {
  for (const char* method : {"chain", "all-scan", "head-exchange"}) {
    for (const char* layout : {"contiguous", "zigzag"}) {
      CanonicalCase c = canonical_case(Layer::gdn, {1024, 300});
      c.method = method, c.layout = layout, c.ranks = 3;
      const Schedule tiled = c.tiled();
      Problem same = tiled.problem();
      same.canonical_tile = 0;
      const Report with = verify(tiled), without = verify(make_schedule(c.method, std::move(same)));
      ASSERT_TRUE(with.ok() && without.ok()) << c.describe();
      for (size_t rank = 0; rank < with.ranks.size(); ++rank) {
        EXPECT_EQ(with.ranks[rank].bytes_sent, without.ranks[rank].bytes_sent) << c.describe();
        EXPECT_EQ(with.ranks[rank].messages, without.ranks[rank].messages) << c.describe();
      }
    }
  }
}

TEST(LinearCanonical, RefusesWhatCannotBe) {
  const auto refusal = [](const CanonicalCase& c) -> std::string {
    try {
      c.tiled();
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing was refused";
  };
  for (const char* method : {"log-step", "all-gather-state", "hierarchical"}) {
    CanonicalCase c = canonical_case(Layer::gla, {500});
    c.method = method;
    EXPECT_NE(refusal(c).find("for canonical results use chain, all-scan, head-exchange"), std::string::npos) << method;
  }
  CanonicalCase c = canonical_case(Layer::gla, {500});
  c.state_positions = {100};
  EXPECT_NE(refusal(c).find("not after position 100"), std::string::npos) << refusal(c);
  Problem cut = canonical_case(Layer::gla, {500}).problem();
  cut.query_layout = cut.key_layout = Layout::contiguous(500, 3);
  cut.canonical_tile = kCanonicalTile;
  EXPECT_THROW(cut.validate(), Error);
  cut.canonical_tile = 64;
  EXPECT_THROW(cut.validate(), Error);
  Problem bonus = canonical_case(Layer::rwkv6, {500}).problem();
  bonus.canonical_tile = kCanonicalTile;
  EXPECT_THROW(bonus.validate(), Error);
  bonus.backward = false;
  bonus.validate();
}

}  // namespace
}  // namespace weft
