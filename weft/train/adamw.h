// AdamW with decoupled weight decay on flat arrays, and the learning rate over time.
//
//   LearningRate rate{.peak = 1e-3, .warmup_steps = 20, .steps = 1000};
//   adamw_update({.beta2 = 0.95}, map, {0, map.size()}, step, rate.at(step), clip, arrays);
//
// For each weight w with gradient g, at step t = 1, 2, ...:
//   g <- g * gradient_scale                      (clipping by the global norm)
//   m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2
//   w <- w - lr * decay * w - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
#pragma once

#include <cstdint>
#include <span>

#include "weft/base/range.h"
#include "weft/model/parameters.h"

namespace weft {

struct AdamW {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;  // only for parameters whose `decays` is true
};

// The flat arrays that one update works on; all of the parameter map's size.
struct AdamWArrays {
  std::span<float> weights;
  std::span<const float> gradients;
  std::span<float> first_moment;
  std::span<float> second_moment;
};

// Updates the elements of `part`, so that ranks can share the work: each element's result does not
// depend on the split. `step` counts from 1.
void adamw_update(const AdamW& options, const ParameterMap& map, Range part, int64_t step, double learning_rate,
                  double gradient_scale, const AdamWArrays& arrays);

// Linear from 0 over `warmup_steps`, then half a cosine down to `final_share` of the peak at `steps`.
struct LearningRate {
  double peak = 1e-3;
  int64_t warmup_steps = 0;
  int64_t steps = 1;
  double final_share = 0.1;

  // For step 1 .. steps. Step warmup_steps has the peak.
  double at(int64_t step) const;
};

}  // namespace weft
