#include "weft/methods/method.h"

#include <charconv>

#include "weft/base/error.h"
#include "weft/base/text.h"

namespace weft {

MethodOptions::MethodOptions(std::string_view method, const std::vector<MethodOption>& known,
                             const std::map<std::string, std::string>& given)
    : known_(&known), method_(method) {
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
      throw Error(ErrorCode::usage, "unknown option '" + key + "'; method " + method_ + " has no options");
    } else {
      throw unknown_name_error("option of method " + method_, key, names);
    }
  }
}

const std::string& MethodOptions::text(std::string_view name) const { return values_.find(name)->second; }

void MethodOptions::refuse(std::string_view name) const {
  for (const MethodOption& option : *known_) {
    if (option.name != name) continue;
    throw Error(ErrorCode::usage, "option " + std::string(name) + " of method " + method_ + " is '" + text(name) +
                                      "'; use " + std::string(option.allowed));
  }
  WEFT_CHECK(false);
}

const std::string& MethodOptions::choice(std::string_view name, const std::vector<std::string_view>& choices) const {
  const std::string& value = text(name);
  for (std::string_view choice : choices) {
    if (value == choice) return value;
  }
  refuse(name);
}

int64_t MethodOptions::integer(std::string_view name, int64_t min, int64_t max) const {
  const std::string& value = text(name);
  int64_t number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || number < min || number > max) refuse(name);
  return number;
}

}  // namespace weft
