#include "weft/base/text.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>
#include <system_error>

namespace weft {
namespace {

constexpr std::string_view kSpace = " \t\r\n\f\v";

bool is_space(char c) { return kSpace.find(c) != std::string_view::npos; }

std::string_view trim(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

std::string limits_text(Limits limits) {
  if (limits.max == std::numeric_limits<int64_t>::max()) return "of at least " + std::to_string(limits.min);
  return "from " + std::to_string(limits.min) + " to " + std::to_string(limits.max);
}

Error count_error(std::string_view what, std::string_view text, const char* problem, Limits limits) {
  return Error(ErrorCode::usage, std::string(what) + ": " + in_quotes(text) + " is " + problem +
                                     "; give a whole number " + limits_text(limits) + " (suffix K = 1024, M = 1024^2)");
}

// `value` with `digits` decimals, less trailing zeros.
std::string short_number(double value, int digits) {
  std::string text = format_fixed(value, digits);
  if (text.find('.') != std::string::npos) {
    while (text.back() == '0') text.pop_back();
    if (text.back() == '.') text.pop_back();
  }
  return text;
}

std::string two_digits(int64_t value) { return (value < 10 ? "0" : "") + std::to_string(value); }

// A list may be large (millions of documents), but a device or a mistaken path must not fill the
// memory.
constexpr int64_t kMaxListFileBytes = int64_t{1} << 26;

std::string read_list_file(std::string_view what, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string content;
  char buffer[1 << 16];
  while (file && static_cast<int64_t>(content.size()) <= kMaxListFileBytes) {
    file.read(buffer, sizeof buffer);
    content.append(buffer, static_cast<size_t>(file.gcount()));
  }
  if (!file.eof() && static_cast<int64_t>(content.size()) <= kMaxListFileBytes) {
    throw Error(ErrorCode::io,
                std::string(what) + ": cannot read " + in_quotes(path) + ": " + std::strerror(errno ? errno : EIO));
  }
  if (static_cast<int64_t>(content.size()) > kMaxListFileBytes) {
    throw Error(ErrorCode::usage, std::string(what) + ": " + in_quotes(path) + " is larger than " +
                                      format_bytes(kMaxListFileBytes) + "; it must hold only a list of numbers");
  }
  return content;
}

}  // namespace

std::string in_quotes(std::string_view text) {
  constexpr size_t kLongest = 60;
  std::string out = "'";
  for (const char c : text.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 32 && byte < 127) {
      out += c;
    } else {
      constexpr char kHex[] = "0123456789abcdef";
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  if (text.size() > kLongest) out += "...";
  return out + "'";
}

std::string format_fixed(double value, int digits) {
  if (!std::isfinite(value)) return format_double(value);
  std::array<char, 400> buffer;  // 309 digits before the point at most
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed,
                                    std::clamp(digits, 0, 60));
  return std::string(buffer.data(), result.ptr);
}

std::string format_double(double value) {
  std::array<char, 32> buffer;
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return std::string(buffer.data(), result.ptr);
}

std::string format_bytes(int64_t bytes) {
  constexpr std::array<const char*, 7> kUnits = {" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (std::abs(value) >= 1023.95 && unit + 1 < kUnits.size()) {  // 1023.95 would be shown as "1024"
    value /= 1024;
    ++unit;
  }
  return short_number(value, unit == 0 ? 0 : 1) + kUnits[unit];
}

std::string format_count(double count) {
  constexpr std::array<const char*, 7> kUnits = {"", " k", " M", " G", " T", " P", " E"};
  if (!std::isfinite(count)) return format_double(count);
  size_t unit = 0;
  while (std::abs(count) >= 999.5 && unit + 1 < kUnits.size()) {
    count /= 1000;
    ++unit;
  }
  const double size = std::abs(count);
  return short_number(count, size < 9.995 ? 2 : size < 99.95 ? 1 : 0) + kUnits[unit];
}

std::string format_duration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e12) return "?";
  if (seconds < 0.9995e-3) return short_number(seconds * 1e6, seconds < 99.95e-6 ? 1 : 0) + " us";
  if (seconds < 0.9995) return short_number(seconds * 1e3, seconds < 99.95e-3 ? 1 : 0) + " ms";
  if (seconds < 59.95) return short_number(seconds, 1) + " s";
  const int64_t whole = std::llround(seconds);
  if (whole < 3600) return std::to_string(whole / 60) + "m " + two_digits(whole % 60) + "s";
  if (whole < 86400) return std::to_string(whole / 3600) + "h " + two_digits(whole / 60 % 60) + "m";
  return std::to_string(whole / 86400) + "d " + two_digits(whole / 3600 % 24) + "h";
}

int64_t parse_count(std::string_view what, std::string_view text, Limits limits) {
  std::string_view digits = text;
  int64_t unit = 1;
  if (!digits.empty()) {
    const char suffix = digits.back();
    if (suffix == 'K' || suffix == 'k') unit = int64_t{1} << 10;
    if (suffix == 'M' || suffix == 'm') unit = int64_t{1} << 20;
    if (unit != 1) digits.remove_suffix(1);
  }
  int64_t value = 0;
  const char* end = digits.data() + digits.size();
  const auto result = std::from_chars(digits.data(), end, value);
  if (result.ec == std::errc::invalid_argument || result.ptr != end) {
    throw count_error(what, text, text.empty() ? "empty" : "not a whole number", limits);
  }
  int64_t scaled = 0;
  if (result.ec != std::errc() || __builtin_mul_overflow(value, unit, &scaled)) {
    throw count_error(what, text, "too large", limits);
  }
  if (scaled < limits.min || scaled > limits.max) throw count_error(what, text, "out of range", limits);
  return scaled;
}

double parse_double(std::string_view what, std::string_view text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (result.ec != std::errc() || result.ptr != end || !std::isfinite(value)) {
    throw Error(ErrorCode::usage,
                std::string(what) + ": " + in_quotes(text) + " is not a finite number; give one such as 0.125 or 1e-3");
  }
  return value;
}

std::vector<int64_t> parse_list(std::string_view what, std::string_view text, Limits limits) {
  std::string content;
  if (text.starts_with('@')) {
    content = read_list_file(what, std::string(text.substr(1)));
    text = content;
  }
  text = trim(text);
  if (text.empty()) {
    throw Error(ErrorCode::usage, std::string(what) + ": the list is empty; give numbers such as 4,1,9, or @file");
  }
  std::vector<int64_t> out;
  while (true) {
    const size_t length = std::min(text.find_first_of(", \t\r\n\f\v"), text.size());
    if (length == 0) {
      throw Error(ErrorCode::usage, std::string(what) + ": entry " + std::to_string(out.size() + 1) +
                                        " of the list is empty; give numbers such as 4,1,9");
    }
    out.push_back(parse_count(what, text.substr(0, length), limits));
    text = trim(text.substr(length));
    if (text.empty()) return out;
    if (text.front() == ',') text = trim(text.substr(1));
  }
}

int edit_distance(std::string_view a, std::string_view b) {
  // Three rolling rows: a swap of neighbours looks two rows back.
  std::vector<int> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int cost = a[i - 1] == b[j - 1] ? 0 : 1;
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + cost});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

std::optional<std::string_view> nearest_name(std::string_view given, const std::vector<std::string_view>& allowed) {
  constexpr size_t kLongestName = 100;  // a hostile name must not cost time
  std::optional<std::string_view> best;
  if (given.empty() || given.size() > kLongestName) return best;
  int best_distance = std::numeric_limits<int>::max();
  for (const std::string_view name : allowed) {
    // A prefix of at least three letters counts as near: "zig" means "zigzag".
    const bool prefix = given.size() >= 3 && name.starts_with(given);
    const int distance = prefix ? 1 : edit_distance(given, name);
    const int tolerance = std::max<int>(1, static_cast<int>(std::max(given.size(), name.size())) / 3);
    if (distance <= tolerance && distance < best_distance) {
      best = name;
      best_distance = distance;
    }
  }
  return best;
}

Error unknown_name_error(std::string_view kind, std::string_view given, const std::vector<std::string_view>& allowed) {
  std::string message = "unknown " + std::string(kind) + " " + in_quotes(given);
  if (const auto near = nearest_name(given, allowed)) message += "; did you mean '" + std::string(*near) + "'?";
  message += message.back() == '?' ? " known: " : "; known: ";
  message += allowed.empty() ? "none" : join(allowed);
  return Error(ErrorCode::usage, message);
}

}  // namespace weft
