// Linear layers whose tokens read all of their document: states of any tokens of one document, in no order. A summary of tokens
// of two documents could not be told apart later, so there is none; runs that are scanned are of whole documents.
#include <algorithm>

#include "weft/verify/rank_run.h"

namespace weft::verify_internal {

// Whether the tokens are of one document, where the mask has no order. True for all others.
bool RankRun::has_one_document(const Instruction& i, Range tokens) {
  if (!problem_.bidirectional()) return true;
  const auto documents = problem_.mask.bands_meeting(tokens, Range{0, problem_.mask.keys()});
  if (documents.size() == 1) return true;
  note("coverage", std::string(name_of(i.op)) + " of " + to_string(IntervalSet(tokens)) +
                       ": with a full mask a state is of tokens of one document");
  return false;
}

// Whether a run is of whole documents.
bool RankRun::has_whole_documents(const Instruction& i, const TokenRun& run) {
  const auto documents = problem_.mask.bands_meeting(run.range, Range{0, problem_.mask.keys()});
  if (documents.front().q.begin == run.range.begin && documents.back().q.end == run.range.end) return true;
  note("coverage", std::string(name_of(i.op)) + " of the run " + to_string(pool_[run.tokens]) +
                       ": with a full mask it is of whole documents; pass the states of parts");
  return false;
}

void RankRun::scan_both_ways(const Instruction& i) {
  TokenRun run;
  if (!find_run(i, true, run) || !takes_keys_alone(i) || !has_whole_documents(i, run)) return;
  if (!check_sums(i, Field::out) || !has_only_bundles(i, {})) return;
  report_.work += run.range.size() * pool_.size(run.heads);
  gain(i, Field::out, run, pool_[run.tokens], "scanned");
}

void RankRun::scan_both_ways_backward(const Instruction& i) {
  TokenRun run;
  if (!find_run(i, true, run) || !takes_keys_alone(i) || !has_whole_documents(i, run)) return;
  if (!check_sums(i, Field::dq | problem_.key_gradients()) || !has_only_bundles(i, Field::dout)) return;
  if (!has_dout(i, run)) return;
  report_.work_backward += run.range.size() * pool_.size(run.heads);
  gain(i, Field::dq, run, pool_[run.tokens], "scanned");
  gain(i, problem_.key_gradients(), run, pool_[run.tokens], "scanned");
}

// The state or dstate among the bundles, of the run's document. Null after noting that there is none.
const Slice* RankRun::state_of_document(const Instruction& i, Field field, const TokenRun& run) {
  bool wrong = false;
  const Slice* state = bundle_of_run(i, field, run, wrong);
  if (wrong) return nullptr;
  if (!state) {
    note("operand", std::string(name_of(i.op)) + " without a " + weft::name_of(field));
    return nullptr;
  }
  const Range tokens = pool_[state->tokens].hull();
  const Range both{std::min(tokens.begin, run.range.begin), std::max(tokens.end, run.range.end)};
  return has_one_document(i, both) ? state : nullptr;
}

// Of q, or of dout for the gradient of q.
void RankRun::apply_state_both_ways(const Instruction& i) {
  TokenRun run;
  if (!find_run(i, true, run) || !takes_keys_alone(i)) return;
  const auto bundles = block_.bundles(i);
  const bool of_dout = std::any_of(bundles.begin(), bundles.end(),
                                   [](const Slice& slice) { return slice.fields == Fields(Field::dout); });
  const Field to = of_dout ? Field::dq : Field::out;
  if (!check_sums(i, to) || !has_only_bundles(i, of_dout ? Field::state | Field::dout : Fields(Field::state))) return;
  if (of_dout && !has_dout(i, run)) return;
  const Slice* state = state_of_document(i, Field::state, run);
  if (!state) return;
  (of_dout ? report_.work_backward : report_.work) += run.range.size() * pool_.size(run.heads);
  gain(i, to, run, pool_[state->tokens], "applied");
}

void RankRun::apply_dstate_both_ways(const Instruction& i) {
  TokenRun run;
  const Fields of_keys = problem_.key_gradients();
  if (!find_run(i, false, run) || !takes_keys_alone(i) || !check_sums(i, of_keys)) return;
  if (!has_only_bundles(i, Field::dstate)) return;
  const Slice* dstate = state_of_document(i, Field::dstate, run);
  if (dstate) gain(i, of_keys, run, pool_[dstate->tokens], "applied");
}

}  // namespace weft::verify_internal
