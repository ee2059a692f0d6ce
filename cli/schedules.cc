#include "cli/schedules.h"

#include "weft/methods/registry.h"

namespace weft::cli {

void require_method(const std::string& method, const char* command) {
  if (method.empty()) {
    throw Error(ErrorCode::usage, std::string(command) + ": name a method; weft methods lists them");
  }
}

Schedule schedule_for(const std::string& method, const ProblemOptions& options, bool backward, bool return_lse) {
  const auto layout_over = [&](const std::vector<int64_t>& lengths) {
    return choose_layout(options.layout, method, Documents(lengths, options.rule), static_cast<int>(options.ranks),
                         options.method_options, options.canonical ? kCanonicalTile : 0);
  };
  const Layout queries = layout_over(options.lengths());
  Problem problem(options.mask(), queries, options.cross() ? layout_over(options.kv_lengths()) : queries);
  problem.heads = options.heads;
  problem.kv_heads = options.kv_heads;
  problem.dim = options.key_dim;
  problem.dim_v = options.value_dim;
  problem.layer = options.layer;
  problem.key_heads = options.key_heads;
  problem.householders = options.householders;
  problem.initial_states = options.initial_states;
  problem.final_states = options.final_states;
  problem.ask_for_states(options.state_positions);
  if (decay_of(problem.layer) == Decay::constant) problem.log_decay = retnet_log_decays(options.heads);
  problem.scale = options.scale;
  problem.backward = backward;
  problem.return_lse = return_lse && problem.layer == Layer::softmax;
  problem.element = options.dtype;
  problem.wire = options.wire.value_or(problem.accumulator());
  problem.canonical_tile = options.canonical ? kCanonicalTile : 0;
  return make_schedule(method, std::move(problem), options.method_options);
}

}  // namespace weft::cli
