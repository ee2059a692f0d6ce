// Line charts as SVG, in the look of the schedule pictures.
//
//   draw_chart({.title = "loss", .x_label = "step", .y_label = "loss", .series = {{"train", steps, losses}}});
#pragma once

#include <string>
#include <vector>

namespace weft {

struct Series {
  std::string name;
  std::vector<double> x, y;  // of equal length; points that are not finite leave a gap
};

struct Chart {
  std::string title;
  std::string x_label, y_label;
  std::vector<Series> series;
  std::string subtitle;  // may be empty
  bool log_y = false;    // logarithmic y axis, when all values are positive
};

std::string draw_chart(const Chart& chart);

}  // namespace weft
