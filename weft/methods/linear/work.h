// What the parts of a linear layer's work take, beside one scan of the same tokens and heads (docs/linear.md, 3).
#pragma once

#include <cstdint>

#include "weft/schedule/layer.h"

namespace weft::methods {

struct LinearWork {
  double products = 0;  // multiply-adds of a scan, in dim x dim_v per token and head: forward's
  // In hundredths of a scan of the phase, as measured with 64 and 128 columns.
  int64_t summary = 0;     // a state or dstate by itself
  int64_t transition = 0;  // none in backward, which has those of forward
  int64_t correction = 0;  // apply_state or apply_dstate
};

inline LinearWork linear_work(Layer layer, bool backward) {
  const Mixing mixing = traits_of(layer).mixing;
  const double products = mixing == Mixing::none ? 2 : mixing == Mixing::delta ? 3 : 4;
  if (mixing == Mixing::columns) {  // counted, not measured: with key-dim 1, as where these layers are used
    const double writes = 2.0 + static_cast<double>(column_blocks(layer));
    return backward ? LinearWork{writes, 30, 0, 75} : LinearWork{writes, 66, 50, 70};
  }
  if (mixing == Mixing::none) return {products, backward ? 17 : 43, 0, backward ? 33 : 45};
  if (backward) return {products, 31, 0, 75};
  return mixing == Mixing::delta ? LinearWork{products, 63, 62, 97} : LinearWork{products, 63, 52, 84};
}

}  // namespace weft::methods
