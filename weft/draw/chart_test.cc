#include "weft/draw/chart.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "weft/draw/canvas.h"

namespace weft {
namespace {

int count(const std::string& text, std::string_view part) {
  int found = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++found;
  return found;
}

Chart chart_of(std::vector<double> x, std::vector<double> y) {
  Chart chart;
  chart.title = "loss";
  chart.x_label = "step";
  chart.series = {{"train", std::move(x), std::move(y)}};
  return chart;
}

TEST(Chart, DrawsOneLinePerSeries) {
  Chart chart = chart_of({0, 1, 2}, {3, 2, 1});
  chart.series.push_back({"evaluation", {0, 2}, {3, 2}});
  const std::string svg = draw_chart(chart);
  EXPECT_EQ(count(svg, "<circle"), 2);
  EXPECT_EQ(count(svg, ">train<"), 1);
  EXPECT_EQ(count(svg, ">evaluation<"), 1);
  EXPECT_EQ(count(svg, ">loss<"), 2);  // title and heading
}

TEST(Chart, TicksAreRoundNumbers) {
  const std::string svg = draw_chart(chart_of({0, 100}, {0.13, 0.47}));
  for (const char* tick : {">0.1<", ">0.2<", ">0.3<", ">0.4<", ">0.5<", ">20<", ">40<", ">100<"}) {
    EXPECT_NE(svg.find(tick), std::string::npos) << tick;
  }
}

TEST(Chart, TakesWhateverItIsGiven) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_NE(draw_chart({}).find("no values"), std::string::npos);
  EXPECT_NE(draw_chart(chart_of({1}, {nan})).find("no values"), std::string::npos);
  for (const auto& y : std::vector<std::vector<double>>{
           {5}, {5, 5}, {0, 0}, {-1e300, 1e300}, {1e-300, 2e-300}, {1, nan, 2}, {infinity, 1, 2}, {-3, -2}}) {
    std::vector<double> x;
    for (size_t i = 0; i < y.size(); ++i) x.push_back(static_cast<double>(i));
    for (bool logarithmic : {false, true}) {
      Chart chart = chart_of(x, y);
      chart.log_y = logarithmic;
      const std::string svg = draw_chart(chart);
      EXPECT_EQ(svg.find("nan"), std::string::npos);
      EXPECT_EQ(svg.find("inf"), std::string::npos);
      EXPECT_LT(svg.size(), 10000u);
    }
  }
}

TEST(Chart, GapsBreakTheLine) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::string whole = draw_chart(chart_of({0, 1, 2, 3, 4}, {1, 2, 2, 3, 4}));
  const std::string broken = draw_chart(chart_of({0, 1, 2, 3, 4}, {1, 2, nan, 3, 4}));
  EXPECT_EQ(count(broken, "M"), count(whole, "M") + 1);
}

TEST(Chart, ManyPointsStaySmall) {
  std::vector<double> x, y;
  for (int i = 0; i < 100000; ++i) x.push_back(i), y.push_back(std::sin(i));
  EXPECT_LT(draw_chart(chart_of(x, y)).size(), 60000u);
}

TEST(Chart, LogarithmicTicks) {
  Chart chart = chart_of({0, 1}, {1.3, 5.5});
  chart.log_y = true;
  const std::string svg = draw_chart(chart);
  for (const char* tick : {">1<", ">2<", ">5<", ">10<"}) EXPECT_NE(svg.find(tick), std::string::npos) << tick;
}

TEST(Canvas, EscapesText) {
  using draw_internal::escape;
  EXPECT_EQ(escape("a<b>&\"c\"\n"), "a&lt;b&gt;&amp;&quot;c&quot; ");
}

TEST(Canvas, NumbersAreShort) {
  using draw_internal::number;
  EXPECT_EQ(number(12), "12");
  EXPECT_EQ(number(0.126), "0.13");
  EXPECT_EQ(number(-0.001), "0");
  EXPECT_EQ(number(1.5), "1.5");
}

TEST(Canvas, FittedCutsWithDots) {
  using draw_internal::fitted;
  using draw_internal::text_width;
  EXPECT_EQ(fitted("short", 10, 100), "short");
  const std::string cut = fitted("a long name that does not fit", 10, 60);
  EXPECT_TRUE(cut.ends_with(".."));
  EXPECT_LE(text_width(cut, 10), 60);
}

TEST(Canvas, ColoursDiffer) {
  using draw_internal::colour_of;
  for (int i = 1; i < 16; ++i) EXPECT_NE(colour_of(i, 16), colour_of(i - 1, 16));
  EXPECT_EQ(colour_of(3, 8).size(), 7u);
}

}  // namespace
}  // namespace weft
