// The picture of a schedule while it is being drawn. Internal to draw: svg.cc draws what stands around the grid,
// svg_cells.cc the grid itself.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "weft/draw/canvas.h"
#include "weft/draw/summary.h"
#include "weft/draw/svg.h"

namespace weft::draw_internal {

inline constexpr double kMargin = 32;

// What a message carries, by colour.
struct Cargo {
  const char* name;
  const char* colour;
  Fields fields;
};
inline constexpr Cargo kCargo[] = {
    {"queries, keys, values", "#5b6b8c", Field::q | Field::k | Fields(Field::v)},
    {"gradients", "#b4552d", Field::dq | Field::dk | Fields(Field::dv)},
    {"outputs and what belongs to them", "#2f7d6b", Field::out | Field::lse | Field::dout | Fields(Field::delta)},
};

inline int cargo_of(Fields fields) {
  for (int i : {1, 0, 2}) {
    if (!(fields & kCargo[i].fields).empty()) return i;
  }
  return 2;
}

// Sizes of the grid for a number of ranks.
struct Grid {
  double cell_width, cell_height;
  double across, down;  // gaps between cells
  double channel;       // gap below a row that sends, in which the messages run
  double letters;       // size of a cell's label; 0: none
  double radius;
  double stroke;  // of arrows, relative

  static Grid of(int ranks) {
    if (ranks <= 8) return {104, 44, 14, 14, 40, 13, 6, 1};
    if (ranks <= 16) return {64, 32, 8, 8, 28, 11, 4, 0.85};
    if (ranks <= 32) return {40, 22, 5, 5, 20, 9, 3, 0.6};
    const double width = std::clamp(1400.0 / ranks, 8.0, 28.0);
    return {width - 1, std::max(7.0, width * 0.6), 1, 1, 1, 0, 0, 0};
  }
};

class Picture {
 public:
  Picture(const Schedule& schedule, const SvgOptions& options);

  std::string draw();

 private:
  double x_of(int rank) const { return left_ + rank * (grid_.cell_width + grid_.across); }
  double middle_of(int rank) const { return x_of(rank) + grid_.cell_width / 2; }
  void header();
  void rank_names();
  void phase(const char* name);
  void step(int row);

  const std::vector<Share>& owners(const Cell& cell) const { return by_query_ ? cell.query_owners : cell.key_owners; }
  std::string colour(int owner, double strength) const {
    return owner < 0 ? oklch(0.95 - 0.2 * strength, 0.01, 250) : colour_of(owner, summary_.ranks, strength);
  }
  void draw_cell(int rank, const Cell& cell);
  void labels(const Box& box, const Cell& cell);

  // Above 32 ranks: one rectangle, the stronger the more work.
  void draw_dot(int rank, const Cell& cell);
  void arrows(const std::vector<Cell>& cells);

  // One line per kind of cargo, beside the gap in which the arrows run.
  void sent_beside(const std::vector<Cell>& cells);
  void totals();
  template <typename Get, typename Show>
  void bars(const char* name, Get&& get, Show&& show, const char* fill);
  void legend();

  const Schedule& schedule_;
  const Problem& problem_;
  const Summary summary_;
  const int ranks_;
  Grid grid_{};
  bool by_query_ = false;
  double most_work_ = 1, most_bytes_ = 1;
  double left_ = 0, right_ = 0, beside_ = 0, width_ = 0, y_ = 0;
  double height_ = 0;  // of the cells of the current row
  bool sends_ = false, idles_ = false;
  int clips_ = 0;
  bool used_[std::size(kCargo)] = {};
  Canvas canvas_;
};

}  // namespace weft::draw_internal
