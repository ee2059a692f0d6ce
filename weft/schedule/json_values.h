// Typed access to a JSON document that is being read. Internal to the JSON reader.
//
//   const auto [q, k] = values.members(rectangle, {"q", "k"});    // both, and nothing else
//   Range queries = values.range(q);
//
// Every function throws Error(format) that names the place when the document holds something else.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "weft/base/dtype.h"
#include "weft/base/error.h"
#include "weft/base/range.h"
#include "weft/base/text.h"
#include "weft/schedule/json_tree.h"

namespace weft::json_internal {

// The largest number of tokens, heads, peers and steps.
inline constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

class Values {
 public:
  explicit Values(const Tree& tree) : tree_(tree) {}

  // The members with the given names, in their order: all of them, except that the last `optional` ones may be missing
  // and are kNone then; and no others.
  template <size_t N>
  std::array<NodeId, N> members(NodeId id, const char* const (&names)[N], size_t optional = 0) const {
    if (tree_[id].kind != Kind::object) tree_.fail(id, "expected an object");
    std::array<NodeId, N> found;
    found.fill(kNone);
    for (NodeId member = tree_.first(id); member != kNone; member = tree_[member].next) {
      const auto at = std::find(std::begin(names), std::end(names), tree_.name(member));
      if (at == std::end(names)) {
        throw Error(ErrorCode::format, tree_.place(id) + ": " +
                                           unknown_name_error("field", tree_.name(member), {names, names + N}).what());
      }
      found[static_cast<size_t>(at - names)] = member;
    }
    for (size_t i = 0; i + optional < N; ++i) {
      if (found[i] == kNone) tree_.fail(id, std::string("field '") + names[i] + "' is missing");
    }
    return found;
  }

  int64_t integer(NodeId id, int64_t least, int64_t most) const {
    const Node& node = tree_[id];
    if (node.kind != Kind::integer || node.integer < least || node.integer > most) {
      tree_.fail(id, "expected a whole number from " + std::to_string(least) + " to " + std::to_string(most));
    }
    return node.integer;
  }

  double number(NodeId id) const {
    const Node& node = tree_[id];
    if (node.kind == Kind::integer) return static_cast<double>(node.integer);
    if (node.kind != Kind::number) tree_.fail(id, "expected a number");
    return node.number;
  }

  bool boolean(NodeId id) const {
    if (tree_[id].kind != Kind::boolean) tree_.fail(id, "expected true or false");
    return tree_[id].integer != 0;
  }

  std::string_view string(NodeId id) const {
    if (tree_[id].kind != Kind::string) tree_.fail(id, "expected a text");
    return tree_.string(id);
  }

  bool is_null(NodeId id) const { return tree_[id].kind == Kind::null; }

  // Calls f(element) for each element of a list.
  template <typename F>
  void each(NodeId id, F&& f) const {
    if (tree_[id].kind != Kind::array) tree_.fail(id, "expected a list");
    for (NodeId at = tree_.first(id); at != kNone; at = tree_[at].next) f(at);
  }
  uint32_t size(NodeId id) const { return tree_[id].count; }

  Range range(NodeId id) const {
    int64_t ends[2] = {};
    size_t count = 0;
    if (tree_[id].kind == Kind::array && size(id) == 2)
      each(id, [&](NodeId end) { ends[count++] = integer(end, 0, kMost); });
    if (count != 2) tree_.fail(id, "expected [begin, end]");
    if (ends[0] > ends[1]) tree_.fail(id, "begins after its end");
    return {ends[0], ends[1]};
  }

  // One of the names, as its index.
  template <typename NameOf>
  int choice(NodeId id, const char* kind, int count, NameOf&& name_at) const {
    const std::string_view given = string(id);
    std::vector<std::string_view> names;
    for (int i = 0; i < count; ++i) {
      if (given == name_at(i)) return i;
      names.push_back(name_at(i));
    }
    throw Error(ErrorCode::format, tree_.place(id) + ": " + unknown_name_error(kind, given, names).what());
  }

  DType dtype(NodeId id) const {
    return static_cast<DType>(choice(id, "type", 4, [](int i) { return name_of(static_cast<DType>(i)); }));
  }

 private:
  const Tree& tree_;
};

}  // namespace weft::json_internal
