// Method: one published way to split attention over ranks, as a function that makes a writer.
//
// A method file holds a coroutine that writes one rank's program, and one Method record that says what the method is
// and what it needs. docs/add-a-method.md shows how to add one.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "weft/base/text.h"
#include "weft/methods/formula.h"
#include "weft/schedule/builder.h"
#include "weft/schedule/schedule.h"

namespace weft {

// One `--option key=value` of a method:
//
//   .options = {MethodOption::choice("placement", "inner", {"inner", "outer"}, "which ranks are adjacent"),
//               MethodOption::integer("ulysses", "auto", {.min = 1, .max = 65536}, "ranks that trade heads", {"auto"})}
struct MethodOption {
  enum class Kind { choice, integer };

  std::string_view name;
  std::string_view fallback;  // the value when none is given
  std::string_view meaning;
  Kind kind = Kind::choice;
  std::vector<std::string_view> choices{};  // all values of a choice; words that stand for an integer, as "auto"
  Limits limits{};                          // of an integer

  static MethodOption choice(std::string_view name, std::string_view fallback, std::vector<std::string_view> choices,
                             std::string_view meaning);
  static MethodOption integer(std::string_view name, std::string_view fallback, Limits limits, std::string_view meaning,
                              std::vector<std::string_view> words = {});
  // For people: "inner or outer", "auto, or 1 to 65536".
  std::string allowed() const;
};
std::string_view name_of(MethodOption::Kind kind);

// Options as given, with their defaults filled in.
class MethodOptions {
 public:
  // Throws Error(usage), one line with what is allowed and the nearest, for a key that is not among `known` and for a
  // value that its option does not take.
  MethodOptions(std::string_view method, const std::vector<MethodOption>& known,
                const std::map<std::string, std::string>& given);

  const std::string& text(std::string_view name) const;
  bool is(std::string_view name, std::string_view value) const { return text(name) == value; }
  // The value of an integer that is not one of its words.
  int64_t integer(std::string_view name) const;

 private:
  void check(const MethodOption& option) const;
  std::string method_;
  std::map<std::string, std::string, std::less<>> values_;
};

// Packed documents and what a query may see in its own: what a layout is chosen for. One length is a single sequence.
struct Documents {
  Documents(std::vector<int64_t> all, MaskRule in_each = {.causal = true}) : lengths(std::move(all)), rule(in_each) {}
  Documents(std::initializer_list<int64_t> all) : lengths(all) {}

  std::vector<int64_t> lengths;
  MaskRule rule{.causal = true};
};

// The layers that a method is for.
enum class Family : uint8_t {
  softmax,  // attention
  linear,   // recurrences over a state (schedule/layer.h): a method is a way to scan over the ranks
};

struct Method {
  std::string_view name;
  Family family = Family::softmax;
  std::string_view paper;    // authors, year, arXiv id
  std::string_view summary;  // one sentence
  std::string_view masks;    // which masks it takes
  std::string_view needs;    // what it asks of tokens, ranks and heads, in words
  bool reference = false;    // to compare with: plain loops and memory of tokens^2; timed only when named
  std::vector<MethodOption> options;
  // The layout it is published with.
  Layout (*layout)(const Documents& documents, int ranks, const MethodOptions& options);
  // A writer for this problem. Whatever all ranks share is computed here, once. Throws Error(unsupported) with the
  // reason and a way out when the method cannot do it.
  Writer (*writer)(std::shared_ptr<const Problem> problem, const MethodOptions& options);
  // What it costs, without writing a schedule; null while no formula is known. Call formula_of (registry.h) instead.
  Formula (*formula)(const Configuration& configuration, const MethodOptions& options) = nullptr;
  // Of linear layers: whether it has a way for tokens that read all of their document (Problem::bidirectional).
  bool both_ways = false;
  // Of linear layers: whether it can compute every document from its begin to its end as one rank does, for canonical results.
  bool in_order = false;
  // Of an alias: the method that writes the same schedule, given the same layout and the alias's option values as its own.
  std::string_view alias_of{};
};

// The layout that most methods are published with: zigzag, each document by itself when several are packed.
Layout zigzag_layout(const std::vector<int64_t>& lengths, int ranks);
Layout zigzag_layout(const Documents& documents, int ranks, const MethodOptions& options);
// Shards in the order of tokens.
Layout contiguous_layout(const Documents& documents, int ranks, const MethodOptions& options);

}  // namespace weft
