#include "weft/base/progress.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

struct Terminal {
  double now = 100;
  std::string written;
  Progress::Surroundings surroundings(bool terminal = true) {
    return {.terminal = terminal,
            .width = 80,
            .seconds = [this] { return now; },
            .write = [this](std::string_view text) { written += text; }};
  }
};

TEST(ProgressLine, ShowsShareTimeLeftAndNote) {
  EXPECT_EQ(progress_line("verify", 45, 100, 90, "rank 3", 80),
            "verify [#########...........]  45%  1m 50s left  rank 3");
  EXPECT_EQ(progress_line("verify", 0, 100, 3, "", 80), "verify [....................]   0%");
  EXPECT_EQ(progress_line("verify", 200, 100, 3, "", 80), "verify [####################] 100%  0 us left");
  EXPECT_EQ(progress_line("read", 12, 0, 4.2, "", 80), "read  12  4.2 s");
}

TEST(ProgressLine, FitsTheTerminal) {
  EXPECT_EQ(progress_line("verify", 45, 100, 90, std::string(100, 'x'), 40).size(), 39u);
  EXPECT_EQ(progress_line("verify", 45, 100, 90, "", 0), "");
}

TEST(Progress, IsSilentForTwoSecondsAndWipesItsLine) {
  Terminal terminal;
  {
    Progress progress("verify", 100, terminal.surroundings());
    terminal.now += 1.9;
    progress.update(10);
    EXPECT_EQ(terminal.written, "");
    terminal.now += 0.2;
    progress.update(50);
    EXPECT_EQ(terminal.written, "\rverify [##########..........]  50%  2.1 s left\x1b[K");
    terminal.now += 0.05;  // too soon to draw again
    const std::string before = terminal.written;
    progress.update(60);
    EXPECT_EQ(terminal.written, before);
  }
  EXPECT_TRUE(terminal.written.ends_with("\r\x1b[K"));
}

TEST(Progress, ShortWorkAndPipesSeeNothing) {
  Terminal terminal;
  { Progress(std::string("verify"), 100, terminal.surroundings()).update(100); }
  {
    Progress progress("verify", 100, terminal.surroundings(false));
    terminal.now += 100;
    progress.update(50);
  }
  EXPECT_EQ(terminal.written, "");
}

}  // namespace
}  // namespace weft
