// Shared by the tests of bytes and messages: sizes that divide, and what a method sends in each phase.
//
// P ranks with T tokens each, S = P T. A row of q, out, dout or dq has H D elements, one of (k, v) or (dk, dv) 2 Hkv D,
// one of lse or delta H. Bytes: `e` per element of inputs and finished results, `w` per travelling element of partials
// and sums, 4 per lse or delta. With g = Hkv / H and n = T H D, T rows of (k, v) are 2 g n elements.
//
// Formulas are sums over all ranks, in rows; a mean per rank is that divided by P. "Block j" is what rank j owns.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>

#include "weft/methods/registry.h"
#include "weft/verify/verify.h"

namespace weft::volumes {

constexpr int64_t kT = 12, kD = 4;
using Options = std::map<std::string, std::string>;

struct Sent {
  int64_t bytes = 0, messages = 0;
  friend bool operator==(const Sent&, const Sent&) = default;
  friend Sent operator+(Sent a, Sent b) { return {a.bytes + b.bytes, a.messages + b.messages}; }
  friend Sent operator-(Sent a, Sent b) { return {a.bytes - b.bytes, a.messages - b.messages}; }
  friend std::ostream& operator<<(std::ostream& out, const Sent& s) {
    return out << s.bytes << " bytes in " << s.messages << " messages";
  }
};

inline Sent times(Sent sent, int64_t count) { return {sent.bytes * count, sent.messages * count}; }

inline Report proved(std::string_view method, const Problem& problem, const Options& options = {}) {
  Report report = verify(make_schedule(method, problem, options));
  EXPECT_TRUE(report.ok()) << method << ": " << (report.ok() ? "" : report.problems[0].text);
  return report;
}
inline Sent total(const Report& report) {
  Sent sum;
  for (const RankReport& rank : report.ranks) sum = sum + Sent{rank.bytes_sent, rank.messages};
  return sum;
}
inline Sent forward(std::string_view method, Problem problem, const Options& options = {}) {
  problem.backward = false;
  return total(proved(method, problem, options));
}
inline Sent backward(std::string_view method, Problem problem, const Options& options = {}) {
  problem.backward = true;
  return total(proved(method, problem, options)) - forward(method, problem, options);
}
// Every rank sends the same in both phases together.
inline void expect_equal_ranks(std::string_view method, Problem problem, const Options& options = {}) {
  problem.backward = true;
  const Report report = proved(method, problem, options);
  for (const RankReport& rank : report.ranks) {
    EXPECT_EQ(rank.bytes_sent, report.ranks[0].bytes_sent);
    EXPECT_EQ(rank.messages, report.ranks[0].messages);
  }
}

struct Shape {
  int ranks;
  int64_t heads, kv_heads;
  DType element, wire;

  int64_t P() const { return ranks; }
  int64_t e() const { return size_of(element); }
  int64_t w() const { return size_of(wire); }
  int64_t tokens() const { return kT * ranks; }
  // Bytes of a row.
  int64_t q() const { return heads * kD * e(); }  // also out, dout, dq when finished
  int64_t kv() const { return kv_of(kv_heads) * e(); }
  int64_t dkv() const { return kv_of(kv_heads) * w(); }             // sums on the way
  int64_t partial() const { return heads * kD * w() + heads * 4; }  // out and lse
  int64_t dq() const { return heads * kD * w(); }
  int64_t stat() const { return heads * 4; }  // lse or delta
  static int64_t kv_of(int64_t some_heads) { return some_heads * 2 * kD; }

  Problem problem(std::string_view layout, MaskRule rule) const {
    return problem(make_layout(layout, {tokens()}, ranks), rule);
  }
  Problem problem(Layout layout, MaskRule rule) const {
    Problem result = self_attention(Mask::of(tokens(), rule), std::move(layout), heads, kv_heads, kD);
    result.element = element, result.wire = wire;
    return result;
  }
};

inline void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.ranks << " ranks, heads " << s.heads << "/" << s.kv_heads << ", " << name_of(s.element) << " on the wire "
       << name_of(s.wire);
}

// MHA, GQA, fewer kv heads than ranks, MQA; always one number divides the other, for ranks and for
// kv heads.
inline std::vector<Shape> shapes() {
  std::vector<Shape> result;
  for (int ranks : {2, 3, 4, 8}) {
    for (int64_t kv_heads : {24, ranks == 3 ? 6 : 8, ranks == 3 ? 3 : 2, 1}) {
      result.push_back({ranks, 24, kv_heads, DType::fp32, DType::fp32});
      result.push_back({ranks, 24, kv_heads, DType::bf16, DType::fp32});
      result.push_back({ranks, 24, kv_heads, DType::bf16, DType::bf16});
    }
  }
  return result;
}

class Volumes : public testing::TestWithParam<Shape> {};

}  // namespace weft::volumes
