// Methods of linear layers: proved on any cut of the sequence, the same after JSON, and sending what docs/linear.md says.
#include <gtest/gtest.h>

#include "tests/linear_case.h"
#include "tests/verify_script.h"
#include "weft/schedule/json.h"

namespace weft {
namespace {

TEST(VerifyLinearMethods, EveryMethodOnAnyCut) {
  Random random(7, 0);
  for (int n = 0; n < 1500; ++n) {
    const LinearCase c = random_linear_case(random);
    const Report report = verify(c.schedule());
    ASSERT_TRUE(report.ok()) << c.describe() << "\n" << findings(report);
  }
}

TEST(VerifyLinearMethods, JsonComesBackAsItIs) {
  Random random(8, 0);
  for (int n = 0; n < 60; ++n) {
    const LinearCase c = random_linear_case(random);
    const std::string text = to_json(c.schedule());
    const Schedule again = schedule_from_json(text);
    EXPECT_EQ(to_json(again), text) << c.describe();
    EXPECT_TRUE(verify(again).ok()) << c.describe();
  }
}

TEST(VerifyLinearMethods, JsonOfOtherMasksIsRefused) {
  const std::string text = to_json(LinearCase{}.schedule());
  const size_t begin = text.find("{\"rectangles\": ["), end = text.find("]}", begin);
  for (const std::string mask :
       {"", R"({"q": [0, 37], "k": [0, 37], "lo": null, "hi": null})",
        R"({"q": [0, 37], "k": [0, 37], "lo": -5, "hi": 0})", R"({"q": [1, 37], "k": [1, 37], "lo": null, "hi": 0})"}) {
    std::string changed = text;
    changed.replace(begin, end + 2 - begin, "{\"rectangles\": [" + mask + "]}");
    try {
      schedule_from_json(changed);
      ADD_FAILURE() << mask;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("needs a causal mask"), std::string::npos) << error.what();
    }
  }
}

struct Sent {
  int64_t forward = 0, backward = 0, messages = 0, messages_backward = 0;
};

Sent sent_by(const LinearCase& c) {
  const Report report = verify(c.schedule());
  EXPECT_TRUE(report.ok()) << c.describe() << "\n" << findings(report);
  Sent sent;
  for (const RankReport& rank : report.ranks) {
    sent.forward += rank.bytes_sent - rank.bytes_backward;
    sent.backward += rank.bytes_backward;
    sent.messages += rank.messages - rank.messages_backward;
    sent.messages_backward += rank.messages_backward;
  }
  return sent;
}

// Bytes of a state and of a transition of all heads.
int64_t state_bytes(const LinearCase& c) { return (c.element == DType::fp64 ? 8 : 4) * c.heads * c.dim * c.dim_v; }
int64_t transition_bytes(const LinearCase& c) {
  const Decay decay = decay_of(c.layer);
  const int64_t numbers = mixes_rows(c.layer)          ? c.dim * c.dim
                          : column_blocks(c.layer) > 0 ? column_blocks(c.layer) * c.dim_v
                          : decay == Decay::channel    ? c.dim
                          : decay == Decay::scalar     ? 1
                                                       : 0;
  return (c.element == DType::fp64 ? 8 : 4) * c.heads * numbers;
}

// The table of docs/linear.md: one document, P ranks, states of n bytes and transitions of m.
TEST(VerifyLinearMethods, VolumesAreTheTables) {
  for (const Layer layer : kLinearLayers) {
    for (const int64_t P : {1, 2, 3, 4, 5, 7, 8, 16, 33}) {
      for (const DType element : {DType::fp64, DType::fp32, DType::bf16}) {
        LinearCase c{
            .layer = layer, .lengths = {12 * P}, .ranks = static_cast<int>(P), .heads = 6, .dim = 8, .dim_v = 16};
        c.element = element;
        const int64_t n = state_bytes(c), m = transition_bytes(c);
        const auto expect = [&](int64_t bytes, int64_t messages) {
          const Sent sent = sent_by(c);
          EXPECT_EQ(sent.forward, bytes) << c.describe();
          EXPECT_EQ(sent.backward, bytes) << c.describe();
          EXPECT_EQ(sent.messages, messages) << c.describe();
          EXPECT_EQ(sent.messages_backward, messages) << c.describe();
        };
        c.method = "chain";
        expect((P - 1) * n, P - 1);
        for (const int64_t blocks : {1, 3, 6}) {
          c.method = "all-scan", c.options = {{"blocks", std::to_string(blocks)}};
          expect((P - 1) * n, (P - 1) * blocks);
        }
        c.options.clear();
        c.method = "all-gather-state";
        expect(P * (P - 1) / 2 * n + std::max<int64_t>(0, P - 1) * std::max<int64_t>(0, P - 2) / 2 * m,
               P * (P - 1) / 2);
        c.method = "log-step";
        int64_t bytes = 0, messages = 0;
        for (int64_t d = 1; d < P; d *= 2) {
          bytes += (P - d) * n + std::max<int64_t>(0, P - 2 * d) * m;
          messages += P - d;
        }
        expect(bytes, messages);
      }
    }
  }
}

// Rows of a head in (forward), (backward), of which each rank keeps its own tokens of its own heads.
TEST(VerifyLinearMethods, HeadExchangeSendsRows) {
  for (const Layer layer : kLinearLayers) {
    for (const int64_t P : {1, 2, 3, 6}) {
      for (const DType element : {DType::fp32, DType::bf16}) {
        LinearCase c{.method = "head-exchange", .layer = layer, .lengths = {12 * P}, .ranks = static_cast<int>(P)};
        c.heads = 6, c.dim = 8, c.dim_v = 16, c.element = element;
        const int64_t e = size_of(element), rows = 12 * P * c.heads * (P - 1) / P;
        // g and beta are fp32, a and b of the element type; a that multiplies columns fp32.
        const Decay decay = decay_of(layer);
        const Mixing mixing = traits_of(layer).mixing;
        const int64_t gates = decay == Decay::channel ? 4 * c.dim : decay == Decay::scalar ? 4 : 0;
        const int64_t mixed = mixing == Mixing::delta      ? 4
                              : mixing == Mixing::low_rank ? 2 * e * c.dim
                                                           : 4 * column_blocks(layer) * c.dim_v;
        const Sent sent = sent_by(c);
        EXPECT_EQ(sent.forward, rows * (e * (2 * c.dim + 2 * c.dim_v) + gates + mixed)) << c.describe();
        EXPECT_EQ(sent.backward, rows * (e * (2 * c.dim + 2 * c.dim_v) + gates + mixed)) << c.describe();
        EXPECT_EQ(sent.messages, 2 * P * (P - 1));
        EXPECT_EQ(sent.messages_backward, 2 * P * (P - 1));
      }
    }
  }
}

// A token that writes several times has so many keys, values and betas; states are as large as ever.
TEST(VerifyLinearMethods, HouseholdersAreRowsAndNoStates) {
  LinearCase c{.layer = Layer::gdn, .lengths = {48}, .ranks = 4, .heads = 4, .dim = 8, .dim_v = 16};
  c.element = DType::bf16;
  for (const int64_t n : {1, 2, 3}) {
    c.householders = n;
    c.method = "log-step";
    EXPECT_EQ(sent_by(c).forward, 5 * state_bytes(c) + 2 * transition_bytes(c));
    c.method = "head-exchange";
    const int64_t rows = 48 * c.heads * 3 / 4;
    EXPECT_EQ(sent_by(c).forward, rows * (2 * (n * (c.dim + c.dim_v) + c.dim + c.dim_v) + 4 + 4 * n));
  }
}

// Inside nodes, between nodes, and home from the rank that has a node's sum.
TEST(VerifyLinearMethods, HierarchicalSendsOneStateANodeAndRoundBetweenNodes) {
  for (const Layer layer : kLinearLayers) {
    for (const int64_t g : {1, 2, 3, 4}) {
      for (const int64_t N : {1, 2, 3, 5, 8}) {
        LinearCase c{
            .method = "hierarchical", .layer = layer, .lengths = {12 * N * g}, .ranks = static_cast<int>(N * g)};
        c.options = {{"node", std::to_string(g)}};
        const int64_t n = state_bytes(c), m = transition_bytes(c);
        int64_t bytes = (N - 1) * (g - 1) * n, messages = (N - 1) * (g - 1);
        for (int64_t d = 1; d < g; d *= 2) {
          bytes += N * (g - d) * n + ((N - 1) * (g - d) + std::max<int64_t>(0, g - 2 * d)) * m;
          messages += N * (g - d);
        }
        for (int64_t d = 1; d < N; d *= 2) {
          bytes += (N - d) * n + std::max<int64_t>(0, N - 2 * d) * m;
          messages += N - d;
        }
        const Sent sent = sent_by(c);
        EXPECT_EQ(sent.forward, bytes) << c.describe();
        EXPECT_EQ(sent.backward, bytes) << c.describe();
        EXPECT_EQ(sent.messages, messages) << c.describe();
        EXPECT_EQ(sent.messages_backward, messages) << c.describe();
      }
    }
  }
}

// On zigzag a chain goes down the first fragments and back up the second: 2P - 2 borders between ranks.
TEST(VerifyLinearMethods, ZigzagIsASnake) {
  for (const int64_t P : {2, 3, 8}) {
    LinearCase c{.lengths = {24 * P}, .ranks = static_cast<int>(P), .layout = "zigzag"};
    const Sent sent = sent_by(c);
    EXPECT_EQ(sent.forward, (2 * P - 2) * state_bytes(c));
    EXPECT_EQ(sent.messages, 2 * P - 2);
  }
}

// They belong to the ranks where documents begin and end, and only trading heads sends them, to all others.
TEST(VerifyLinearMethods, GivenAndFinalStatesStayWhereTheyAre) {
  for (const Method* method : linear_methods()) {
    for (const Layer layer : {Layer::gla, Layer::kda}) {
      LinearCase c{.method = std::string(method->name), .layer = layer, .lengths = {24}, .ranks = 4, .heads = 8};
      const Sent without = sent_by(c);
      c.initial_states = c.final_states = true, c.state_positions = {4, 17};
      const Sent with = sent_by(c);
      // Of a state for each of four documents, what ranks that trade heads have of other ranks' heads.
      const bool trades = method->name == "head-exchange", in_pairs = method->name == "two-dimensional";
      const int64_t more = trades ? 4 * state_bytes(c) * 3 / 4 : in_pairs ? 4 * state_bytes(c) / 2 : 0;
      EXPECT_EQ(with.forward, without.forward + more) << c.describe();
      EXPECT_EQ(with.backward, without.backward + more) << c.describe();
      EXPECT_EQ(with.messages, without.messages) << c.describe();
    }
  }
}

// Head-exchange inside groups of u ranks, log steps over p groups for 1 / u of the heads by each of u ranks.
TEST(VerifyLinearMethods, TwoDimensionalSendsRowsInsideAndStatesAcross) {
  for (const Layer layer : {Layer::retnet, Layer::gla, Layer::gdn, Layer::rwkv7}) {
    for (const int64_t u : {1, 2, 3, 6}) {
      for (const int64_t p : {1, 2, 3, 5, 8}) {
        LinearCase c{
            .method = "two-dimensional", .layer = layer, .lengths = {12 * u * p}, .ranks = static_cast<int>(u * p)};
        c.heads = 6, c.options = {{"inner", std::to_string(u)}};
        LinearCase group = c;
        group.method = "head-exchange", group.lengths = {12 * u}, group.ranks = static_cast<int>(u),
        group.options.clear();
        const Sent inside = sent_by(group), sent = sent_by(c);
        int64_t bytes = 0, messages = 0;
        for (int64_t d = 1; d < p; d *= 2) {
          bytes += (p - d) * state_bytes(c) + std::max<int64_t>(0, p - 2 * d) * transition_bytes(c);
          messages += u * (p - d);
        }
        EXPECT_EQ(sent.forward, p * inside.forward + bytes) << c.describe();
        EXPECT_EQ(sent.backward, p * inside.backward + bytes) << c.describe();
        EXPECT_EQ(sent.messages, p * inside.messages + messages) << c.describe();
        EXPECT_EQ(sent.messages_backward, p * inside.messages_backward + messages) << c.describe();
      }
    }
  }
  LinearCase c{.method = "two-dimensional", .lengths = {48}, .ranks = 4, .heads = 2};
  c.options = {{"inner", "4"}};
  try {
    c.schedule();
    ADD_FAILURE() << "more ranks than heads";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()), "two-dimensional: 4 ranks trade 2 heads; use at most as many ranks as heads");
  }
}

TEST(VerifyLinearMethods, NothingIsSentWhereNoDocumentCrosses) {
  for (const Method* method : linear_methods()) {
    if (method->name == "head-exchange" || method->name == "two-dimensional")
      continue;  // trade heads, whatever the documents
    LinearCase c{.method = std::string(method->name), .lengths = {20, 3, 17, 20, 12, 8}, .ranks = 4};
    c.shards = {20, 20, 20, 20};
    EXPECT_EQ(sent_by(c).messages, 0) << method->name;
    EXPECT_EQ(sent_by(c).messages_backward, 0) << method->name;
    // One border is crossed: one state each way.
    c.lengths = {20, 3, 18, 19, 12, 8};
    const Sent sent = sent_by(c);
    EXPECT_EQ(sent.forward, state_bytes(c)) << method->name;
    EXPECT_EQ(sent.backward, state_bytes(c)) << method->name;
  }
}

}  // namespace
}  // namespace weft
