// A progress line for work that a person waits for.
//
//   Progress progress("verify", instructions);
//   for (...) progress.update(done, "rank 3 of 8");
//   // verify [#########...........]  45%  3m 20s left  rank 3 of 8
//
// The line appears on stderr, only when stderr is a terminal and only after two seconds, and is
// wiped when the object ends, before an error is printed for example. Otherwise nothing happens.
// stdout is never touched. Use it from one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace weft {

// The text of a progress line, cut to `width` characters. `total` 0 means unknown: then there is no
// bar and no time left.
std::string progress_line(std::string_view label, int64_t done, int64_t total, double elapsed, std::string_view note,
                          int width);

class Progress {
 public:
  // What a test replaces.
  struct Surroundings {
    bool terminal = false;
    int width = 80;
    std::function<double()> seconds;              // a steady clock
    std::function<void(std::string_view)> write;  // to the terminal
  };

  explicit Progress(std::string label, int64_t total = 0);
  Progress(std::string label, int64_t total, Surroundings surroundings);
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Cheap enough for every item of work that takes a microsecond; draws ten times a second at most.
  void update(int64_t done, std::string_view note = {});
  // Wipes the line. Called by the destructor.
  void finish();

 private:
  std::string label_;
  int64_t total_;
  Surroundings surroundings_;
  double begin_ = 0;
  double next_draw_ = 0;
  bool drawn_ = false;
};

}  // namespace weft
