// Linear layers: slices become runs of tokens in one head, and the loops of kernels/linear/recurrence.h do the rest.
#include "weft/execute/run.h"

namespace weft::execute_internal {
namespace {

using kernels::View;

}  // namespace

// The operands of one instruction: a run of neighbouring tokens in some heads.
struct Run::TokenRun {
  SetId tokens{}, heads{};
  Range range;
  const RankValue* queries = nullptr;
  const RankValue* keys = nullptr;
  const RankValue* initial = nullptr;  // of the documents that begin here, where they have given states
  std::vector<int64_t> starts;         // rows of the run at which a document begins
  bool ends = false;                   // the last row ends a document
  std::vector<int64_t> asked;          // rows after which states are asked for, where not only those of documents are
};

void Run::execute_states(const Instruction& i) {
  if (problem_.layer == Layer::softmax) refuse("the layer is softmax, which has no state");
  switch (i.op) {
    case Op::summarise: return summarise(i);
    case Op::compose: return compose(i);
    case Op::scan: return scan(i);
    case Op::apply_state: return apply_state(i);
    case Op::summarise_backward: return summarise_backward(i);
    case Op::scan_backward: return scan_backward(i);
    case Op::apply_dstate: return apply_dstate(i);
    default: refuse("unknown operation");
  }
}

// ---- operands

// With a full mask no document begins or ends inside.
Run::TokenRun Run::summed_run(const Instruction& i, bool with_queries) {
  TokenRun run = token_run(i, with_queries);
  if (problem_.bidirectional()) run.starts.clear(), run.ends = false;
  return run;
}

Run::TokenRun Run::token_run(const Instruction& i, bool with_queries) {
  const auto queries = block_.queries(i), keys = block_.keys(i);
  if (queries.size() != (with_queries ? 1u : 0u) || keys.empty() || keys.size() > 2)
    refuse("works on one run of tokens");
  TokenRun run;
  run.tokens = keys[0].tokens, run.heads = keys[0].heads;
  run.range = sets_[run.tokens].hull();
  run.keys = &whole(keys[0], "keys", problem_.key_inputs());
  if (with_queries) run.queries = &whole(queries[0], "queries", Field::q);
  if (sets_[run.tokens].ranges().size() != 1) refuse("works on neighbouring tokens");
  if (with_queries && (queries[0].tokens != run.tokens || queries[0].heads != run.heads)) {
    refuse("of different runs: " + describe(queries[0]) + " and " + describe(keys[0]));
  }
  for (const BandRectangle& document : problem_.mask.bands_meeting(run.range, Range{0, problem_.mask.keys()})) {
    if (run.range.contains(document.q.begin)) run.starts.push_back(document.q.begin - run.range.begin);
    run.ends = document.q.end == run.range.end;
  }
  if (!problem_.state_positions.empty()) {
    const IntervalSet& asked = sets_[rows_in_run(run, Field::final_state)];
    for (const Range& tokens : asked.ranges()) {
      for (int64_t token = tokens.begin; token < tokens.end; ++token) run.asked.push_back(token - run.range.begin);
    }
  }
  if (keys.size() == 2) {
    run.initial = &whole(keys[1], "initial states", Field::initial_state);
    if (keys[1].fields != Fields(Field::initial_state) || keys[1].heads != run.heads ||
        keys[1].tokens != rows_in_run(run, Field::initial_state)) {
      refuse("the initial states are not those of the run: " + describe(keys[1]));
    }
  }
  return run;
}

// What belongs to documents that begin or end in the run must be there: nothing stands for zero silently.
void Run::need_of_documents(const TokenRun& run, const RankValue* value, Field field) {
  if (problem_.inputs_of(true).has(field) && !value && rows_in_run(run, field) != SetId::empty)
    refuse(std::string("needs ") + name_of(field) + " of the documents in the run");
}

// The rows that a tensor has in the run.
SetId Run::rows_in_run(const TokenRun& run, Fields fields) {
  if ((fields & kDocumentFields).empty()) return run.tokens;
  return sets_.intern(problem_.rows_among(sets_[run.tokens], fields));
}

// The value of this field among the bundles or null; of `tokens`, unless that is the empty set.
const RankValue* Run::bundle_of_run(const Instruction& i, Field field, const TokenRun& run, SetId tokens) {
  for (const Slice& slice : block_.bundles(i)) {
    if (slice.fields != Fields(field)) continue;
    if (slice.heads != run.heads || (tokens != SetId::empty && slice.tokens != tokens)) {
      refuse(std::string(name_of(field)) + " does not fit the run: " + describe(slice));
    }
    return &whole(slice, name_of(field), field);
  }
  return nullptr;
}

// A field of a value, from its row of this token and in this head on; null where there is no value or no such field. Of a
// field of documents, from the first row that is not before the token.
View Run::view_of(const RankValue* value, Field field, int64_t token, int64_t head) {
  if (!value || !value->all.fields.has(field)) return {};
  const IntervalSet& tokens = sets_[value->all.tokens];
  if (kDocumentFields.has(field)) token = intersect(tokens, Range{token, tokens.hull().end}).hull().begin;
  const int64_t row = kStateFields.has(field) ? 0 : tokens.rank_of(token);
  const FieldMemory& memory = value->field(field);
  return memory.view(row, heads_in(sets_, memory, value->all.heads).rank_of(head / memory.sharing));
}

// Calls f(head, the kernel's run) for each head of the run.
template <typename F>
void Run::for_each_head(const TokenRun& run, F&& f) {
  for (const Range& heads : sets_[run.heads].ranges()) {
    for (int64_t head = heads.begin; head < heads.end; ++head) {
      const auto view = [&](const RankValue* value, Field field) {
        return view_of(value, field, run.range.begin, head);
      };
      f(head, kernels::TokenRun{.q = view(run.queries, Field::q),
                                .k = view(run.keys, Field::k),
                                .v = view(run.keys, Field::v),
                                .g = view(run.keys, Field::g),
                                .beta = view(run.keys, Field::beta),
                                .householders = problem_.householders,
                                .a = view(run.keys, Field::a),
                                .b = view(run.keys, Field::b),
                                .blocks = column_blocks(problem_.layer),
                                .u = parameter(head),
                                .decays = decays_of(head),
                                .rows = run.range.size(),
                                .dim = problem_.dim,
                                .dim_v = problem_.dim_v,
                                .scale = problem_.softmax_scale(),
                                .starts = run.starts,
                                .initial = view(run.initial, Field::initial_state),
                                .ends = run.ends,
                                .asked = run.asked,
                                .stop = &c_.endpoint.stop_flag(),
                                .kernels = &c_.kernels});
    }
  }
}

kernels::Decays Run::decays_of(int64_t head) const {
  if (has_gates(problem_.layer)) return {.columns = problem_.columns_of(Field::g)};
  return {.log_decay = problem_.log_decay.empty() ? 0 : problem_.log_decay[static_cast<size_t>(head)]};
}

// The targets, each a sum of some of these fields, with the rows that these have in the run.
std::vector<const RankValue*> Run::sums(const Instruction& i, const TokenRun& run, Fields wanted) {
  if (i.targets == 0) refuse("without a target");
  std::vector<const RankValue*> list;
  Fields seen;
  for (const Slice& target : block_.targets(i)) {
    if (kStateFields.includes(target.fields)) continue;  // leaving() has it
    if (target.fields.empty() || !wanted.includes(target.fields)) refuse("adds to sums of " + to_string(wanted));
    if (target.tokens != rows_in_run(run, target.fields) || target.heads != run.heads)
      refuse("of different rows: " + describe(target));
    if (!(seen & target.fields).empty()) refuse("has two targets of " + to_string(target.fields));
    seen = seen | target.fields;
    list.push_back(&accumulator(target, "target"));
  }
  return list;
}

// The target of this field, about to be written: what leaves the run. Null where there is none.
RankValue* Run::leaving(const Instruction& i, const TokenRun& run, Field field) {
  RankValue* found = nullptr;
  for (const Slice& target : block_.targets(i)) {
    if (!kStateFields.includes(target.fields)) continue;
    const Range tokens = sets_[target.tokens].hull();
    const bool ends = field == Field::state ? tokens.end == run.range.end : tokens.begin == run.range.begin;
    if (target.fields != Fields(field) || target.heads != run.heads || !ends || found)
      refuse("gives one " + std::string(name_of(field)) + " that leaves the run, not " + describe(target));
    found = &find(target, "target");
    write(*found, target);
  }
  return found;
}

// The state that enters the run, or null.
const RankValue* Run::entering(const Instruction& i, const TokenRun& run) {
  const RankValue* state = bundle_of_run(i, Field::state, run);
  if (!state || problem_.bidirectional()) return state;
  if (sets_[state->all.tokens].hull().end != run.range.begin) refuse("a state that does not enter the run");
  return state;
}

// The dstate of what follows the run, or null.
const RankValue* Run::following(const Instruction& i, const TokenRun& run) {
  const RankValue* dstate = bundle_of_run(i, Field::dstate, run);
  if (!dstate || problem_.bidirectional()) return dstate;
  if (sets_[dstate->all.tokens].hull().begin != run.range.end) refuse("a dstate that does not follow the run");
  return dstate;
}

View Run::sums_of(const std::vector<const RankValue*>& sums, Field field, const TokenRun& run, int64_t head) {
  for (const RankValue* value : sums) {
    if (value->all.fields.has(field)) return view_of(value, field, run.range.begin, head);
  }
  return {};
}

kernels::RunGradients Run::gradients_of(const std::vector<const RankValue*>& sums, const TokenRun& run, int64_t head) {
  const auto view = [&](Field field) { return sums_of(sums, field, run, head); };
  return {.dq = view(Field::dq),
          .dk = view(Field::dk),
          .dv = view(Field::dv),
          .dg = view(Field::dg),
          .dbeta = view(Field::dbeta),
          .da = view(Field::da),
          .db = view(Field::db),
          .du = view(Field::dk).data && du_.data ? du_.view(0, head) : View{},
          .dinitial = view(Field::dinitial_state)};
}

// ---- states

void Run::summarise(const Instruction& i) {
  const TokenRun run = summed_run(i, false);
  for (const Slice& target : block_.targets(i)) {
    RankValue& to = find(target, "target");
    const bool is_state = target.fields == Fields(Field::state);
    if (!is_state && (target.fields != Fields(Field::transition) || !has_transition(problem_.layer))) {
      refuse("gives a state, or a transition where the layer has one that not all ranks know");
    }
    if (target.tokens != run.tokens || target.heads != run.heads) refuse("of another run: " + describe(target));
    if (is_state) need_of_documents(run, run.initial, Field::initial_state);
    write(to, target);
    for_each_head(run, [&](int64_t head, const kernels::TokenRun& tokens) {
      if (is_state) {
        kernels::summarise(tokens, view_of(&to, Field::state, 0, head));
      } else {
        kernels::transition(tokens, view_of(&to, Field::transition, 0, head));
      }
    });
  }
}

void Run::summarise_backward(const Instruction& i) {
  const TokenRun run = summed_run(i, true);
  const RankValue* dout = bundle_of_run(i, Field::dout, run, run.tokens);
  const RankValue* dfinal = bundle_of_run(i, Field::dfinal_state, run, rows_in_run(run, Field::dfinal_state));
  need_of_documents(run, dfinal, Field::dfinal_state);
  const auto targets = block_.targets(i);
  if (!dout || targets.size() != 1 || targets[0].fields != Fields(Field::dstate) || targets[0].tokens != run.tokens ||
      targets[0].heads != run.heads) {
    refuse("takes dout and gives a dstate of the run");
  }
  RankValue& to = find(targets[0], "target");
  write(to, targets[0]);
  for_each_head(run, [&](int64_t head, const kernels::TokenRun& tokens) {
    kernels::summarise_backward(tokens, view_of(dout, Field::dout, run.range.begin, head),
                                view_of(dfinal, Field::dfinal_state, run.range.begin, head),
                                view_of(&to, Field::dstate, 0, head));
  });
}

// ---- rows

void Run::scan(const Instruction& i) {
  const TokenRun run = token_run(i, true);
  need_of_documents(run, run.initial, Field::initial_state);
  const RankValue* state = entering(i, run);
  const auto to = sums(i, run, Field::out | Field::final_state);
  const RankValue* given = leaving(i, run, Field::state);
  for_each_head(run, [&](int64_t head, const kernels::TokenRun& tokens) {
    if (problem_.bidirectional()) return kernels::scan_both_ways(tokens, sums_of(to, Field::out, run, head));
    kernels::scan(tokens, view_of(state, Field::state, 0, head), sums_of(to, Field::out, run, head),
                  sums_of(to, Field::final_state, run, head), view_of(given, Field::state, 0, head));
  });
}

void Run::apply_state(const Instruction& i) {
  const TokenRun run = summed_run(i, true);
  const RankValue* state = entering(i, run);
  if (!state) refuse("needs the state that enters the run");
  const RankValue* dout = problem_.bidirectional() ? bundle_of_run(i, Field::dout, run, run.tokens) : nullptr;
  const auto to = sums(i, run, dout ? Fields(Field::dq) : Field::out | Field::final_state);
  for_each_head(run, [&](int64_t head, const kernels::TokenRun& tokens) {
    if (dout) {
      return kernels::apply_state_to_dout(tokens, view_of(dout, Field::dout, run.range.begin, head),
                                          view_of(state, Field::state, 0, head), sums_of(to, Field::dq, run, head));
    }
    kernels::apply_state(tokens, view_of(state, Field::state, 0, head), sums_of(to, Field::out, run, head),
                         sums_of(to, Field::final_state, run, head));
  });
}

void Run::scan_backward(const Instruction& i) {
  const TokenRun run = token_run(i, true);
  const RankValue* dout = bundle_of_run(i, Field::dout, run, run.tokens);
  const RankValue* dfinal = bundle_of_run(i, Field::dfinal_state, run, rows_in_run(run, Field::dfinal_state));
  const RankValue *state = entering(i, run), *dstate = following(i, run);
  need_of_documents(run, run.initial, Field::initial_state);
  need_of_documents(run, dfinal, Field::dfinal_state);
  if (!dout) refuse("needs dout of the run");
  const auto to = sums(i, run, Field::dq | problem_.key_gradients() | Field::dinitial_state);
  const RankValue* given = leaving(i, run, Field::dstate);
  for_each_head(run, [&](int64_t head, const kernels::TokenRun& tokens) {
    if (problem_.bidirectional()) {
      return kernels::scan_both_ways_backward(tokens, view_of(dout, Field::dout, run.range.begin, head),
                                              gradients_of(to, run, head));
    }
    kernels::scan_backward(tokens, view_of(dout, Field::dout, run.range.begin, head),
                           view_of(dfinal, Field::dfinal_state, run.range.begin, head),
                           {.state = view_of(state, Field::state, 0, head),
                            .dstate = view_of(dstate, Field::dstate, 0, head),
                            .leaving = view_of(given, Field::dstate, 0, head)},
                           gradients_of(to, run, head));
  });
}

void Run::apply_dstate(const Instruction& i) {
  const TokenRun run = summed_run(i, false);
  const RankValue *dstate = following(i, run), *state = entering(i, run);
  need_of_documents(run, run.initial, Field::initial_state);
  if (!dstate) refuse("needs the dstate of what follows");
  const auto to = sums(i, run, problem_.key_gradients() | Field::dinitial_state);
  for_each_head(run, [&](int64_t head, const kernels::TokenRun& tokens) {
    kernels::apply_dstate(tokens, view_of(dstate, Field::dstate, 0, head), view_of(state, Field::state, 0, head),
                          gradients_of(to, run, head));
  });
}

}  // namespace weft::execute_internal
