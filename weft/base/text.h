// Text in and out: numbers as people write and read them, lists, and helpful refusals.
//
//   parse_count("--tokens", "16K", {.min = 1});   // 16384
//   parse_list("--docs", "4,1,9", {.min = 1});   // {4, 1, 9}; also "4 1 9" and "@file"
//   format_bytes(1610612736);   // "1.5 GiB"
//   throw unknown_name_error("method", "zigzg", {"ring", "zigzag"});
//       // unknown method 'zigzg'; did you mean 'zigzag'? known: ring, zigzag
//
// Every parse either consumes the whole text or throws a one-line Error(usage) that starts with
// `what`, the name under which the user gave the value.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "weft/base/error.h"

namespace weft {

// "a, b, c". Elements are strings or numbers.
template <typename Parts>
std::string join(const Parts& parts, std::string_view separator = ", ") {
  std::string out;
  bool first = true;
  for (const auto& part : parts) {
    if (!first) out += separator;
    first = false;
    if constexpr (std::is_convertible_v<decltype(part), std::string_view>) {
      out += std::string_view(part);
    } else {
      out += std::to_string(part);
    }
  }
  return out;
}

// 'text' in single quotes, safe to put into a one-line message: control characters and bytes above
// 126 are written as \xNN, and anything beyond 60 characters is cut.
std::string in_quotes(std::string_view text);

// ---- formatting ---------------------------------------------------------------------------------

// "0 B", "640 B", "1.5 GiB": binary units, at most one decimal.
std::string format_bytes(int64_t bytes);

// "950", "12.3 k", "4.56 G": decimal units (k = 1000; a capital K in input means 1024), three
// digits.
std::string format_count(double count);

// "850 us", "12.3 ms", "4.2 s", "3m 20s", "2h 05m", "3d 04h".
std::string format_duration(double seconds);

// `digits` after the point, as printf's %.*f, but independent of the locale.
std::string format_fixed(double value, int digits);

// The shortest text that reads back as the same double.
std::string format_double(double value);

// ---- parsing ------------------------------------------------------------------------------------

// Allowed values, both ends included.
struct Limits {
  int64_t min = 0;
  int64_t max = std::numeric_limits<int64_t>::max();
};

// A whole number with an optional suffix K (1024) or M (1024^2), lower case too.
int64_t parse_count(std::string_view what, std::string_view text, Limits limits = {});

// A finite number in the C locale, e.g. "0.125" or "1e-3".
double parse_double(std::string_view what, std::string_view text);

// Counts separated by commas or white space (one comma at most between two), or "@file" to read
// them from a file. An empty list and an empty entry are refused.
std::vector<int64_t> parse_list(std::string_view what, std::string_view text, Limits limits = {});

// ---- names --------------------------------------------------------------------------------------

// Insertions, deletions, substitutions and swaps of neighbours that turn a into b.
int edit_distance(std::string_view a, std::string_view b);

// The allowed name that `given` was probably meant to be, if one is near enough.
std::optional<std::string_view> nearest_name(std::string_view given, const std::vector<std::string_view>& allowed);

// An Error(usage) that names what was given, the nearest allowed name and all allowed ones. The
// caller throws it.
Error unknown_name_error(std::string_view kind, std::string_view given, const std::vector<std::string_view>& allowed);

}  // namespace weft
