#include "weft/draw/svg.h"

#include <algorithm>
#include <cmath>

#include "weft/base/text.h"
#include "weft/draw/canvas.h"
#include "weft/draw/summary.h"

namespace weft {
namespace {

using draw_internal::Box;
using draw_internal::Canvas;
using draw_internal::colour_of;
using draw_internal::fitted;
using draw_internal::kFaint;
using draw_internal::kInk;
using draw_internal::kMuted;
using draw_internal::kPaper;
using draw_internal::kRule;
using draw_internal::text_width;

constexpr double kMargin = 32;

// What a message carries, by colour.
struct Cargo {
  const char* name;
  const char* colour;
  Fields fields;
};
constexpr Cargo kCargo[] = {
    {"queries, keys, values", "#5b6b8c", Field::q | Field::k | Fields(Field::v)},
    {"gradients", "#b4552d", Field::dq | Field::dk | Fields(Field::dv)},
    {"outputs and what belongs to them", "#2f7d6b",
     Field::out | Field::lse | Field::dout | Fields(Field::delta)},
};

int cargo_of(Fields fields) {
  for (int i : {1, 0, 2}) {
    if (!(fields & kCargo[i].fields).empty()) return i;
  }
  return 2;
}

// Sizes of the grid for a number of ranks.
struct Grid {
  double cell_width, cell_height;
  double across, down;  // gaps; messages run in the gaps between rows
  double letters;       // size of a cell's label; 0: none
  double radius;

  static Grid of(int ranks, bool messages) {
    if (ranks <= 8) return {104, 44, 14, messages ? 40.0 : 12, 13, 6};
    if (ranks <= 16) return {64, 32, 8, messages ? 28.0 : 8, 11, 4};
    if (ranks <= 32) return {40, 22, 5, messages ? 20.0 : 5, 9, 3};
    const double width = std::clamp(1400.0 / ranks, 8.0, 28.0);
    return {width - 1, std::max(7.0, width * 0.6), 1, 1, 0, 0};
  }
};

class Picture {
 public:
  Picture(const Schedule& schedule, const SvgOptions& options)
      : schedule_(schedule),
        problem_(schedule.problem()),
        summary_(summarise(schedule, options.max_ranks, options.max_steps)),
        ranks_(summary_.shown) {
    bool messages = false, moving_queries = false, moving_keys = false;
    for (const auto& row : summary_.cells) {
      for (int rank = 0; rank < ranks_; ++rank) {
        const Cell& cell = row[static_cast<size_t>(rank)];
        messages |= !cell.sends.empty();
        most_work_ = std::max(most_work_, cell.work());
        for (const Flow& flow : cell.sends) most_bytes_ = std::max(most_bytes_, flow.bytes);
        for (const Share& share : cell.key_owners) moving_keys |= share.owner != rank;
        for (const Share& share : cell.query_owners) moving_queries |= share.owner != rank;
      }
    }
    by_query_ = moving_queries && !moving_keys;
    grid_ = Grid::of(ranks_, messages);
    left_ = kMargin + (grid_.letters > 0 ? 62 : 40);
    right_ = left_ + ranks_ * (grid_.cell_width + grid_.across) - grid_.across;
    beside_ = grid_.letters > 0 && messages ? 150 : 0;
    width_ = std::max(right_ + beside_ + kMargin, 760.0);
  }

  std::string draw() {
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

 private:
  double x_of(int rank) const { return left_ + rank * (grid_.cell_width + grid_.across); }
  double middle_of(int rank) const { return x_of(rank) + grid_.cell_width / 2; }

  void header() {
    canvas_.define(
        "<pattern id=\"idle\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" "
        "patternTransform=\"rotate(45)\">"
        "<rect width=\"6\" height=\"6\" fill=\"#f4f2ed\"/><rect width=\"1.5\" height=\"6\" "
        "fill=\"#e3e0d8\"/></pattern>\n");
    for (size_t i = 0; i < std::size(kCargo); ++i) {
      canvas_.define(
          "<marker id=\"tip" + std::to_string(i) +
          "\" viewBox=\"0 0 8 8\" refX=\"6.5\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" "
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
    canvas_.text(kMargin, y_, fitted(ranks + ", " + describe(problem_), 13, room),
                 {.size = 13, .fill = kMuted});
    int64_t bytes = 0, messages = 0;
    for (const RankTotals& totals : summary_.totals)
      bytes += totals.bytes_sent, messages += totals.messages;
    y_ += 19;
    canvas_.text(kMargin, y_,
                 format_bytes(bytes) + " in " + std::to_string(messages) +
                     (messages == 1 ? " message" : " messages") + ", " +
                     format_count(static_cast<double>(problem_.mask.area())) +
                     " allowed pairs a head",
                 {.size = 13, .fill = kMuted});
    y_ += 34;
  }

  void rank_names() {
    const int every = grid_.letters > 0
                          ? 1
                          : std::max(1, static_cast<int>(std::ceil(34 / (grid_.cell_width + 1))));
    for (int rank = 0; rank < ranks_; rank += every) {
      const std::string name = (ranks_ <= 16 ? "rank " : "") + std::to_string(rank);
      canvas_.text(middle_of(rank), y_, name,
                   {.size = grid_.letters > 9 ? 12.0 : 10,
                    .anchor = "middle",
                    .fill = kInk,
                    .bold = grid_.letters > 0});
    }
    if (beside_ > 0)
      canvas_.text(right_ + 20, y_, "sent in the step", {.size = 11, .fill = kMuted});
    y_ += 8;
  }

  void phase(const char* name) {
    y_ += name[0] == 'b' ? 20 : 6;
    const double after = left_ + text_width(name, 12) + 6;
    canvas_.text(left_, y_ + 4, name, {.size = 12, .fill = kMuted});
    canvas_.line(after, y_, right_, y_, {.stroke = kRule});
    y_ += 16;
  }

  void step(int row) {
    const bool backward = row >= summary_.forward_rows;
    const int number = row - (backward ? summary_.forward_rows : 0);
    const auto& cells = summary_.cells[static_cast<size_t>(row)];
    if (grid_.letters > 0 || number % 10 == 0) {
      canvas_.text(left_ - 14, y_ + grid_.cell_height / 2 + 4,
                   (grid_.letters > 0 ? "step " : "") + std::to_string(number),
                   {.size = grid_.letters > 9 ? 12.0 : 10, .anchor = "end", .fill = kMuted});
    }
    bool sends = false;
    for (int rank = 0; rank < ranks_; ++rank) {
      const Cell& cell = cells[static_cast<size_t>(rank)];
      sends |= !cell.sends.empty();
      grid_.letters > 0 ? draw_cell(rank, cell) : draw_dot(rank, cell);
    }
    if (grid_.letters > 0 && sends) {
      arrows(cells);
      sent_beside(cells);
    }
    const bool last = row + 1 == summary_.rows() || row + 1 == summary_.forward_rows;
    y_ += grid_.cell_height + (last && !sends ? 8 : grid_.down);
  }

  const std::vector<Share>& owners(const Cell& cell) const {
    return by_query_ ? cell.query_owners : cell.key_owners;
  }
  std::string colour(int owner, double strength) const {
    return owner < 0 ? draw_internal::oklch(0.95 - 0.2 * strength, 0.01, 250)
                     : colour_of(owner, summary_.ranks, strength);
  }

  void draw_cell(int rank, const Cell& cell) {
    const Box box{x_of(rank), y_, grid_.cell_width, grid_.cell_height};
    if (cell.computed.empty()) {
      canvas_.rect(box, {.fill = "url(#idle)", .radius = grid_.radius});
      return;
    }
    // The whole cell in a light tint, and full colour as far as the work of the step goes.
    const auto& shares = owners(cell);
    canvas_.rect(box, {.fill = shares.size() == 1 ? colour(shares[0].owner, 0.12) : "#f1efe9",
                       .radius = grid_.radius});
    double x = box.x;
    const std::string clip = "c" + std::to_string(clips_++);
    canvas_.define("<clipPath id=\"" + clip + "\"><rect x=\"" + draw_internal::number(box.x) +
                   "\" y=\"" + draw_internal::number(box.y) + "\" width=\"" +
                   draw_internal::number(box.width) + "\" height=\"" +
                   draw_internal::number(box.height) + "\" rx=\"" +
                   draw_internal::number(grid_.radius) + "\"/></clipPath>\n");
    canvas_.raw("<g clip-path=\"url(#" + clip + ")\">\n");
    for (const Share& share : shares) {
      const double w = box.width * static_cast<double>(share.work) /
                       static_cast<double>(std::max<int64_t>(most_work_, 1));
      canvas_.rect({x, box.y, w, box.height}, {.fill = colour(share.owner, 0.62)});
      x += w;
    }
    canvas_.raw("</g>\n");
    labels(box, cell);
  }

  void labels(const Box& box, const Cell& cell) {
    const Computed& first = cell.computed[0];
    const double room = box.width - 8, size = grid_.letters, middle = box.x + box.width / 2;
    const std::string more =
        cell.computed.size() > 1 ? " +" + std::to_string(cell.computed.size() - 1) : "";
    const std::string main =
        (by_query_ && !first.queries.empty() ? first.queries : first.keys) + more;
    std::string rest = by_query_ ? (first.queries.empty() ? "" : first.keys) : first.queries;
    if (!first.heads.empty()) rest += (rest.empty() ? "" : ", ") + first.heads;
    const bool two = !rest.empty() && box.height > 2.3 * size;
    canvas_.text(middle, box.y + box.height / 2 + (two ? -size * 0.2 : size * 0.36),
                 fitted(main, size, room), {.size = size, .anchor = "middle", .bold = true});
    if (two) {
      const double small = size - 2;
      canvas_.text(middle, box.y + box.height / 2 + size * 0.95, fitted(rest, small, room),
                   {.size = small, .anchor = "middle", .fill = "#4a4e55"});
    }
  }

  // Above 32 ranks: one rectangle, the stronger the more work.
  void draw_dot(int rank, const Cell& cell) {
    const Box box{x_of(rank), y_, grid_.cell_width, grid_.cell_height};
    const auto& shares = owners(cell);
    if (shares.empty()) {
      canvas_.rect(box, {.fill = "#efede7"});
      return;
    }
    const double strength =
        static_cast<double>(cell.work()) / static_cast<double>(std::max<int64_t>(most_work_, 1));
    canvas_.rect(
        box, {.fill = colour(shares.size() == 1 ? shares[0].owner : -1, 0.15 + 0.85 * strength)});
  }

  void arrows(const std::vector<Cell>& cells) {
    size_t count = 0;
    for (const Cell& cell : cells) count += cell.sends.size();
    const bool crowd = count > 2 * cells.size();
    const double top = y_ + grid_.cell_height + 2, bottom = y_ + grid_.cell_height + grid_.down - 3;
    const double bend = (bottom - top) * 0.62;
    for (int rank = 0; rank < ranks_; ++rank) {
      for (const Flow& flow : cells[static_cast<size_t>(rank)].sends) {
        if (flow.peer >= ranks_) continue;
        const int cargo = cargo_of(flow.fields);
        used_[cargo] = true;
        const double aside = grid_.cell_width * (cargo == 1 ? 0.12 : cargo == 2 ? 0.0 : -0.12);
        const double from = middle_of(rank) + aside, to = middle_of(flow.peer) + aside;
        const double share = static_cast<double>(flow.bytes) /
                             static_cast<double>(std::max<int64_t>(most_bytes_, 1));
        const auto at = [](double x, double y) {
          return draw_internal::number(x) + " " + draw_internal::number(y);
        };
        canvas_.path("M" + at(from, top) + "C" + at(from, top + bend) + " " +
                         at(to, bottom - bend) + " " + at(to, bottom),
                     {.stroke = kCargo[cargo].colour,
                      .width = (crowd ? 0.6 : 0.9) + (crowd ? 0.6 : 1.3) * std::sqrt(share),
                      .opacity = crowd ? 0.45 : 0.85,
                      .marker = "tip" + std::to_string(cargo)});
      }
    }
  }

  // One line per kind of cargo, beside the gap in which the arrows run.
  void sent_beside(const std::vector<Cell>& cells) {
    int64_t bytes[std::size(kCargo)] = {}, messages[std::size(kCargo)] = {};
    for (const Cell& cell : cells) {
      for (const Flow& flow : cell.sends) {
        bytes[cargo_of(flow.fields)] += flow.bytes;
        ++messages[cargo_of(flow.fields)];
      }
    }
    const double size = grid_.letters > 9 ? 11 : 9.5, line = size + 3;
    double y = y_ + grid_.cell_height / 2 + 4;
    for (size_t i = 0; i < std::size(kCargo); ++i) {
      if (messages[i] == 0) continue;
      const std::string text = format_bytes(bytes[i]) + " in " + std::to_string(messages[i]);
      canvas_.rect({right_ + 20, y - size * 0.72, 7, 7}, {.fill = kCargo[i].colour, .radius = 2});
      canvas_.text(right_ + 33, y, fitted(text, size, beside_ - 33),
                   {.size = size, .fill = kMuted});
      y += line;
    }
  }

  void totals() {
    y_ += 14;
    canvas_.text(left_, y_ + 4, "totals", {.size = 12, .fill = kMuted});
    canvas_.line(left_ + text_width("totals", 12) + 6, y_, right_, y_, {.stroke = kRule});
    y_ += 14;
    const auto work = [](const RankTotals& t) { return t.work + t.work_backward; };
    bars(
        "work", work, [](int64_t n) { return format_count(static_cast<double>(n)); }, "#8a93a6");
    bars(
        "sent", [](const RankTotals& t) { return t.bytes_sent; },
        [](int64_t n) { return format_bytes(n); }, "#9aa88f");
    bars(
        "messages", [](const RankTotals& t) { return t.messages; },
        [](int64_t n) { return std::to_string(n); }, "#b39d8a");
  }

  template <typename Get, typename Show>
  void bars(const char* name, Get&& get, Show&& show, const char* fill) {
    int64_t most = 1;
    for (const RankTotals& totals : summary_.totals) most = std::max(most, get(totals));
    const bool labels = ranks_ <= 16;
    canvas_.text(left_ - 14, y_ + 12, name, {.size = 11, .anchor = "end", .fill = kMuted});
    for (int rank = 0; rank < ranks_; ++rank) {
      const int64_t value = get(summary_.totals[static_cast<size_t>(rank)]);
      const double share = static_cast<double>(value) / static_cast<double>(most);
      if (labels) {
        canvas_.text(x_of(rank), y_ + 10, fitted(show(value), 10.5, grid_.cell_width),
                     {.size = 10.5});
        canvas_.rect({x_of(rank), y_ + 15, grid_.cell_width, 4}, {.fill = kRule, .radius = 2});
        if (value > 0)
          canvas_.rect({x_of(rank), y_ + 15, grid_.cell_width * share, 4},
                       {.fill = fill, .radius = 2});
      } else {
        canvas_.rect({x_of(rank), y_, grid_.cell_width, 18}, {.fill = "#f1efe9"});
        canvas_.rect({x_of(rank), y_ + 18 * (1 - share), grid_.cell_width, 18 * share},
                     {.fill = fill});
      }
    }
    if (!labels)
      canvas_.text(right_ + 8, y_ + 12, fitted("up to " + show(most), 10, width_ - right_ - 12),
                   {.size = 10, .fill = kMuted});
    y_ += labels ? 28 : 26;
  }

  void legend() {
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
    item(swatches * 12, whose + " of rank 0 to " + std::to_string(summary_.ranks - 1),
         [&](double at, double y) {
           for (int i = 0; i < swatches; ++i) {
             const int owner =
                 swatches < 2
                     ? 0
                     : static_cast<int>(int64_t{i} * (summary_.ranks - 1) / (swatches - 1));
             canvas_.rect({at + i * 12, y - 5, 10, 10}, {.fill = colour(owner, 0.62), .radius = 2});
           }
         });
    item(34,
         grid_.letters > 0 ? "filled: work, against the busiest cell"
                           : "strength: work, against the busiest cell",
         [&](double at, double y) {
           canvas_.rect({at, y - 6, 34, 12}, {.fill = colour(0, 0.12), .radius = 3});
           canvas_.rect({at, y - 6, 20, 12}, {.fill = colour(0, 0.62), .radius = 3});
         });
    item(34, "no attention", [&](double at, double y) {
      canvas_.rect({at, y - 6, 34, 12}, {.fill = "url(#idle)", .radius = 3});
    });
    for (size_t i = 0; i < std::size(kCargo); ++i) {
      if (!used_[i]) continue;
      item(26, kCargo[i].name, [&](double at, double y) {
        canvas_.line(
            at, y, at + 26, y,
            {.stroke = kCargo[i].colour, .width = 1.8, .marker = "tip" + std::to_string(i)});
      });
    }
    if (grid_.letters > 0) {
      x = kMargin, y_ += 24;
      canvas_.text(x, y_,
                   "k3: keys of rank 3    q: queries, where not all of the rank's own    lo, hi: "
                   "the first, the last rows    h: heads",
                   {.size = 11, .fill = kMuted});
    }
    y_ += 8;
  }

  const Schedule& schedule_;
  const Problem& problem_;
  const Summary summary_;
  const int ranks_;
  Grid grid_{};
  bool by_query_ = false;
  int64_t most_work_ = 0, most_bytes_ = 0;
  double left_ = 0, right_ = 0, beside_ = 0, width_ = 0, y_ = 0;
  int clips_ = 0;
  bool used_[std::size(kCargo)] = {};
  Canvas canvas_;
};

}  // namespace

std::string draw_svg(const Schedule& schedule, const SvgOptions& options) {
  return Picture(schedule, options).draw();
}

}  // namespace weft
