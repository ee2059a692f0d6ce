// Linear layers in the symbolic run of a rank.
//
// What a state holds is said by its coordinates: the tokens of its value are the run that it sums up. So it is a whole
// value like any other, tracked by whether it is defined, and the proof is that every instruction fits its operands
// together: a summary has the run of its keys, composed runs follow one another in their order, and a state is applied to
// the run that begins where its own ends. A matched message names the same run at both ends, so what it carries is what it
// is taken for. Rows of out, dq, dk, dv and dg then gain the tokens of the runs and states that they are given, and finish
// asks for all pairs of the mask, as in attention: a document's state cannot be lost, doubled or taken from another place.
#include <algorithm>

#include "weft/verify/rank_run.h"

namespace weft::verify_internal {

void RankRun::execute_states(const Instruction& i) {
  if (problem_.layer == Layer::softmax) {
    return note("operand", std::string(name_of(i.op)) + ": the layer is softmax, which has no state");
  }
  if (problem_.bidirectional()) {
    switch (i.op) {
      case Op::scan: return scan_both_ways(i);
      case Op::apply_state: return apply_state_both_ways(i);
      case Op::scan_backward: return scan_both_ways_backward(i);
      case Op::apply_dstate: return apply_dstate_both_ways(i);
      default: break;  // of one document, and else the same
    }
  }
  switch (i.op) {
    case Op::summarise: return summarise(i);
    case Op::compose: return compose(i);
    case Op::scan: return scan(i);
    case Op::apply_state: return apply_state(i);
    case Op::summarise_backward: return summarise_backward(i);
    case Op::scan_backward: return scan_backward(i);
    case Op::apply_dstate: return apply_dstate(i);
    default: return;
  }
}

// The run that an instruction works on. False after noting what is wrong with it.
bool RankRun::find_run(const Instruction& i, bool with_queries, TokenRun& run) {
  const std::string name = name_of(i.op);
  const auto queries = block_.queries(i), keys = block_.keys(i);
  if (queries.size() != (with_queries ? 1u : 0u) || keys.empty() || keys.size() > 2) {
    note("operand", name + " works on one run: it takes one slice of keys" +
                        (with_queries ? " and one of queries" : ", and no queries"));
    return false;
  }
  if (!is_whole(keys[0], (name + ": keys").c_str(), problem_.key_inputs())) return false;
  if (with_queries && !is_whole(queries[0], (name + ": queries").c_str(), Field::q)) return false;
  run = {keys[0].tokens, with_queries ? queries[0].heads : keys[0].heads, pool_[keys[0].tokens].hull()};
  if (pool_[run.tokens].ranges().size() != 1) {
    note("operand", name + " works on neighbouring tokens, not on " + to_string(pool_[run.tokens]));
    return false;
  }
  if (with_queries && (queries[0].tokens != run.tokens || queries[0].heads != keys[0].heads)) {
    note("operand", name + " of different runs: " + describe(queries[0]) + " and " + describe(keys[0]));
    return false;
  }
  if (problem_.initial_states)
    run.first_tokens = pool_.intern(problem_.rows_among(run.range, Fields(Field::initial_state)));
  run.last_tokens = pool_.intern(problem_.rows_among(run.range, Fields(Field::final_state)));
  return true;
}

// The second slice of keys: the given states of all documents that begin in the run, and none where there are none.
bool RankRun::has_initial_states(const Instruction& i, const TokenRun& run) {
  const auto keys = block_.keys(i);
  const std::string name = name_of(i.op);
  if (run.first_tokens == SetId::empty) {
    if (keys.size() == 1) return true;
    note("operand",
         name + " is given " + to_string(keys[1].fields) + ", and no document begins with a given state here");
    return false;
  }
  if (keys.size() == 2 && keys[1].tokens == run.first_tokens && keys[1].heads == run.heads &&
      keys[1].fields == Fields(Field::initial_state)) {
    return is_whole(keys[1], (name + ": keys").c_str(), Field::initial_state);
  }
  note("operand", name + " of the run " + to_string(pool_[run.tokens]) +
                      " needs the initial_state of documents that begin at " + to_string(pool_[run.first_tokens]));
  return false;
}

// The slice of this field among the bundles: whole, in all heads of the run. Null where there is none; `wrong` after
// noting that the one there is does not fit.
const Slice* RankRun::bundle_of_run(const Instruction& i, Field field, const TokenRun& run, bool& wrong) {
  for (const Slice& slice : block_.bundles(i)) {
    if (slice.fields != Fields(field)) continue;
    const std::string role = std::string(name_of(i.op)) + ": " + weft::name_of(field);
    if (slice.heads != run.heads) {
      note("operand", role + " of other heads, " + to_string(pool_[slice.heads]));
      wrong = true;
    } else {
      wrong |= !is_whole(slice, role.c_str(), field);
    }
    return wrong ? nullptr : &slice;
  }
  return nullptr;
}

// Whether the bundles are of these fields, at most one of each.
bool RankRun::has_only_bundles(const Instruction& i, Fields fields) {
  Fields rest = fields;
  for (const Slice& slice : block_.bundles(i)) {
    if (slice.fields.empty() || !rest.includes(slice.fields)) {
      note("operand", std::string(name_of(i.op)) + " takes " +
                          (fields.empty() ? "nothing else" : to_string(fields) + ", each once") + ", but is given " +
                          to_string(slice.fields));
      return false;
    }
    rest = Fields::from_bits(rest.bits() & ~slice.fields.bits());
  }
  return true;
}

// Every target has the rows of the run, is a sum of some of these fields, and gains tokens of the other axis.
void RankRun::gain(const Instruction& i, Fields fields, const TokenRun& run, const IntervalSet& tokens,
                   const char* verb) {
  const bool key_side = is_key_side(fields);
  for (const Slice& target : block_.targets(i)) {
    if (!fields.includes(target.fields)) continue;
    ValueState* into = accumulator(target, name_of(i.op));
    if (!into) continue;
    const SetId rows = run.rows(target.fields);
    if (target.tokens != rows || target.heads != run.heads) {
      note("operand", std::string(name_of(i.op)) + ": target " + describe(target) + " has other rows than the run " +
                          to_string(pool_[run.tokens]) + ", heads " + to_string(pool_[run.heads]));
      continue;
    }
    into->contributions.add(pool_, {run.heads, rows}, tokens, [&](Box box, const IntervalSet& both) {
      const int64_t pairs = missing_pairs(key_side, box.own, both);
      if (pairs == 0) return;
      note("coverage", to_string(target.fields) + " of " + (key_side ? "keys " : "queries ") +
                           to_string(pool_[box.own]) + ", heads " + to_string(pool_[box.heads]) + ": " +
                           std::to_string(pairs) + " pairs with " + (key_side ? "queries " : "keys ") +
                           to_string(both) + " are " + verb + " twice");
    });
    if (trace_ && trace_->concerns(target.fields, pool_, run.heads, rows, tokens)) {
      trace_->events.push_back({rank_, instruction(), verb});
    }
  }
}

// The targets are sums of some of these fields, and perhaps what the run `gives`.
bool RankRun::check_sums(const Instruction& i, Fields wanted, Fields gives) {
  bool fits = i.targets > 0;
  for (const Slice& target : block_.targets(i))
    fits &= !target.fields.empty() && (wanted.includes(target.fields) || target.fields == gives);
  if (!fits) {
    note("operand", std::string(name_of(i.op)) + " adds to sums of " + to_string(wanted) +
                        (gives.empty() ? "" : " and gives " + to_string(gives)));
  }
  return fits;
}

void RankRun::define_state(const Slice& target, const char* verb) {
  ValueState* value = find(target, verb);
  if (!value) return;
  if (!value->defined.define(pool_, target, value->all)) note("lifetime", describe(target) + " is written twice");
  if (trace_ && trace_->concerns_state(target.fields, pool_, target.heads, pool_[target.tokens])) {
    trace_->events.push_back({rank_, instruction(), verb});
  }
}

// ---- states

void RankRun::summarise(const Instruction& i) {
  TokenRun run;
  if (!find_run(i, false, run) || !has_one_document(i, run.range)) return;
  const bool only_transition = std::all_of(block_.targets(i).begin(), block_.targets(i).end(), [](const Slice& target) {
    return target.fields == Fields(Field::transition);
  });
  if (!only_transition && !has_initial_states(i, run)) return;
  if (i.targets == 0) note("operand", "summarise without a target");
  for (const Slice& target : block_.targets(i)) {
    const bool is_transition = target.fields == Fields(Field::transition);
    if (!is_transition && target.fields != Fields(Field::state)) {
      note("operand", "summarise gives state or transition, not " + to_string(target.fields));
    } else if (is_transition && !has_transition(problem_.layer)) {
      note("operand", std::string("summarise: layer ") + name_of(problem_.layer) +
                          " has decays that all ranks know, and no transition");
    } else if (target.tokens != run.tokens || target.heads != run.heads) {
      note("operand", "summarise of keys " + to_string(pool_[run.tokens]) + ", heads " + to_string(pool_[run.heads]) +
                          " into " + describe(target));
    } else {
      define_state(target, "summarised");
    }
  }
}

void RankRun::summarise_backward(const Instruction& i) {
  TokenRun run;
  if (!find_run(i, true, run) || !takes_keys_alone(i) || !has_dout(i, run)) return;
  if (!has_one_document(i, run.range)) return;
  if (!has_only_bundles(i, run.last_tokens == SetId::empty ? Fields(Field::dout) : Field::dout | Field::dfinal_state))
    return;
  const auto targets = block_.targets(i);
  if (targets.size() != 1 || targets[0].fields != Fields(Field::dstate)) {
    return note("operand", "summarise_backward gives one dstate");
  }
  if (targets[0].tokens != run.tokens || targets[0].heads != run.heads) {
    return note("operand", "summarise_backward of the run " + to_string(pool_[run.tokens]) + ", heads " +
                               to_string(pool_[run.heads]) + " into " + describe(targets[0]));
  }
  define_state(targets[0], "summarised");
}

// dout of the run, and the gradients of the states of documents that end in it.
bool RankRun::has_dout(const Instruction& i, const TokenRun& run) {
  return has_bundle_of_rows(i, Field::dout, run) &&
         (run.last_tokens == SetId::empty || has_bundle_of_rows(i, Field::dfinal_state, run));
}

bool RankRun::has_bundle_of_rows(const Instruction& i, Field field, const TokenRun& run) {
  bool wrong = false;
  const Slice* found = bundle_of_run(i, field, run, wrong);
  if (found && found->tokens == run.rows(field)) return true;
  if (!wrong) {
    note("operand",
         std::string(name_of(i.op)) + ": no " + weft::name_of(field) + " of the run " + to_string(pool_[run.tokens]));
  }
  return false;
}

// An instruction that needs no given states takes none.
bool RankRun::takes_keys_alone(const Instruction& i) {
  if (block_.keys(i).size() == 1) return true;
  note("operand", std::string(name_of(i.op)) + " takes one slice of keys");
  return false;
}

// ---- rows

void RankRun::scan(const Instruction& i) {
  TokenRun run;
  if (!find_run(i, true, run) || !has_initial_states(i, run)) return;
  if (!check_sums(i, Field::out | Field::final_state, Field::state) || !has_only_bundles(i, Field::state)) return;
  bool wrong = false;
  const Slice* state = entering_state(i, run, wrong);
  if (wrong || !gives_what_leaves(i, run, Field::state, state)) return;
  report_.work += run.range.size() * pool_.size(run.heads);
  gain(i, Field::out | Field::final_state, run, tokens_of_both(state, run), "scanned");
}

IntervalSet RankRun::tokens_of_both(const Slice* state, const TokenRun& run) const {
  return state ? unite(pool_[state->tokens], pool_[run.tokens]) : pool_[run.tokens];
}

// What leaves a run is that of the run joined with what comes to it, or of those of their tokens that the document which leaves
// has: there it begins anew, so a state of both is the same.
bool RankRun::gives_what_leaves(const Instruction& i, const TokenRun& run, Field field, const Slice* coming) {
  const IntervalSet both = tokens_of_both(coming, run);
  const bool forward = field == Field::state;
  const Range end = forward ? Range{run.range.end - 1, run.range.end} : Range{run.range.begin, run.range.begin + 1};
  for (const Slice& target : block_.targets(i)) {
    if (target.fields != Fields(field)) continue;
    const IntervalSet needed = forward ? problem_.pairs.keys_needed(IntervalSet(end), both)
                                       : problem_.pairs.queries_needed(both, IntervalSet(end));
    const IntervalSet& tokens = pool_[target.tokens];
    if (target.heads != run.heads || !subtract(tokens, both).empty() || !subtract(needed, tokens).empty()) {
      note("coverage", std::string(name_of(i.op)) + " of the run " + to_string(pool_[run.tokens]) + ", heads " +
                           to_string(pool_[run.heads]) + ", gives the " + weft::name_of(field) + " of " +
                           to_string(both) + ", not " + describe(target));
      return false;
    }
    define_state(target, "scanned");
  }
  return true;
}

void RankRun::apply_state(const Instruction& i) {
  TokenRun run;
  if (!find_run(i, true, run) || !takes_keys_alone(i)) return;
  if (!check_sums(i, Field::out | Field::final_state) || !has_only_bundles(i, Field::state)) return;
  bool wrong = false;
  const Slice* state = entering_state(i, run, wrong);
  if (wrong) return;
  if (!state) return note("operand", "apply_state without a state");
  gain(i, Field::out | Field::final_state, run, pool_[state->tokens], "applied");
}

// The state among the bundles, which must end where the run begins. Null where there is none.
const Slice* RankRun::entering_state(const Instruction& i, const TokenRun& run, bool& wrong) {
  const Slice* state = bundle_of_run(i, Field::state, run, wrong);
  if (!state || pool_[state->tokens].hull().end == run.range.begin) return state;
  note("coverage", std::string(name_of(i.op)) + ": the state is that of tokens " + to_string(pool_[state->tokens]) +
                       ", and the run begins at " + std::to_string(run.range.begin));
  wrong = true;
  return nullptr;
}

// Gradients of a run are products of what entered it and what follows it, so the state must be there, and all of it.
const Slice* RankRun::complete_state(const Instruction& i, const TokenRun& run, bool& wrong) {
  const Slice* state = entering_state(i, run, wrong);
  if (wrong) return nullptr;
  const Range first{run.range.begin, run.range.begin + 1};
  const IntervalSet needed = problem_.pairs.keys_needed(IntervalSet(first), IntervalSet(Range{0, first.begin}));
  const IntervalSet lacking = state ? subtract(needed, pool_[state->tokens]) : needed;
  if (lacking.empty()) return state;
  note("coverage", std::string(name_of(i.op)) + " of the run " + to_string(pool_[run.tokens]) +
                       ": the state that enters lacks tokens " + to_string(lacking));
  wrong = true;
  return nullptr;
}

void RankRun::scan_backward(const Instruction& i) {
  TokenRun run;
  const Fields of_keys = problem_.key_gradients() | Field::dinitial_state;
  if (!find_run(i, true, run) || !has_initial_states(i, run) || !check_sums(i, Field::dq | of_keys, Field::dstate))
    return;
  const Fields of_documents = run.last_tokens == SetId::empty ? Fields() : Fields(Field::dfinal_state);
  bool wrong = !has_only_bundles(i, Field::dout | Field::state | Field::dstate | of_documents) || !has_dout(i, run);
  if (wrong) return;
  const Slice* state = complete_state(i, run, wrong);
  if (wrong) return;
  const Slice* dstate = following_dstate(i, run, wrong);
  if (wrong || !gives_what_leaves(i, run, Field::dstate, dstate)) return;
  report_.work_backward += run.range.size() * pool_.size(run.heads);
  gain(i, Field::dq, run, tokens_of_both(state, run), "scanned");
  gain(i, of_keys, run, tokens_of_both(dstate, run), "scanned");
}

// The dstate among the bundles, which must begin where the run ends. Null where there is none.
const Slice* RankRun::following_dstate(const Instruction& i, const TokenRun& run, bool& wrong) {
  const Slice* dstate = bundle_of_run(i, Field::dstate, run, wrong);
  if (!dstate || pool_[dstate->tokens].hull().begin == run.range.end) return dstate;
  note("coverage", std::string(name_of(i.op)) + ": the dstate is that of tokens " + to_string(pool_[dstate->tokens]) +
                       ", and the run ends at " + std::to_string(run.range.end));
  wrong = true;
  return nullptr;
}

void RankRun::apply_dstate(const Instruction& i) {
  TokenRun run;
  const Fields of_keys = problem_.key_gradients() | Field::dinitial_state;
  if (!find_run(i, false, run) || !has_initial_states(i, run) || !check_sums(i, of_keys)) return;
  if (!has_only_bundles(i, Field::dstate | Field::state)) return;
  bool wrong = false;
  complete_state(i, run, wrong);
  const Slice* dstate = wrong ? nullptr : following_dstate(i, run, wrong);
  if (wrong) return;
  if (!dstate) return note("operand", "apply_dstate without a dstate");
  gain(i, of_keys, run, pool_[dstate->tokens], "applied");
}

}  // namespace weft::verify_internal
