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

#include "weft/schedule/builder.h"
#include "weft/schedule/schedule.h"

namespace weft {

// One `--option key=value` of a method.
struct MethodOption {
  std::string_view name;
  std::string_view fallback;  // the value when none is given
  std::string_view allowed;   // shown to the user: "1 or -1", "a divisor of ranks"
  std::string_view meaning;
};

// Options as given, with their defaults filled in. Typed getters throw Error(usage) with what is allowed.
class MethodOptions {
 public:
  // Throws Error(usage) for a key that is not among `known`.
  MethodOptions(std::string_view method, const std::vector<MethodOption>& known,
                const std::map<std::string, std::string>& given);

  const std::string& text(std::string_view name) const;
  // The value as one of `choices`.
  const std::string& choice(std::string_view name, const std::vector<std::string_view>& choices) const;
  int64_t integer(std::string_view name, int64_t min, int64_t max) const;

 private:
  [[noreturn]] void refuse(std::string_view name) const;
  const std::vector<MethodOption>* known_;
  std::string method_;
  std::map<std::string, std::string, std::less<>> values_;
};

struct Method {
  std::string_view name;
  std::string_view paper;    // authors, year, arXiv id
  std::string_view summary;  // one sentence
  std::string_view masks;    // which masks it takes
  std::string_view needs;    // what it asks of tokens, ranks and heads, in words
  std::vector<MethodOption> options;
  // The layout it is published with, for packed documents of the given lengths.
  Layout (*layout)(const std::vector<int64_t>& lengths, int ranks, const MethodOptions& options);
  // A writer for this problem. Whatever all ranks share is computed here, once. Throws Error(unsupported) with the
  // reason and a way out when the method cannot do it.
  Writer (*writer)(std::shared_ptr<const Problem> problem, const MethodOptions& options);
};

}  // namespace weft
