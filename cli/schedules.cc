#include "cli/schedules.h"

#include "weft/methods/registry.h"

namespace weft::cli {

void require_method(const std::string& method, const char* command) {
  if (method.empty()) {
    throw Error(ErrorCode::usage, std::string(command) + ": name a method; weft methods lists them");
  }
}

Schedule schedule_for(const std::string& method, const ProblemOptions& options, bool backward, bool return_lse) {
  const std::vector<int64_t> lengths = options.lengths();
  const int ranks = static_cast<int>(options.ranks);
  Layout layout = choose_layout(options.layout, method, lengths, ranks, options.method_options);
  Problem problem =
      self_attention(options.mask(), std::move(layout), options.heads, options.kv_heads, options.head_dim);
  problem.scale = options.scale;
  problem.backward = backward;
  problem.return_lse = return_lse;
  problem.element = options.dtype;
  problem.wire = options.wire.value_or(problem.accumulator());
  return make_schedule(method, std::move(problem), options.method_options);
}

}  // namespace weft::cli
