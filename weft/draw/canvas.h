// SVG text put together element by element, and the look that all pictures share. Internal to draw.
//
//   Canvas canvas;
//   canvas.rect({10, 10, 80, 20}, {.fill = colour_of(0, 4)});
//   canvas.text(50, 24, "k0", {.size = 12, .anchor = "middle"});
//   std::string svg = canvas.finish(100, 40, "title");
#pragma once

#include <string>
#include <string_view>

namespace weft::draw_internal {

// A quiet palette: warm paper, near-black ink.
inline constexpr const char* kPaper = "#fcfbf8";
inline constexpr const char* kInk = "#23262b";
inline constexpr const char* kMuted = "#6d7178";
inline constexpr const char* kFaint = "#b9bbb8";
inline constexpr const char* kRule = "#e4e2dc";

// Lightness 0..1, chroma 0..0.2, hue in degrees, in OKLCH, where equal steps look equal.
std::string oklch(double lightness, double chroma, double hue);
// The colour of member i of n; `strength` 0 (nearly paper) to 1 (full).
std::string colour_of(int i, int n, double strength = 1);

// Shortest text with at most two decimals.
std::string number(double value);
// For text and attributes; what XML cannot hold becomes a blank.
std::string escape(std::string_view text);
// Generous estimate, so that what is estimated to fit does fit in every sans-serif font.
double text_width(std::string_view text, double size);
// Cut to a width, with two dots where something is missing.
std::string fitted(const std::string& text, double size, double width);

struct Box {
  double x = 0, y = 0, width = 0, height = 0;
};

struct Fill {
  std::string fill = "none";
  double radius = 0;
  std::string stroke = {};
  double stroke_width = 1;
  double opacity = 1;
};

struct Letters {
  double size = 12;
  const char* anchor = "start";
  std::string fill = kInk;
  bool bold = false;
};

struct Stroke {
  std::string stroke = kRule;
  double width = 1;
  double opacity = 1;
  const char* dashes = "";
  std::string marker = {};  // id of an arrow head
};

class Canvas {
 public:
  void rect(const Box& box, const Fill& fill);
  void text(double x, double y, std::string_view text, const Letters& letters);
  void path(const std::string& d, const Stroke& stroke);
  void line(double x1, double y1, double x2, double y2, const Stroke& stroke);
  // Verbatim, and verbatim among the definitions.
  void raw(std::string_view svg) { body_ += svg; }
  void define(std::string_view svg) { definitions_ += svg; }
  // The whole document, on its own background.
  std::string finish(double width, double height, std::string_view title) const;

 private:
  std::string body_;
  std::string definitions_;
};

}  // namespace weft::draw_internal
