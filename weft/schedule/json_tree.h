// The part of a JSON document that is being read, as a flat list of nodes. Internal to the JSON reader.
//
// A schedule's programs are handed on instruction by instruction and forgotten, so that memory holds one of them and
// never the document. Limits on depth, members and nodes are checked while the text is read, before anything of the
// size that it claims is allocated.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace weft::json_internal {

enum class Kind : uint8_t { null, boolean, integer, number, string, array, object };

using NodeId = uint32_t;
inline constexpr NodeId kNone = ~NodeId{0};

struct Node {
  Kind kind = Kind::null;
  uint16_t key = 0;  // name within an object, see Tree::name
  NodeId parent = kNone;
  NodeId next = kNone;  // sibling
  uint32_t count = 0;   // elements seen, forgotten ones included; the length of a string
  union {
    int64_t integer = 0;  // also booleans, and the offset of a string
    double number;
    struct {
      NodeId first, last;
    } children;
  };
};

struct Limits {
  int64_t instructions;
  uint32_t ranks = 65536;
  uint32_t depth = 12;
  uint32_t members = 32;        // of one object
  uint32_t elements = 1 << 20;  // of one list other than programs: intervals, parts, runs, rectangles
  uint32_t nodes = 1 << 24;     // held at one time
  uint32_t text = 200;          // characters of one string
};

class Tree {
 public:
  // Reads a document. Calls instruction(rank, node) for each element of root.programs[rank], whose nodes are gone
  // afterwards. Throws Error(format).
  void read(std::string_view text, const Limits& limits, const std::function<void(uint32_t rank, NodeId)>& instruction);

  NodeId root() const { return 0; }
  const Node& operator[](NodeId id) const { return nodes_[id]; }
  NodeId first(NodeId parent) const;
  std::string_view string(NodeId id) const {
    return std::string_view(strings_).substr(static_cast<size_t>(nodes_[id].integer), nodes_[id].count);
  }
  std::string_view name(NodeId id) const { return names_[nodes_[id].key]; }
  // Member of an object, or kNone.
  NodeId find(NodeId object, std::string_view name) const;

  // "programs[3][17].parts[0]"; "the document" for the root.
  std::string place(NodeId id) const;
  // Throws Error(format) "place: message".
  [[noreturn]] void fail(NodeId id, const std::string& message) const;

 private:
  friend class Reader;

  std::vector<Node> nodes_;
  std::string strings_;
  std::vector<std::string> names_;
};

}  // namespace weft::json_internal
