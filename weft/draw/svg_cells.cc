#include <cmath>

#include "weft/draw/picture.h"

namespace weft::draw_internal {

void Picture::step(int row) {
  const bool backward = row >= summary_.forward_rows;
  const int number = row - (backward ? summary_.forward_rows : 0);
  const auto& cells = summary_.cells[static_cast<size_t>(row)];
  bool sends = false, computes = false;
  for (const Cell& cell : cells) {
    sends |= !cell.sends.empty();
    computes |= !cell.computed.empty();
  }
  // Steps that only move data are flat.
  height_ = computes || grid_.letters == 0 ? grid_.cell_height : std::round(grid_.cell_height * 0.36);
  if (grid_.letters > 0 || number % 10 == 0) {
    canvas_.text(left_ - 14, y_ + height_ / 2 + 4, (grid_.letters > 0 ? "step " : "") + std::to_string(number),
                 {.size = grid_.letters > 9 ? 12.0 : 10, .anchor = "end", .fill = kMuted});
  }
  for (int rank = 0; rank < ranks_; ++rank) {
    const Cell& cell = cells[static_cast<size_t>(rank)];
    grid_.letters > 0 ? draw_cell(rank, cell) : draw_dot(rank, cell);
  }
  if (grid_.letters > 0 && sends) {
    arrows(cells);
    sent_beside(cells);
  }
  y_ += height_ + (sends ? grid_.channel : grid_.down);
}

void Picture::draw_cell(int rank, const Cell& cell) {
  const Box box{x_of(rank), y_, grid_.cell_width, height_};
  if (cell.computed.empty()) {
    idles_ = true;
    canvas_.rect(box, {.fill = "url(#idle)", .radius = grid_.radius});
    return;
  }
  // The whole cell in a light tint, and full colour as far as the work of the step goes.
  const auto& shares = owners(cell);
  canvas_.rect(box, {.fill = shares.size() == 1 ? colour(shares[0].owner, 0.12) : "#f1efe9", .radius = grid_.radius});
  double x = box.x;
  const std::string clip = "c" + std::to_string(clips_++);
  canvas_.define("<clipPath id=\"" + clip + "\"><rect x=\"" + number(box.x) + "\" y=\"" + number(box.y) +
                 "\" width=\"" + number(box.width) + "\" height=\"" + number(box.height) + "\" rx=\"" +
                 number(grid_.radius) + "\"/></clipPath>\n");
  canvas_.raw("<g clip-path=\"url(#" + clip + ")\">\n");
  for (const Share& share : shares) {
    const double w = box.width * share.work / most_work_;
    canvas_.rect({x, box.y, w, box.height}, {.fill = colour(share.owner, 0.62)});
    x += w;
  }
  canvas_.raw("</g>\n");
  labels(box, cell);
}

void Picture::labels(const Box& box, const Cell& cell) {
  const Computed& first = cell.computed[0];
  const double room = box.width - 8, size = grid_.letters, middle = box.x + box.width / 2;
  const std::string more = cell.computed.size() > 1 ? " +" + std::to_string(cell.computed.size() - 1) : "";
  std::string main = (by_query_ && !first.queries.empty() ? first.queries : first.keys) + more;
  if (text_width(main, size) > room && cell.key_owners.size() > 1) {
    main = first.keys.substr(0, 1) + " of " + std::to_string(cell.key_owners.size());
  }
  std::string rest = by_query_ ? (first.queries.empty() ? "" : first.keys) : first.queries;
  if (!first.heads.empty()) rest += (rest.empty() ? "" : ", ") + first.heads;
  const bool two = !rest.empty() && box.height > 2.3 * size;
  canvas_.text(middle, box.y + box.height / 2 + (two ? -size * 0.2 : size * 0.36), fitted(main, size, room),
               {.size = size, .anchor = "middle", .bold = true});
  if (two) {
    const double small = std::max(size - 2, 8.0);
    canvas_.text(middle, box.y + box.height / 2 + size * 0.95, fitted(rest, small, room),
                 {.size = small, .anchor = "middle", .fill = "#4a4e55"});
  }
}

// Above 32 ranks: one rectangle, the stronger the more work.
void Picture::draw_dot(int rank, const Cell& cell) {
  const Box box{x_of(rank), y_, grid_.cell_width, height_};
  const auto& shares = owners(cell);
  if (shares.empty()) {
    idles_ = true;
    canvas_.rect(box, {.fill = "url(#idle)"});
    return;
  }
  const double strength = cell.work() / most_work_;
  canvas_.rect(box, {.fill = colour(shares.size() == 1 ? shares[0].owner : -1, 0.15 + 0.85 * strength)});
}

void Picture::arrows(const std::vector<Cell>& cells) {
  size_t count = 0;
  bool mixed = false;
  int first = -1;
  for (const Cell& cell : cells) {
    count += cell.sends.size();
    for (const Flow& flow : cell.sends) {
      const int cargo = cargo_of(flow.fields);
      mixed |= first >= 0 && cargo != first;
      first = cargo;
    }
  }
  // The more there are, the fainter each: an all-to-all becomes a veil.
  const double crowd = std::min(1.0, 3.0 * static_cast<double>(ranks_) / static_cast<double>(count));
  const double opacity = std::max(0.85 * crowd, 0.14);
  const double top = y_ + height_ + 2, bottom = y_ + height_ + grid_.channel - 3;
  const double bend = (bottom - top) * 0.62;
  for (int rank = 0; rank < ranks_; ++rank) {
    for (const Flow& flow : cells[static_cast<size_t>(rank)].sends) {
      if (flow.peer >= ranks_) continue;
      const int cargo = cargo_of(flow.fields);
      used_[cargo] = true;
      const double aside = mixed ? grid_.cell_width * (cargo == 1 ? 0.12 : -0.12) : 0;
      const double from = middle_of(rank) + aside, to = middle_of(flow.peer) + aside;
      const double share = flow.bytes / most_bytes_;
      const auto at = [](double x, double y) { return number(x) + " " + number(y); };
      canvas_.path(
          "M" + at(from, top) + "C" + at(from, top + bend) + " " + at(to, bottom - bend) + " " + at(to, bottom),
          {.stroke = kCargo[cargo].colour,
           .width = grid_.stroke * (0.7 + 1.4 * std::sqrt(crowd * share)),
           .opacity = opacity,
           .marker = "tip" + std::to_string(cargo)});
    }
  }
}

// One line per kind of cargo, beside the gap in which the arrows run.
void Picture::sent_beside(const std::vector<Cell>& cells) {
  double bytes[std::size(kCargo)] = {};
  int64_t messages[std::size(kCargo)] = {};
  for (const Cell& cell : cells) {
    for (const Flow& flow : cell.sends) {
      bytes[cargo_of(flow.fields)] += flow.bytes;
      ++messages[cargo_of(flow.fields)];
    }
  }
  const double size = grid_.letters > 9 ? 11 : 9.5, line = size + 3;
  double y = y_ + height_ / 2 + 4;
  for (size_t i = 0; i < std::size(kCargo); ++i) {
    if (messages[i] == 0) continue;
    const std::string text = bytes_text(bytes[i]) + " in " + std::to_string(messages[i]);
    canvas_.rect({right_ + 20, y - size * 0.72, 7, 7}, {.fill = kCargo[i].colour, .radius = 2});
    canvas_.text(right_ + 33, y, fitted(text, size, beside_ - 33), {.size = size, .fill = kMuted});
    y += line;
  }
}

}  // namespace weft::draw_internal
