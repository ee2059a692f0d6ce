#include "weft/draw/svg.h"

#include <cmath>

#include "weft/base/text.h"
#include "weft/draw/picture.h"

namespace weft {
namespace draw_internal {

Picture::Picture(const Schedule& schedule, const SvgOptions& options)
    : schedule_(schedule),
      problem_(schedule.problem()),
      summary_(summarise(schedule, options.max_ranks, options.max_steps)),
      ranks_(summary_.shown) {
  bool moving_queries = false, moving_keys = false;
  for (const auto& row : summary_.cells) {
    for (int rank = 0; rank < ranks_; ++rank) {
      const Cell& cell = row[static_cast<size_t>(rank)];
      sends_ |= !cell.sends.empty();
      most_work_ = std::max(most_work_, cell.work());
      for (const Flow& flow : cell.sends) most_bytes_ = std::max(most_bytes_, flow.bytes);
      for (const Share& share : cell.key_owners) moving_keys |= share.owner != rank;
      for (const Share& share : cell.query_owners) moving_queries |= share.owner != rank;
    }
  }
  by_query_ = moving_queries && !moving_keys;
  grid_ = Grid::of(ranks_);
  left_ = kMargin + 74;
  right_ = left_ + ranks_ * (grid_.cell_width + grid_.across) - grid_.across;
  beside_ = grid_.letters > 0 && sends_ ? 150 : 84;
  width_ = std::max(right_ + beside_ + kMargin, 760.0);
}

std::string Picture::draw() {
  header();
  rank_names();
  for (int row = 0; row < summary_.rows(); ++row) {
    if (row == 0 && summary_.forward_rows > 0) phase("forward");
    if (row == summary_.forward_rows) phase("backward");
    step(row);
  }
  totals();
  legend();
  return canvas_.finish(width_, y_ + kMargin - 8,
                        schedule_.method() + ", " + std::to_string(summary_.ranks) + " ranks");
}

void Picture::header() {
  canvas_.define(
      "<pattern id=\"idle\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" "
      "patternTransform=\"rotate(45)\">"
      "<rect width=\"6\" height=\"6\" fill=\"#f4f2ed\"/><rect width=\"1.5\" height=\"6\" "
      "fill=\"#e3e0d8\"/></pattern>\n");
  const std::string tip = number(grid_.stroke > 0 ? 3 + 4 * grid_.stroke : 7);
  for (size_t i = 0; i < std::size(kCargo); ++i) {
    canvas_.define("<marker id=\"tip" + std::to_string(i) +
                   "\" viewBox=\"0 0 8 8\" refX=\"6.5\" refY=\"4\" markerWidth=\"" + tip + "\" markerHeight=\"" + tip +
                   "\" "
                   "markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path d=\"M0 0.8L7.4 4L0 7.2Z\" fill=\"" +
                   kCargo[i].colour + "\"/></marker>\n");
  }
  y_ = kMargin + 20;
  const double room = width_ - 2 * kMargin;
  canvas_.text(kMargin, y_, fitted(schedule_.method(), 26, room), {.size = 26, .bold = true});
  y_ += 24;
  std::string ranks = std::to_string(summary_.ranks) + (summary_.ranks == 1 ? " rank" : " ranks");
  if (ranks_ < summary_.ranks) ranks += ", the first " + std::to_string(ranks_) + " shown";
  if (summary_.truncated) ranks += ", later steps not shown";
  canvas_.text(kMargin, y_, fitted(ranks + ", " + describe(problem_), 13, room), {.size = 13, .fill = kMuted});
  double bytes = 0;
  int64_t messages = 0;
  for (const RankTotals& totals : summary_.totals) bytes += totals.bytes_sent, messages += totals.messages;
  y_ += 19;
  canvas_.text(kMargin, y_,
               bytes_text(bytes) + " in " + std::to_string(messages) + (messages == 1 ? " message" : " messages") +
                   (problem_.layer == Layer::softmax
                        ? ", " + format_count(static_cast<double>(problem_.mask.area())) + " allowed pairs a head"
                        : ""),
               {.size = 13, .fill = kMuted});
  y_ += 34;
}

void Picture::rank_names() {
  const int every = grid_.letters > 0 ? 1 : std::max(1, static_cast<int>(std::ceil(34 / (grid_.cell_width + 1))));
  for (int rank = 0; rank < ranks_; rank += every) {
    const std::string name = (ranks_ <= 16 ? "rank " : "") + std::to_string(rank);
    canvas_.text(middle_of(rank), y_, name,
                 {.size = grid_.letters > 9 ? 12.0 : 10, .anchor = "middle", .fill = kInk, .bold = grid_.letters > 0});
  }
  if (grid_.letters > 0 && sends_) {
    canvas_.text(right_ + 20, y_, "sent, in messages", {.size = 11, .fill = kMuted});
  }
  y_ += 12;
}

void Picture::phase(const char* name) {
  y_ += name[0] == 'b' ? 18 : 8;
  const double after = left_ + text_width(name, 12) + 6;
  canvas_.text(left_, y_ + 4, name, {.size = 12, .fill = kMuted});
  canvas_.line(after, y_, right_, y_, {.stroke = kRule});
  y_ += 16;
}

template <typename Get, typename Show>
void Picture::bars(const char* name, Get&& get, Show&& show, const char* fill) {
  double most = 1;
  for (const RankTotals& totals : summary_.totals) most = std::max(most, get(totals));
  const bool labels = ranks_ <= 16;
  canvas_.text(left_ - 14, y_ + 12, name, {.size = 11, .anchor = "end", .fill = kMuted});
  for (int rank = 0; rank < ranks_; ++rank) {
    const double value = get(summary_.totals[static_cast<size_t>(rank)]);
    const double share = value / most;
    if (labels) {
      canvas_.text(x_of(rank), y_ + 10, fitted(show(value), 10.5, grid_.cell_width), {.size = 10.5});
      canvas_.rect({x_of(rank), y_ + 15, grid_.cell_width, 4}, {.fill = kRule, .radius = 2});
      if (value > 0) canvas_.rect({x_of(rank), y_ + 15, grid_.cell_width * share, 4}, {.fill = fill, .radius = 2});
    } else {
      canvas_.rect({x_of(rank), y_, grid_.cell_width, 18}, {.fill = "#f1efe9"});
      canvas_.rect({x_of(rank), y_ + 18 * (1 - share), grid_.cell_width, 18 * share}, {.fill = fill});
    }
  }
  if (!labels)
    canvas_.text(right_ + 8, y_ + 12, fitted("up to " + show(most), 10, width_ - right_ - 12),
                 {.size = 10, .fill = kMuted});
  y_ += labels ? 28 : 26;
}

void Picture::totals() {
  y_ += 18;
  canvas_.text(left_, y_ + 4, "totals", {.size = 12, .fill = kMuted});
  canvas_.line(left_ + text_width("totals", 12) + 6, y_, right_, y_, {.stroke = kRule});
  y_ += 14;
  bars(
      "work", [](const RankTotals& t) { return t.work + t.work_backward; }, format_count, "#8a93a6");
  bars(
      "sent", [](const RankTotals& t) { return t.bytes_sent; }, bytes_text, "#9aa88f");
  bars(
      "messages", [](const RankTotals& t) { return static_cast<double>(t.messages); }, number, "#b39d8a");
}

void Picture::legend() {
  y_ += 22;
  double x = kMargin;
  const auto item = [&](double mark, const std::string& text, auto&& draw_mark) {
    const double all = mark + 8 + text_width(text, 11) + 18;
    if (x > kMargin && x + all > width_ - kMargin) x = kMargin, y_ += 22;
    draw_mark(x, y_);
    canvas_.text(x + mark + 8, y_ + 4, text, {.size = 11, .fill = kMuted});
    x += all;
  };
  const int swatches = std::min(summary_.ranks, 16);
  const std::string whose = by_query_ ? "queries" : "keys";
  const std::string to = summary_.ranks > 1 ? " to " + std::to_string(summary_.ranks - 1) : "";
  item(swatches * 12, whose + " of rank 0" + to, [&](double at, double y) {
    for (int i = 0; i < swatches; ++i) {
      const int owner = swatches < 2 ? 0 : static_cast<int>(int64_t{i} * (summary_.ranks - 1) / (swatches - 1));
      canvas_.rect({at + i * 12, y - 5, 10, 10}, {.fill = colour(owner, 0.62), .radius = 2});
    }
  });
  item(34, grid_.letters > 0 ? "filled: work, against the busiest cell" : "strength: work, against the busiest cell",
       [&](double at, double y) {
         canvas_.rect({at, y - 6, 34, 12}, {.fill = colour(0, 0.12), .radius = 3});
         canvas_.rect({at, y - 6, 20, 12}, {.fill = colour(0, 0.62), .radius = 3});
       });
  if (idles_) {
    item(34, "no attention", [&](double at, double y) {
      canvas_.rect({at, y - 6, 34, 12}, {.fill = "url(#idle)", .radius = 3});
    });
  }
  for (size_t i = 0; i < std::size(kCargo); ++i) {
    if (!used_[i]) continue;
    item(26, kCargo[i].name, [&](double at, double y) {
      canvas_.line(at, y, at + 26, y, {.stroke = kCargo[i].colour, .width = 1.8, .marker = "tip" + std::to_string(i)});
    });
  }
  if (grid_.letters > 0) {
    x = kMargin, y_ += 24;
    canvas_.text(x, y_,
                 "k3: keys of rank 3; q: queries, where not all of the rank's own; lo, hi: the first, "
                 "the last of them; h: heads",
                 {.size = 11, .fill = kMuted});
    if (summary_.values_apart) {
      y_ += 18;
      canvas_.text(x, y_, "scores are computed with k3, the keys of rank 3, and weighed with v3, its values",
                   {.size = 11, .fill = kMuted});
    }
  }
  y_ += 8;
}

}  // namespace draw_internal

std::string draw_svg(const Schedule& schedule, const SvgOptions& options) {
  return draw_internal::Picture(schedule, options).draw();
}

}  // namespace weft
