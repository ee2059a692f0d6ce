#include "weft/draw/chart.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "weft/base/text.h"
#include "weft/draw/canvas.h"

namespace weft {
namespace {

using draw_internal::Canvas;
using draw_internal::fitted;
using draw_internal::kFaint;
using draw_internal::kMuted;
using draw_internal::kRule;
using draw_internal::number;
using draw_internal::oklch;
using draw_internal::text_width;

constexpr double kWidth = 760, kHeight = 460, kLeft = 78, kRight = 32, kTop = 116, kBottom = 62;
constexpr size_t kMostPoints = 2000;  // of one line; more cannot be seen

std::string line_colour(size_t i) { return oklch(0.58, 0.13, 255 - 115.0 * static_cast<double>(i)); }

// One axis: which values it shows, and where its ticks stand.
struct ChartAxis {
  double low = 0, high = 1;
  bool logarithmic = false;
  std::vector<double> ticks;

  static ChartAxis over(double low, double high, bool logarithmic) {
    ChartAxis axis{low, high, logarithmic, {}};
    if (logarithmic) {
      // 1, 2, 5, 10, ... as far as they enclose the values; over many decades only powers of ten.
      const bool wide = high / low > 1e3;
      std::vector<double> marks;
      const int last = static_cast<int>(std::ceil(std::log10(high)));
      for (int d = static_cast<int>(std::floor(std::log10(low))); d <= last + 1; ++d) {
        for (double digit : {1.0, 2.0, 5.0}) {
          if (digit == 1 || !wide) marks.push_back(digit * std::pow(10, d));
        }
      }
      size_t first = 0, end = 1;
      while (first + 1 < marks.size() && marks[first + 1] <= low) ++first;
      end = first + 1;
      while (end + 1 < marks.size() && marks[end] < high) ++end;
      axis.low = marks[first], axis.high = marks[end];
      const size_t every = (end - first) / 8 + 1;
      for (size_t i = first; i <= end; i += every) axis.ticks.push_back(marks[i]);
      return axis;
    }
    if (!(high - low > std::abs(high) * 1e-9)) {  // one value: put it in the middle
      const double around = high == 0 ? 1 : std::abs(high) * 0.5;
      axis.low = low - around, axis.high = high + around;
    }
    // 1, 2 or 5 times a power of ten, for about six ticks.
    const double rough = (axis.high - axis.low) / 6, power = std::pow(10, std::floor(std::log10(rough)));
    const double step = power * (rough / power > 5 ? 10 : rough / power > 2 ? 5 : rough / power > 1 ? 2 : 1);
    axis.low = std::floor(axis.low / step + 1e-9) * step;
    axis.high = std::ceil(axis.high / step - 1e-9) * step;
    const int count = static_cast<int>(std::lround((axis.high - axis.low) / step));
    for (int i = 0; i <= count; ++i) axis.ticks.push_back(axis.low + i * step);
    return axis;
  }

  double share(double value) const {
    if (logarithmic) return std::log(value / low) / std::log(high / low);
    return (value - low) / (high - low);
  }
  std::string label(double tick) const {
    if (std::abs(tick) < (high - low) * 1e-9 && !logarithmic) return "0";
    const double size = std::max(std::abs(low), std::abs(high));
    if (size >= 1e6 || size < 1e-3) {
      char text[32];
      std::snprintf(text, sizeof text, "%.3g", tick);
      return text;
    }
    const double step = ticks.size() > 1 ? std::abs(ticks[1] - ticks[0]) : 1;
    const double finest = logarithmic ? std::min(tick, 1.0) : step;
    return format_fixed(tick, std::clamp(static_cast<int>(std::ceil(-std::log10(finest) - 1e-9)), 0, 9));
  }
};

class Plot {
 public:
  explicit Plot(const Chart& chart) : chart_(chart) {
    double low_x = HUGE_VAL, high_x = -HUGE_VAL, low_y = HUGE_VAL, high_y = -HUGE_VAL;
    for (const Series& series : chart.series) {
      for (size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i) {
        if (!std::isfinite(series.x[i]) || !std::isfinite(series.y[i])) continue;
        low_x = std::min(low_x, series.x[i]), high_x = std::max(high_x, series.x[i]);
        low_y = std::min(low_y, series.y[i]), high_y = std::max(high_y, series.y[i]);
      }
    }
    empty_ = !(low_x <= high_x);
    if (empty_) low_x = low_y = 0, high_x = high_y = 1;
    logarithmic_ = chart.log_y && low_y > 0;
    x_ = ChartAxis::over(low_x, high_x, false);
    y_ = ChartAxis::over(low_y, high_y, logarithmic_);
    x_.low = low_x < high_x ? low_x : x_.low;  // lines begin and end at the frame
    x_.high = low_x < high_x ? high_x : x_.high;
  }

  std::string draw() {
    const double room = kWidth - 64;
    canvas_.text(32, 46, fitted(chart_.title, 22, room), {.size = 22, .bold = true});
    canvas_.text(32, 68, fitted(chart_.subtitle, 13, room), {.size = 13, .fill = kMuted});
    axes();
    for (size_t i = 0; i < chart_.series.size(); ++i) line(chart_.series[i], line_colour(i));
    names();
    if (empty_)
      canvas_.text((kLeft + kWidth - kRight) / 2, kHeight / 2, "no values", {.anchor = "middle", .fill = kMuted});
    return canvas_.finish(kWidth, kHeight, chart_.title);
  }

 private:
  double across(double value) const { return kLeft + x_.share(value) * (kWidth - kLeft - kRight); }
  double down(double value) const { return kHeight - kBottom - y_.share(value) * (kHeight - kTop - kBottom); }

  void axes() {
    for (double tick : y_.ticks) {
      canvas_.line(kLeft, down(tick), kWidth - kRight, down(tick), {.stroke = kRule});
      canvas_.text(kLeft - 10, down(tick) + 4, y_.label(tick), {.size = 11, .anchor = "end", .fill = kMuted});
    }
    const double base = kHeight - kBottom;
    canvas_.line(kLeft, base, kWidth - kRight, base, {.stroke = kFaint});
    for (double tick : x_.ticks) {
      if (tick < x_.low - 1e-9 * (x_.high - x_.low) || tick > x_.high + 1e-9 * (x_.high - x_.low)) continue;
      canvas_.line(across(tick), base, across(tick), base + 5, {.stroke = kFaint});
      canvas_.text(across(tick), base + 20, x_.label(tick), {.size = 11, .anchor = "middle", .fill = kMuted});
    }
    canvas_.text((kLeft + kWidth - kRight) / 2, kHeight - 18, fitted(chart_.x_label, 12, 400),
                 {.size = 12, .anchor = "middle", .fill = kMuted});
    canvas_.text(32, kTop - 16, fitted(chart_.y_label, 12, 200), {.size = 12, .fill = kMuted});
  }

  void line(const Series& series, const std::string& colour) {
    const size_t size = std::min(series.x.size(), series.y.size());
    const size_t every = std::max<size_t>(1, (size + kMostPoints - 1) / kMostPoints);
    std::string path;
    bool pen_down = false;
    size_t points = 0;
    double last_x = 0, last_y = 0;
    for (size_t i = 0; i < size; ++i) {
      if (i % every != 0 && i + 1 != size) continue;
      if (!std::isfinite(series.x[i]) || !std::isfinite(series.y[i])) {
        pen_down = false;
        continue;
      }
      last_x = across(series.x[i]), last_y = down(series.y[i]);
      path += (pen_down ? "L" : "M") + number(last_x) + " " + number(last_y);
      pen_down = true;
      ++points;
    }
    if (points == 0) return;
    canvas_.path(path, {.stroke = colour, .width = 1.8});
    // The end of a line, or a single point, is worth a mark.
    canvas_.raw("<circle cx=\"" + number(last_x) + "\" cy=\"" + number(last_y) + "\" r=\"3.2\" fill=\"" + colour +
                "\"/>\n");
  }

  // The lines' names, right-aligned above the frame.
  void names() {
    if (chart_.series.size() < 2 && (chart_.series.empty() || chart_.series[0].name.empty())) return;
    double x = kWidth - kRight;
    for (size_t i = chart_.series.size(); i-- > 0;) {
      const std::string name = fitted(chart_.series[i].name, 12, 140);
      x -= text_width(name, 12);
      if (x < 250) return;  // more than fit
      canvas_.text(x, kTop - 16, name, {.size = 12, .fill = kMuted});
      x -= 24;
      canvas_.line(x, kTop - 20, x + 16, kTop - 20, {.stroke = line_colour(i), .width = 2.4});
      x -= 16;
    }
  }

  const Chart& chart_;
  Canvas canvas_;
  ChartAxis x_, y_;
  bool empty_ = false, logarithmic_ = false;
};

}  // namespace

std::string draw_chart(const Chart& chart) { return Plot(chart).draw(); }

}  // namespace weft
