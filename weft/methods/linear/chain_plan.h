// The order in which ranks do their shares when states go from fragment to fragment, block of heads after block of heads.
//
//   2 ranks, 4 blocks, 1 of them ahead; s summarises a block, 0 .. 3 scan one, > is sent when what is before it is done
//   rank 0   s> 1 > 2 > 3 > 0
//   rank 1   .  0   1   2   3
//
// A scan begins with the state that enters and gives the one that leaves, so a rank cannot begin a block before its neighbour
// has done it. The blocks ahead fill that gap: their states are made first, by themselves, which takes less than half a scan,
// and are handed on at once; their scans are left for when nothing else is ready.
//
// Who does what next is found by playing it through with the times that the work takes (in tokens x heads; messages take
// none) for some numbers of blocks ahead, of which the one that ends first is taken. Every rank finds the same.
#pragma once

#include <algorithm>

#include "weft/methods/linear/fragments.h"
#include "weft/methods/linear/work.h"

namespace weft::methods {

struct ChainWork {
  enum class Kind : uint8_t {
    receive,    // the state that enters
    summarise,  // the fragment's own state, and its transition where one passes
    scan,       // with what has entered, for what leaves where no summary is to
    pass,       // hand on what leaves: of the scan, or the own state joined with what has entered
  };
  Kind kind{};
  int fragment = 0;
  int block = 0;
};

// Blocks of all-scan where nobody says: one for each head, but no more than hide the wait on a few ten ranks.
inline int64_t default_blocks(int64_t heads) { return std::min<int64_t>(heads, 32); }

class ChainPlan {
 public:
  // `towards`: 1 down the sequence, with states; -1 up, with their gradients. `blocks` of the heads where something crosses an
  // end of the fragment; else it is done as a whole.
  ChainPlan(const Problem& problem, const Fragments& fragments, int blocks, int towards);

  const std::vector<ChainWork>& of(int rank) const { return programs_[static_cast<size_t>(rank)]; }
  int blocks_of(int fragment) const { return coupled(fragment) ? blocks_ : 1; }
  // Whether a fragment's states of this block are made before they are needed.
  bool is_ahead(int block) const { return block < ahead_; }
  // When the last rank is done, in times of the scan of a token and head. What all ranks wait for is in it, messages are not.
  double time() const { return time_; }
  bool enters(int fragment) const;
  bool leaves(int fragment) const;

 private:
  friend class ChainPlay;
  bool coupled(int fragment) const { return enters(fragment) || leaves(fragment); }
  int borders_in_a_row() const;
  bool is_a_path() const;

  const Fragments& fragments_;
  const int64_t heads_;
  const int ranks_, blocks_, towards_;
  const LinearWork work_;
  int ahead_ = 0;
  double time_ = 0;
  std::vector<std::vector<ChainWork>> programs_;  // by rank
};

}  // namespace weft::methods
