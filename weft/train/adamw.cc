#include "weft/train/adamw.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace weft {

void adamw_update(const AdamW& options, const ParameterMap& map, Range part, int64_t step, double learning_rate,
                  double gradient_scale, const AdamWArrays& arrays) {
  const float beta1 = static_cast<float>(options.beta1);
  const float beta2 = static_cast<float>(options.beta2);
  const float eps = static_cast<float>(options.eps);
  const float scale = static_cast<float>(gradient_scale);
  // The bias corrections in double: 1 - beta2^1 would lose half its digits in float.
  const double t = static_cast<double>(step);
  const float rate = static_cast<float>(learning_rate / (1 - std::pow(options.beta1, t)));
  const float v_scale = static_cast<float>(1 / (1 - std::pow(options.beta2, t)));
  for (const Parameter& parameter : map.parameters()) {
    const Range range = intersect(part, {parameter.offset, parameter.offset + parameter.count});
    const float keep = static_cast<float>(1 - (parameter.decays ? learning_rate * options.weight_decay : 0.0));
    for (int64_t i = range.begin; i < range.end; ++i) {
      const size_t at = static_cast<size_t>(i);
      const float g = arrays.gradients[at] * scale;
      const float m = beta1 * arrays.first_moment[at] + (1 - beta1) * g;
      const float v = beta2 * arrays.second_moment[at] + (1 - beta2) * g * g;
      arrays.first_moment[at] = m;
      arrays.second_moment[at] = v;
      arrays.weights[at] = keep * arrays.weights[at] - rate * m / (std::sqrt(v * v_scale) + eps);
    }
  }
}

double LearningRate::at(int64_t step) const {
  if (step <= warmup_steps) {
    return peak * static_cast<double>(step) / static_cast<double>(warmup_steps);
  }
  if (step >= steps) return peak * final_share;
  const double done = static_cast<double>(step - warmup_steps) / static_cast<double>(steps - warmup_steps);
  return peak * (final_share + (1 - final_share) * 0.5 * (1 + std::cos(std::numbers::pi * done)));
}

}  // namespace weft
