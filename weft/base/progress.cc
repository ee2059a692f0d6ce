#include "weft/base/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <utility>

#include "weft/base/text.h"

namespace weft {
namespace {

constexpr double kQuietSeconds = 2;
constexpr double kSecondsBetweenDraws = 0.1;
constexpr int kBarWidth = 20;

double steady_seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

// A progress line that cannot be written is not worth an error.
void write_to_stderr(std::string_view text) {
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
}

Progress::Surroundings stderr_surroundings() {
  const char* kind = std::getenv("TERM");
  const bool dumb = kind == nullptr || std::string_view(kind) == "dumb";
  Progress::Surroundings result{
      .terminal = !dumb && ::isatty(STDERR_FILENO) == 1, .seconds = steady_seconds, .write = write_to_stderr};
  winsize size{};
  if (result.terminal && ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    result.width = size.ws_col;
  }
  return result;
}

}  // namespace

std::string progress_line(std::string_view label, int64_t done, int64_t total, double elapsed, std::string_view note,
                          int width) {
  std::string line(label);
  if (total > 0) {
    const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
    const auto filled = static_cast<size_t>(share * kBarWidth);
    const std::string percent = std::to_string(static_cast<int>(share * 100));
    line += " [" + std::string(filled, '#') + std::string(kBarWidth - filled, '.') + "] ";
    line += std::string(3 - percent.size(), ' ') + percent + "%";
    if (share > 0) line += "  " + format_duration(elapsed * (1 - share) / share) + " left";
  } else {
    line += "  " + std::to_string(done) + "  " + format_duration(elapsed);
  }
  if (!note.empty()) line += "  " + std::string(note);
  // The last column stays free: some terminals wrap there.
  if (static_cast<int>(line.size()) >= width) line.resize(static_cast<size_t>(std::max(width, 1)) - 1);
  return line;
}

Progress::Progress(std::string label, int64_t total) : Progress(std::move(label), total, stderr_surroundings()) {}

Progress::Progress(std::string label, int64_t total, Surroundings surroundings)
    : label_(std::move(label)), total_(total), surroundings_(std::move(surroundings)) {
  if (!surroundings_.terminal) return;
  begin_ = surroundings_.seconds();
  next_draw_ = begin_ + kQuietSeconds;
}

void Progress::update(int64_t done, std::string_view note) {
  if (!surroundings_.terminal) return;
  const double now = surroundings_.seconds();
  if (now < next_draw_) return;
  next_draw_ = now + kSecondsBetweenDraws;
  drawn_ = true;
  const std::string line = progress_line(label_, done, total_, now - begin_, note, surroundings_.width);
  surroundings_.write("\r" + line + "\x1b[K");
}

void Progress::finish() {
  if (drawn_) surroundings_.write("\r\x1b[K");
  drawn_ = false;
}

}  // namespace weft
