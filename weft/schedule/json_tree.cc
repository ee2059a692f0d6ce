#include "weft/schedule/json_tree.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "weft/base/error.h"
#include "weft/base/text.h"

namespace weft::json_internal {

// The parser's events, in the interface that nlohmann::json asks for.
class Reader {
 public:
  Reader(Tree& tree, std::string_view text, const Limits& limits,
         const std::function<void(uint32_t, NodeId)>& instruction)
      : tree_(tree), text_(text), limits_(limits), instruction_(instruction) {}

  bool null() { return add(Kind::null), leaf(); }
  bool boolean(bool value) { return add(Kind::boolean).integer = value, leaf(); }
  bool number_integer(int64_t value) { return add(Kind::integer).integer = value, leaf(); }
  bool number_unsigned(uint64_t value) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      return number_float(static_cast<double>(value), {});
    return number_integer(static_cast<int64_t>(value));
  }
  bool number_float(double value, const std::string&) { return add(Kind::number).number = value, leaf(); }
  bool string(std::string& value) {
    const size_t offset = tree_.strings_.size();
    Node& node = add(Kind::string);
    node.integer = static_cast<int64_t>(offset);
    node.count = static_cast<uint32_t>(value.size());
    if (value.size() > limits_.text) {
      tree_.fail(last(),
                 "a text of " + std::to_string(value.size()) + " bytes; use at most " + std::to_string(limits_.text));
    }
    tree_.strings_ += value;
    return leaf();
  }
  bool binary(std::vector<uint8_t>&) { return false; }

  bool start_object(size_t) { return open(Kind::object); }
  bool end_object() { return close(); }
  bool start_array(size_t) { return open(Kind::array); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    auto& names = tree_.names_;
    const size_t i = static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
    if (i == names.size()) {
      // Names are few in the format; a text full of others is refused at the first of them later on.
      if (names.size() >= 256 || name.size() > limits_.text)
        tree_.fail(open_.back(), "unknown field " + in_quotes(name));
      names.push_back(name);
    }
    key_ = static_cast<uint16_t>(i);
    const NodeId object = open_.back();
    if (tree_.find(object, name) != kNone) tree_.fail(object, "field " + in_quotes(name) + " is given twice");
    return true;
  }

  template <typename Exception>
  bool parse_error(size_t position, const std::string& token, const Exception& error) {
    const std::string_view before = text_.substr(0, std::min(position == 0 ? 0 : position - 1, text_.size()));
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const size_t column = before.size() - (before.rfind('\n') + 1) + 1;
    const bool range = std::string_view(error.what()).find("out_of_range") != std::string_view::npos;
    throw Error(ErrorCode::format, "not JSON at line " + std::to_string(line) + ", column " + std::to_string(column) +
                                       (range ? ": a number that overflows: " : ": unexpected ") +
                                       (position > text_.size() ? "end of the text" : in_quotes(token)));
  }

 private:
  NodeId last() const { return static_cast<NodeId>(tree_.nodes_.size() - 1); }

  // The depth of an element of programs[rank]: root, programs, rank.
  bool in_program() const { return open_.size() == 3 && is_programs(open_[1]) && tree_[open_[2]].kind == Kind::array; }
  bool is_programs(NodeId id) const {
    return tree_[id].parent == 0 && tree_[id].kind == Kind::array && tree_[0].kind == Kind::object &&
           tree_.name(id) == "programs";
  }

  Node& add(Kind kind) {
    auto& nodes = tree_.nodes_;
    if (nodes.size() >= limits_.nodes) tree_.fail(open_.back(), "too large; a schedule of this size is refused");
    const NodeId id = static_cast<NodeId>(nodes.size());
    Node& node = nodes.emplace_back();
    node.kind = kind;
    if (kind == Kind::array || kind == Kind::object) node.children = {kNone, kNone};
    if (open_.empty()) return node;
    const NodeId parent_id = open_.back();
    const bool program = in_program();
    Node& parent = nodes[parent_id];
    node.parent = parent_id;
    if (parent.kind == Kind::object) node.key = key_;
    ++parent.count;
    const uint32_t most = parent.kind == Kind::object ? limits_.members
                          : is_programs(parent_id)    ? limits_.ranks
                          : program                   ? std::numeric_limits<uint32_t>::max()
                                                      : limits_.elements;
    if (parent.count > most) tree_.fail(parent_id, "more than " + std::to_string(most) + " elements");
    if (program) {
      // Not linked: it goes as soon as it has been handed on. Its index is the parent's count.
      if (++instructions_ > limits_.instructions) {
        tree_.fail(parent_id, "more than " + std::to_string(limits_.instructions) +
                                  " instructions in the document; use fewer ranks, or --large");
      }
      if (kind != Kind::object) tree_.fail(id, "an instruction is an object {\"op\": ...}");
      strings_before_ = tree_.strings_.size();
      return node;
    }
    if (parent.children.first == kNone) {
      parent.children.first = id;
    } else {
      nodes[parent.children.last].next = id;
    }
    parent.children.last = id;
    return node;
  }

  bool leaf() {
    if (open_.size() == 2 && is_programs(open_[1])) tree_.fail(last(), "a program is a list of instructions");
    return true;
  }

  bool open(Kind kind) {
    if (open_.size() >= limits_.depth) tree_.fail(open_.back(), "nested too deeply");
    add(kind);
    if (kind == Kind::object) leaf();
    open_.push_back(last());
    return true;
  }

  bool close() {
    const NodeId id = open_.back();
    open_.pop_back();
    if (in_program()) {
      instruction_(tree_[open_[1]].count - 1, id);
      tree_.nodes_.resize(id);
      tree_.strings_.resize(strings_before_);
    }
    return true;
  }

  Tree& tree_;
  std::string_view text_;
  const Limits& limits_;
  const std::function<void(uint32_t, NodeId)>& instruction_;
  std::vector<NodeId> open_;
  uint16_t key_ = 0;
  int64_t instructions_ = 0;
  size_t strings_before_ = 0;
};

void Tree::read(std::string_view text, const Limits& limits,
                const std::function<void(uint32_t rank, NodeId)>& instruction) {
  Reader reader(*this, text, limits, instruction);
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
}

NodeId Tree::first(NodeId parent) const {
  const Node& node = nodes_[parent];
  return node.kind == Kind::array || node.kind == Kind::object ? node.children.first : kNone;
}

NodeId Tree::find(NodeId object, std::string_view wanted) const {
  if (nodes_[object].kind != Kind::object) return kNone;
  for (NodeId id = first(object); id != kNone; id = nodes_[id].next) {
    if (name(id) == wanted) return id;
  }
  return kNone;
}

std::string Tree::place(NodeId id) const {
  if (nodes_[id].parent == kNone) return "the document";
  std::string path;
  for (; nodes_[id].parent != kNone; id = nodes_[id].parent) {
    const Node& parent = nodes_[nodes_[id].parent];
    if (parent.kind == Kind::object) {
      std::string member(name(id));
      const bool plain =
          !member.empty() && member.size() <= 40 &&
          std::all_of(member.begin(), member.end(), [](char c) { return (c >= 'a' && c <= 'z') || c == '_'; });
      if (!plain) member = in_quotes(member);
      path = (nodes_[nodes_[id].parent].parent == kNone ? "" : ".") + member + path;
      continue;
    }
    // Elements of a program are not linked; the one being read is the newest.
    uint32_t index = 0;
    NodeId sibling = parent.children.first;
    while (sibling != kNone && sibling != id) ++index, sibling = nodes_[sibling].next;
    if (sibling == kNone) index = parent.count - 1;
    path = "[" + std::to_string(index) + "]" + path;
  }
  return path;
}

void Tree::fail(NodeId id, const std::string& message) const {
  throw Error(ErrorCode::format, place(id) + ": " + message);
}

}  // namespace weft::json_internal
