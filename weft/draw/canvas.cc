#include "weft/draw/canvas.h"

#include <algorithm>
#include <cmath>

#include "weft/base/text.h"

namespace weft::draw_internal {
namespace {

std::string attribute(const char* name, double value) { return std::string(" ") + name + "=\"" + number(value) + "\""; }

std::string attribute(const char* name, std::string_view value) {
  return std::string(" ") + name + "=\"" + std::string(value) + "\"";
}

std::string opacity_of(double opacity) { return opacity < 1 ? attribute("opacity", opacity) : ""; }

}  // namespace

std::string oklch(double lightness, double chroma, double hue) {
  const double radians = hue * 3.14159265358979 / 180;
  const double a = chroma * std::cos(radians), b = chroma * std::sin(radians);
  const double l = std::pow(lightness + 0.3963377774 * a + 0.2158037573 * b, 3);
  const double m = std::pow(lightness - 0.1055613458 * a - 0.0638541728 * b, 3);
  const double s = std::pow(lightness - 0.0894841775 * a - 1.2914855480 * b, 3);
  const double linear[3] = {4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
                            -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
                            -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s};
  std::string text = "#";
  for (double x : linear) {
    x = std::clamp(x, 0.0, 1.0);
    const double encoded = x <= 0.0031308 ? 12.92 * x : 1.055 * std::pow(x, 1 / 2.4) - 0.055;
    const int byte = static_cast<int>(std::lround(encoded * 255));
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

std::string colour_of(int i, int n, double strength) {
  // Not quite the whole circle, so that the last does not look like the first.
  const double hue = 250 - 330.0 * i / std::max(n, 1);
  return oklch(0.965 - 0.235 * strength, 0.018 + 0.112 * strength, hue);
}

std::string number(double value) {
  std::string text = format_fixed(value, 2);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return text == "-0" ? "0" : text;
}

std::string escape(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += static_cast<unsigned char>(c) < 32 ? ' ' : c;
    }
  }
  return out;
}

double text_width(std::string_view text, double size) {
  double ems = 0;
  for (char c : text) {
    if ((static_cast<unsigned char>(c) & 0xc0u) == 0x80u) continue;  // inside a character
    const bool narrow = std::string_view("ijl.,:;'|! ()[]").find(c) != std::string_view::npos;
    ems += narrow ? 0.38 : c == 'm' || c == 'w' || c == 'M' || c == 'W' || c == '%' ? 1.0 : 0.66;
  }
  return ems * size;
}

std::string fitted(const std::string& text, double size, double width) {
  if (text_width(text, size) <= width) return text;
  std::string cut = text;
  do {
    while (!cut.empty() && (static_cast<unsigned char>(cut.back()) & 0xc0u) == 0x80u) cut.pop_back();
    if (!cut.empty()) cut.pop_back();
  } while (!cut.empty() && text_width(cut + "..", size) > width);
  return cut.empty() ? "" : cut + "..";
}

void Canvas::rect(const Box& box, const Fill& fill) {
  body_ += "<rect" + attribute("x", box.x) + attribute("y", box.y) + attribute("width", box.width) +
           attribute("height", box.height) + attribute("fill", fill.fill);
  if (fill.radius > 0) body_ += attribute("rx", fill.radius);
  if (!fill.stroke.empty()) body_ += attribute("stroke", fill.stroke) + attribute("stroke-width", fill.stroke_width);
  body_ += opacity_of(fill.opacity) + "/>\n";
}

void Canvas::text(double x, double y, std::string_view text, const Letters& letters) {
  body_ += "<text" + attribute("x", x) + attribute("y", y) + attribute("font-size", letters.size) +
           attribute("fill", letters.fill);
  if (std::string_view(letters.anchor) != "start") body_ += attribute("text-anchor", letters.anchor);
  if (letters.bold) body_ += attribute("font-weight", "600");
  body_ += ">" + escape(text) + "</text>\n";
}

void Canvas::path(const std::string& d, const Stroke& stroke) {
  body_ += "<path" + attribute("d", d) + attribute("fill", "none") + attribute("stroke", stroke.stroke) +
           attribute("stroke-width", stroke.width);
  if (*stroke.dashes) body_ += attribute("stroke-dasharray", stroke.dashes);
  if (!stroke.marker.empty()) body_ += attribute("marker-end", "url(#" + stroke.marker + ")");
  body_ += opacity_of(stroke.opacity) + "/>\n";
}

void Canvas::line(double x1, double y1, double x2, double y2, const Stroke& stroke) {
  path("M" + number(x1) + " " + number(y1) + "L" + number(x2) + " " + number(y2), stroke);
}

std::string Canvas::finish(double width, double height, std::string_view title) const {
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\"" + attribute("width", width) +
                    attribute("height", height) + attribute("viewBox", "0 0 " + number(width) + " " + number(height)) +
                    attribute("font-family", "Inter, 'Segoe UI', 'Helvetica Neue', Helvetica, Arial, sans-serif") +
                    ">\n";
  svg += "<title>" + escape(title) + "</title>\n";
  if (!definitions_.empty()) svg += "<defs>\n" + definitions_ + "</defs>\n";
  svg += "<rect width=\"100%\" height=\"100%\"" + attribute("fill", kPaper) + "/>\n";
  return svg + body_ + "</svg>\n";
}

}  // namespace weft::draw_internal
