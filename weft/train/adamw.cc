#include "weft/train/adamw.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "weft/kernels/fused/fused.h"

namespace weft {

void adamw_update(const AdamW& options, const ParameterMap& map, Range part, int64_t step, double learning_rate,
                  double gradient_scale, const AdamWArrays& arrays) {
  const kernels::FusedKernels& kernels = kernels::fused_kernels();
  // The bias corrections in double: 1 - beta2^1 would lose half its digits in float.
  const double t = static_cast<double>(step);
  const float rate = static_cast<float>(learning_rate / (1 - std::pow(options.beta1, t)));
  const float v_scale = static_cast<float>(1 / (1 - std::pow(options.beta2, t)));
  for (const Parameter& parameter : map.parameters()) {
    const Range range = intersect(part, {parameter.offset, parameter.offset + parameter.count});
    const float keep = static_cast<float>(1 - (parameter.decays ? learning_rate * options.weight_decay : 0.0));
    if (range.empty()) continue;
    kernels.adamw({.weights = &arrays.weights[static_cast<size_t>(range.begin)],
                   .gradients = &arrays.gradients[static_cast<size_t>(range.begin)],
                   .first_moment = &arrays.first_moment[static_cast<size_t>(range.begin)],
                   .second_moment = &arrays.second_moment[static_cast<size_t>(range.begin)],
                   .n = range.size(),
                   .beta1 = static_cast<float>(options.beta1),
                   .beta2 = static_cast<float>(options.beta2),
                   .eps = static_cast<float>(options.eps),
                   .gradient_scale = static_cast<float>(gradient_scale),
                   .keep = keep,
                   .rate = rate,
                   .v_scale = v_scale});
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
