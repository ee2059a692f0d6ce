// Joining the maps of runs that follow one another, in the symbolic run of a rank: two, or all of some pieces.
#include "weft/verify/rank_run.h"

namespace weft::verify_internal {

void RankRun::compose(const Instruction& i) {
  const auto sources = block_.sources(i), targets = block_.targets(i);
  const bool alike = (sources.size() == 1 || sources.size() == 2) && targets.size() == 1 &&
                     sources.front().fields == targets[0].fields && sources.back().fields == targets[0].fields &&
                     kStateFields.includes(targets[0].fields);
  if (!alike) return note("operand", "compose takes two states, dstates or transitions, or pieces, and gives one");
  const Slice& target = targets[0];
  for (const Slice& source : sources) {
    const bool there = sources.size() == 1 ? are_pieces(source, "compose: source")
                                           : is_whole(source, "compose: source", source.fields);
    if (!there) return;
    if (source.heads != target.heads) {
      return note("operand", "compose of different heads: " + describe(source) + " and " + describe(target));
    }
  }
  if (!has_one_document(i, pool_[target.tokens].hull())) return;
  const bool needs_transition = has_transition(problem_.layer) && target.fields != Fields(Field::transition);
  if (!has_only_bundles(i, needs_transition ? Fields(Field::transition) : Fields())) return;
  sources.size() == 1 ? compose_pieces(i, sources[0], target) : compose_two(i, sources[0], sources[1], target);
}

void RankRun::compose_two(const Instruction& i, const Slice& earlier, const Slice& later, const Slice& target) {
  if (pool_[earlier.tokens].hull().end != pool_[later.tokens].hull().begin ||
      pool_.unite(earlier.tokens, later.tokens) != target.tokens) {
    return note("coverage", "compose of " + to_string(pool_[earlier.tokens]) + " and " +
                                to_string(pool_[later.tokens]) + " into " + to_string(pool_[target.tokens]) +
                                ": runs that follow one another, the earlier first, give the joined run");
  }
  if (has_transition(problem_.layer) && target.fields != Fields(Field::transition)) {
    bool wrong = false;
    const Slice* transition = bundle_of_run(i, Field::transition, {target.tokens, target.heads, {}}, wrong);
    if (wrong) return;
    const Slice& passed = target.fields == Fields(Field::state) ? later : earlier;
    if (!transition || transition->tokens != passed.tokens) {
      return note("operand", "compose of " + to_string(target.fields) + " needs the transition of " +
                                 to_string(pool_[passed.tokens]));
    }
  }
  define_state(target, "composed");
}

// Every piece is a state of its own run, and the pieces of a run follow one another without a gap: so when all are there,
// joining them in their order gives the state of the run.
void RankRun::compose_pieces(const Instruction& i, const Slice& source, const Slice& target) {
  if (source.tokens != target.tokens) {
    return note("coverage", "compose of the pieces of " + to_string(pool_[source.tokens]) + " into " +
                                to_string(pool_[target.tokens]) + ": they give the state of just their tokens");
  }
  if (has_transition(problem_.layer) && target.fields != Fields(Field::transition)) {
    const Range run = pool_[source.tokens].hull();
    const bool forward = target.fields == Fields(Field::state);
    const IntervalSet passed =
        subtract(IntervalSet(run), IntervalSet(pieces_.holding(run, forward ? run.begin : run.end - 1)));
    const auto bundles = block_.bundles(i);
    if (passed.empty() ? !bundles.empty() : bundles.size() != 1 || !(pool_[bundles[0].tokens] == passed)) {
      return note("operand", "compose of pieces of " + to_string(target.fields) + " needs the transitions of " +
                                 to_string(passed));
    }
    if (!bundles.empty() && bundles[0].heads != target.heads) {
      return note("operand", "compose: transition of other heads, " + to_string(pool_[bundles[0].heads]));
    }
    if (!bundles.empty() && !are_pieces(bundles[0], "compose: transition")) return;
  }
  define_state(target, "composed");
}

// Whether a slice is made of whole pieces, all of them there.
bool RankRun::are_pieces(const Slice& slice, const char* role) {
  const ValueState* value = find(slice, role);
  if (!value) return false;
  const IntervalSet& tokens = pool_[slice.tokens];
  if (value->form != Form::pieces || tokens.ranges().size() != 1 ||
      !pieces_.are_whole(tokens.hull(), pool_[value->all.tokens].hull())) {
    note("operand", std::string(role) + ": " + describe(slice) + " of value " +
                        std::to_string(static_cast<size_t>(slice.value)) + " (" + name_of(value->form) + " " +
                        describe(value->all) + ") is not made of its pieces");
    return false;
  }
  if (value->defined.covers(pool_, slice, value->all)) return true;
  note("lifetime", std::string(role) + ": " + describe(slice) + " is used before all its pieces are there");
  return false;
}

bool RankRun::is_one_piece(const ValueState& value, const Slice& slice) {
  const IntervalSet& tokens = pool_[slice.tokens];
  const Range run = pool_[value.all.tokens].hull();
  const Range part = tokens.hull();
  if (tokens.ranges().size() == 1 && part == pieces_.holding(run, part.begin)) return true;
  note("operand", "exchange: " + describe(slice) + " is not one piece of value " +
                      std::to_string(static_cast<size_t>(slice.value)) + " (" + describe(value.all) + ")");
  return false;
}

}  // namespace weft::verify_internal
