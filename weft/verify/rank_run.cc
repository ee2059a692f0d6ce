#include "weft/verify/rank_run.h"

#include <algorithm>

namespace weft::verify_internal {
namespace {

bool works_on_pairs(Op op) {
  return op == Op::attend || op == Op::attend_backward || op == Op::score || op == Op::score_backward ||
         op == Op::weigh || op == Op::weigh_backward || op == Op::scan || op == Op::scan_backward;
}

// Whether an instruction belongs to softmax attention alone.
bool is_of_softmax(Op op) {
  return op == Op::attend || op == Op::attend_backward || op == Op::prepare_backward ||
         (op >= Op::score && op <= Op::score_backward);
}

bool lies_in(const IntervalSet& set, int64_t size) { return set.hull().begin >= 0 && set.hull().end <= size; }

}  // namespace

RankRun::RankRun(const Schedule& schedule, int rank, const Pieces& pieces, SetPool& pool,
                 std::function<void(Finding)> note, Trace* trace)
    : problem_(schedule.problem()),
      shared_(problem_.shared_fields()),
      pieces_(pieces),
      pool_(pool),
      rank_(rank),
      note_(std::move(note)),
      trace_(trace),
      program_(schedule.open(rank, pool)),
      dependencies_(pool, problem_) {
  all_queries_ = pool.intern(Range{0, problem_.query_layout.tokens()});
  all_keys_ = pool.intern(Range{0, problem_.key_layout.tokens()});
  my_queries_ = pool.intern(problem_.query_layout.shard(rank));
  my_keys_ = pool.intern(problem_.key_layout.shard(rank));
  all_heads_ = pool.intern(Range{0, problem_.heads});
  all_kv_heads_ = pool.intern(Range{0, problem_.kv_heads});
  if (problem_.initial_states)
    my_first_tokens_ = pool.intern(problem_.rows_among(pool[my_keys_], Field::initial_state));
  my_last_tokens_ = pool.intern(problem_.rows_among(pool[my_queries_], Field::final_state));
}

void RankRun::note(const char* kind, const std::string& text) { note_({rank_, instruction(), kind, text}); }

std::string RankRun::describe(const Slice& slice) const {
  return to_string(slice.fields) + " " + to_string(pool_[slice.tokens]) + ", heads " + to_string(pool_[slice.heads]);
}

bool RankRun::run() {
  if (exchange_) complete_exchange();
  while (true) {
    if (next_ == block_.instructions.size()) {
      next_ = 0;
      if (!program_->next(block_)) {
        block_ = {};
        end_of_program();
        return false;
      }
    }
    while (next_ < block_.instructions.size()) {
      const Instruction& i = block_.instructions[next_++];
      ++count_;
      if (i.lane >= kLanes) {
        note("operand",
             "lane " + std::to_string(i.lane) + " does not exist; lanes are 0.." + std::to_string(kLanes - 1));
        continue;
      }
      dependencies_.before(block_, i, [&](uint64_t number) { complete_flight(number); });
      if (i.op != Op::exchange) {
        execute(i);
        continue;
      }
      issue(i);
      if (unmatched > 0) return true;
      complete_exchange();
    }
  }
}

void RankRun::execute(const Instruction& i) {
  if (works_on_pairs(i.op)) {
    mark_step(i);
    ++computes_;
  }
  if (problem_.layer != Layer::softmax && is_of_softmax(i.op)) {
    return note("operand", std::string(name_of(i.op)) + " belongs to softmax attention, not to layer " +
                               weft::name_of(problem_.layer));
  }
  switch (i.op) {
    case Op::create:
    case Op::input: return create(i);
    case Op::drop: return drop(i);
    case Op::result: return result(i);
    case Op::attend: return attend(i);
    case Op::attend_backward: return attend_backward(i);
    case Op::prepare_backward: return prepare_backward(i);
    case Op::finish: return finish(i);
    case Op::merge:
    case Op::add: return combine(i);
    case Op::begin_backward: phase_began_ = i.step; return begin_backward();
    case Op::wait:
    case Op::exchange: return;
    default: return i.op >= Op::summarise ? execute_states(i) : execute_scores(i);
  }
}

// ---- values

RankRun::ValueState* RankRun::note_no_value(const Slice& slice, const char* role) {
  note("lifetime",
       std::string(role) + ": value " + std::to_string(static_cast<size_t>(slice.value)) + " does not exist here");
  return nullptr;
}

RankRun::ValueState* RankRun::note_outside(const Slice& slice, const char* role) {
  const size_t id = static_cast<size_t>(slice.value);
  note("operand", std::string(role) + ": slice " + describe(slice) + " is not inside value " + std::to_string(id) +
                      " (" + describe(values_[id].all) + ")");
  return nullptr;
}

bool RankRun::is_whole(const ValueState& value, const Slice& slice, const char* role, Fields needed) {
  if (value.form != Form::whole || !slice.fields.includes(needed)) {
    note("operand", std::string(role) + " needs whole " + to_string(needed) + ", but value " +
                        std::to_string(static_cast<size_t>(slice.value)) + " is " + name_of(value.form) + " " +
                        to_string(slice.fields));
    return false;
  }
  // A slice that was found lies inside of its value.
  if (value.defined.is_complete(needed) ||
      value.defined.covers(pool_, {slice.value, slice.tokens, slice.heads, needed}, value.all)) {
    return true;
  }
  note("lifetime", std::string(role) + ": " + describe(slice.only(needed)) + " is used before it is defined");
  return false;
}

bool RankRun::is_sum(const ValueState& value, const Slice& slice, const char* role) {
  if (value.form == Form::accumulating && slice.fields == value.all.fields) return true;
  note("operand", std::string(role) + " needs all fields of an accumulating value, but is given " +
                      to_string(slice.fields) + " of value " + std::to_string(static_cast<size_t>(slice.value)));
  return false;
}

RankRun::ValueState* RankRun::accumulator(const Slice& slice, const char* role) {
  ValueState* value = find(slice, role);
  return value && is_sum(*value, slice, role) ? value : nullptr;
}

bool RankRun::same_rows(const Slice& a, const Slice& b, const char* what) {
  if (a.tokens == b.tokens && a.heads == b.heads && a.fields == b.fields) return true;
  note("operand", std::string(what) + " of different rows: " + describe(a) + " and " + describe(b));
  return false;
}

bool RankRun::has_shared_rows(const Slice& slice, SetId all, const char* role) {
  if (shared_.empty() || !cut_shared_rows(pool_, problem_, slice.fields, slice.heads, all)) return true;
  note("operand", std::string(role) + ": " + describe(slice) + " lacks some of the heads " + to_string(pool_[all]) +
                      " that share its rows; name all of them");
  return false;
}

void RankRun::add_live(int64_t bytes) {
  live_ += bytes;
  report_.live_bytes = std::max(report_.live_bytes, live_);
}

void RankRun::mark_step(const Instruction& i) {
  const int64_t step = int64_t{i.step} - phase_began_;
  IntervalSet& steps = steps_[backward_];
  if (!steps.empty() && steps.hull().end == step + 1) return;
  steps.unite(Range{step, step + 1});
}

void RankRun::create(const Instruction& i) {
  for (const Slice& slice : block_.targets(i)) {
    const size_t id = static_cast<size_t>(slice.value);
    if (id >= (1u << 24)) return note("lifetime", "value number " + std::to_string(id) + " is too large");
    if (id >= values_.size()) values_.resize(id + 1);
    ValueState& value = values_[id];
    if (value.exists) return note("lifetime", "value " + std::to_string(id) + " is created twice");
    const bool key_side = is_key_side(slice.fields);
    const Form form = i.op == Op::input ? Form::whole : i.form;
    if (!may_hold(form, slice.fields)) {
      return note("operand", "a value cannot hold " + to_string(slice.fields) +
                                 (form == Form::accumulating            ? " as sums"
                                  : form == Form::pieces                ? " in pieces"
                                  : kScoreFields.includes(slice.fields) ? " as a whole"
                                                                        : " together"));
    }
    if (slice.tokens == SetId::empty || slice.heads == SetId::empty ||
        !lies_in(pool_[slice.tokens], key_side ? problem_.key_layout.tokens() : problem_.query_layout.tokens()) ||
        !lies_in(pool_[slice.heads], key_side ? problem_.kv_heads : problem_.heads)) {
      return note("operand",
                  "value " + std::to_string(id) + " (" + describe(slice) + ") is empty or lies outside of the problem");
    }
    if (!(slice.fields & kStateFields).empty() && pool_[slice.tokens].ranges().size() != 1) {
      return note("operand",
                  to_string(slice.fields) + " is of neighbouring tokens, not of " + to_string(pool_[slice.tokens]));
    }
    if (!(slice.fields & kDocumentFields).empty() &&
        !(pool_[slice.tokens] == problem_.rows_among(pool_[slice.tokens], slice.fields))) {
      return note("operand",
                  to_string(slice.fields) + " has rows for " +
                      (kFirstTokenFields.includes(slice.fields) ? "first tokens of documents"
                                                                : "tokens after which states are asked for") +
                      " only, not for all of " + to_string(pool_[slice.tokens]));
    }
    // Made whole, or given, by sums over all heads that share a row.
    if (form == Form::whole && !(slice.fields & (Field::dq | Field::dk)).empty() &&
        !has_shared_rows(slice, is_key_side(slice.fields) ? all_kv_heads_ : all_heads_, "a whole gradient")) {
      return;
    }
    value.exists = true;
    value.is_input = i.op == Op::input;
    value.is_result = false;
    value.form = form;
    value.all = slice;
    value.defined.clear();
    value.contributions.clear();
    value.readers.clear();
    const int64_t rows = form == Form::pieces ? pieces_.count(pool_[slice.tokens].hull()) : rows_of(pool_, slice);
    value.bytes = kScoreFields.includes(slice.fields)
                      ? bytes_of_scores(slice)
                      : rows * bytes_in_heads(pool_, problem_, slice.heads, slice.fields, form);
    add_live(value.bytes);
    if (i.op != Op::input) continue;
    const Fields given = problem_.inputs_of(backward_);
    if (!given.includes(slice.fields)) {
      note("operand",
           "the caller does not give " + to_string(slice.fields) + (backward_ ? " in backward" : " in forward"));
    }
    if (!pool_.includes(rows_of_caller(slice.fields), slice.tokens)) {
      note("operand", "the caller gives only this rank's own tokens, not " + to_string(pool_[slice.tokens]));
    }
    const Fields produced = slice.fields & kPartialFields;
    if (!produced.empty() && !results_.covers(pool_, {slice.value, slice.tokens, slice.heads, produced})) {
      note("operand", "backward asks for " + to_string(produced) + ", which forward did not give as a result");
    }
    value.defined.define(pool_, slice, slice);
  }
}

template <typename F>
void RankRun::for_each_in_flight(const Readers& readers, F&& f) const {
  if (readers.first == Readers::kNone) return;
  if (is_in_flight(readers.first)) f(readers.first);
  for (uint64_t number : readers.others) {
    if (is_in_flight(number)) f(number);
  }
}

void RankRun::drop(const Instruction& i) {
  for (const Slice& slice : block_.sources(i)) {
    const size_t id = static_cast<size_t>(slice.value);
    if (id >= values_.size() || !values_[id].exists) {
      return note("lifetime", "drop of value " + std::to_string(id) + ", which does not exist here");
    }
    ValueState& value = values_[id];
    if (trace_) {
      value.contributions.for_each(pool_, {query_heads(value.all, pool_), value.all.tokens},
                                   [&](Box box, const IntervalSet& other) {
                                     if (trace_->concerns(value.all.fields, pool_, box.heads, box.own, other)) {
                                       trace_->events.push_back({rank_, instruction(), "dropped"});
                                     }
                                   });
    }
    value.exists = false;
    int pending = 0;
    for_each_in_flight(value.readers, [&](uint64_t number) {
      ++pending;
      held_by_.push_back({number, held_.size()});
    });
    if (pending == 0) {
      add_live(-value.bytes);
    } else {
      held_.push_back({value.bytes, pending});
    }
  }
}

void RankRun::result(const Instruction& i) {
  for (const Slice& slice : block_.sources(i)) {
    if (!is_whole(slice, "result", slice.fields)) continue;
    if (!has_shared_rows(slice, values_[static_cast<size_t>(slice.value)].all.heads, "result")) continue;
    const Fields wanted = problem_.results_of(backward_);
    if (!wanted.includes(slice.fields)) {
      note("result", to_string(slice.fields) + " is no result of " + (backward_ ? "backward" : "forward"));
    } else if (!pool_.includes(rows_of_caller(slice.fields), slice.tokens)) {
      note("result", "result " + describe(slice) + " does not belong to this rank");
    } else if (!results_.define(pool_, slice)) {
      note("result", "result " + describe(slice) + " is given twice");
    }
    values_[static_cast<size_t>(slice.value)].is_result = true;
  }
}

// ---- phases

void RankRun::begin_backward() {
  if (backward_) return note("lifetime", "backward begins twice");
  check_results();
  if (!problem_.backward) note("result", "the problem asks for forward only, but the program has a backward phase");
  backward_ = true;
  for (const ValueState& value : values_) {
    if (value.exists && !value.is_input && !value.is_result) report_.saved_bytes += value.bytes;
  }
}

void RankRun::check_results() {
  Fields owed = problem_.results_of(backward_);
  if (!problem_.return_lse) owed = Fields::from_bits(owed.bits() & ~Fields(Field::lse).bits());
  owed.for_each([&](Field field) {
    const SetId tokens = rows_of_caller(field), heads = is_key_side(field) ? all_kv_heads_ : all_heads_;
    if (tokens == SetId::empty || results_.covers(pool_, {ValueId{}, tokens, heads, field})) return;
    note("result", std::string("not all rows of ") + weft::name_of(field) + " are given as a result; this rank owes " +
                       to_string(pool_[tokens]) + ", heads " + to_string(pool_[heads]));
  });
}

void RankRun::end_of_program() {
  ++count_;  // findings at the end name the place after the last instruction
  dependencies_.finish([&](uint64_t number) { complete_flight(number); });
  if (problem_.backward && !backward_)
    note("result", "the problem asks for backward, but the program has only forward");
  check_results();
  for (size_t id = 0; id < values_.size(); ++id) {
    if (values_[id].exists)
      note("lifetime", "value " + std::to_string(id) + " (" + describe(values_[id].all) + ") is never dropped");
  }
  --count_;
  finished_ = true;
}

}  // namespace weft::verify_internal
