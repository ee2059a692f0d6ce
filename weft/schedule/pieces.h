// Pieces: the runs into which the shards of a layout cut a run of tokens. A value in pieces (Form::pieces) holds a state
// for each, in their order.
#pragma once

#include <cstdint>
#include <vector>

#include "weft/schedule/problem.h"

namespace weft {

class Pieces {
 public:
  // Of a linear layer; attention has none.
  explicit Pieces(const Problem& problem);

  // How many a run has.
  int64_t count(Range run) const { return cuts_in(run.begin, run.end - 1) + 1; }
  // The number of the piece that holds a token of the run.
  int64_t number(Range run, int64_t token) const { return cuts_in(run.begin, token); }
  // The piece of the run that holds a token.
  Range holding(Range run, int64_t token) const;
  // Whether `part` is made of whole pieces of the run.
  bool are_whole(Range part, Range run) const;

 private:
  // Cuts behind `first`, up to `last` itself.
  int64_t cuts_in(int64_t first, int64_t last) const;
  bool is_cut(int64_t token) const;
  std::vector<int64_t>::const_iterator first_behind(int64_t token) const;
  std::vector<int64_t> cuts_;  // tokens at which a run of some rank begins
};

}  // namespace weft
