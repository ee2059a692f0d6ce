#include "weft/methods/passes/mesh_steps.h"

#include "weft/methods/passes/degrees.h"

namespace weft::methods {

MeshSteps make_mesh_steps(const AttentionShape& shape, int width, int height) {
  const int64_t query_bytes = shape.bytes_per_token(Field::q, Form::whole);
  const int64_t key_bytes = shape.bytes_per_token(Field::k | Field::v, Form::whole);
  MeshSteps mesh{{0}, {0}};
  for (int step = 1; step < width + height - 1; ++step) {
    const auto queries = static_cast<int>(mesh.query_steps.size()), keys = static_cast<int>(mesh.key_steps.size());
    const bool more_keys = keys < height && (queries == width || queries * query_bytes >= keys * key_bytes);
    (more_keys ? mesh.key_steps : mesh.query_steps).push_back(step);
  }
  return mesh;
}

int best_mesh_width(const AttentionShape& shape, int ranks) {
  const double g = static_cast<double>(shape.kv_heads) / static_cast<double>(shape.heads);
  return cheapest_divisor(ranks, [&](int a) { return 5.0 * (a - 1) + 6.0 * g * (ranks / a - 1); });
}

}  // namespace weft::methods
