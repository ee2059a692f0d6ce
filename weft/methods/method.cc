#include "weft/methods/method.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

#include "weft/base/error.h"

namespace weft {
namespace {

std::optional<int64_t> number_of(std::string_view text, Limits limits) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return {};
  if (number < limits.min || number > limits.max) return {};
  return number;
}

}  // namespace

MethodOption MethodOption::choice(std::string_view name, std::string_view fallback,
                                  std::vector<std::string_view> choices, std::string_view meaning) {
  return {name, fallback, meaning, Kind::choice, std::move(choices), {}};
}

MethodOption MethodOption::integer(std::string_view name, std::string_view fallback, Limits limits,
                                   std::string_view meaning, std::vector<std::string_view> words) {
  return {name, fallback, meaning, Kind::integer, std::move(words), limits};
}

std::string MethodOption::allowed() const {
  if (kind == Kind::choice) return join(choices, " or ");
  const std::string range = std::to_string(limits.min) + " to " + std::to_string(limits.max);
  return choices.empty() ? range : join(choices, " or ") + ", or " + range;
}

std::string_view name_of(MethodOption::Kind kind) {
  switch (kind) {
    case MethodOption::Kind::choice: return "choice";
    case MethodOption::Kind::integer: return "integer";
  }
  WEFT_CHECK(false);
}

MethodOptions::MethodOptions(std::string_view method, const std::vector<MethodOption>& known,
                             const std::map<std::string, std::string>& given)
    : method_(method) {
  std::vector<std::string_view> names;
  for (const MethodOption& option : known) {
    values_.emplace(option.name, option.fallback);
    names.push_back(option.name);
  }
  for (const auto& [key, value] : given) {
    const auto found = values_.find(key);
    if (found != values_.end()) {
      found->second = value;
    } else if (names.empty()) {
      throw Error(ErrorCode::usage, "unknown option " + in_quotes(key) + "; method " + method_ + " has no options");
    } else {
      throw unknown_name_error("option of method " + method_, key, names);
    }
  }
  for (const MethodOption& option : known) check(option);
}

const std::string& MethodOptions::text(std::string_view name) const { return values_.find(name)->second; }

void MethodOptions::check(const MethodOption& option) const {
  const std::string& value = text(option.name);
  if (std::count(option.choices.begin(), option.choices.end(), value) > 0) return;
  if (option.kind == MethodOption::Kind::integer && number_of(value, option.limits)) return;
  std::string message = "option " + std::string(option.name) + " of method " + method_ + " is " + in_quotes(value);
  if (const auto near = nearest_name(value, option.choices)) message += "; did you mean '" + std::string(*near) + "'?";
  throw Error(ErrorCode::usage, message + (message.back() == '?' ? " use " : "; use ") + option.allowed());
}

int64_t MethodOptions::integer(std::string_view name) const {
  const auto number = number_of(text(name), {.min = std::numeric_limits<int64_t>::min()});  // limits: see check
  WEFT_CHECK(number.has_value());
  return *number;
}

Layout zigzag_layout(const std::vector<int64_t>& lengths, int ranks) {
  return make_layout(lengths.size() == 1 ? "zigzag" : "document-zigzag", lengths, ranks);
}

Layout zigzag_layout(const Documents& documents, int ranks, const MethodOptions&) {
  return zigzag_layout(documents.lengths, ranks);
}

Layout contiguous_layout(const Documents& documents, int ranks, const MethodOptions&) {
  return make_layout("contiguous", documents.lengths, ranks);
}

}  // namespace weft
