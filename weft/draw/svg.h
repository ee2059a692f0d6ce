// A schedule as a picture: a grid of ranks and steps, coloured by the owner of the keys, with the messages between.
//
//   write_file("zigzag.svg", draw_svg(schedule));
//
// The picture stands alone: no scripts, no fonts or styles from outside, its own background.
#pragma once

#include <string>

#include "weft/schedule/schedule.h"

namespace weft {

struct SvgOptions {
  int max_ranks = 128;  // the first ones; the picture says how many there are
  int max_steps = 300;
};

std::string draw_svg(const Schedule& schedule, const SvgOptions& options = {});

}  // namespace weft
