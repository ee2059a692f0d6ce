#include "weft/schedule/builder.h"

#include <algorithm>

#include "weft/base/error.h"

namespace weft {

Exchange& Exchange::send(int peer, const Slice& slice) {
  if (!builder_->is_empty(slice)) builder_->outgoing_.push_back({slice, peer, Combine::copy});
  return *this;
}

Exchange& Exchange::receive(int peer, const Slice& slice, Combine combine) {
  if (!builder_->is_empty(slice)) builder_->incoming_.push_back({slice, peer, combine});
  return *this;
}

void Exchange::issue() { builder_->issue(lane_); }

// ---- builder

Builder::Builder(const Problem& problem, SetPool& pool, int rank)
    : problem_(problem),
      pool_(pool),
      rank_(rank),
      all_heads_(set(Range{0, problem.heads})),
      all_kv_heads_(set(Range{0, problem.kv_heads})) {}

Set Builder::keys_needed(const Cover& queries, const IntervalSet& keys) {
  return set(problem_.pairs.keys_needed(queries, keys));
}

Set Builder::queries_needed(const IntervalSet& queries, const Cover& keys) {
  return set(problem_.pairs.queries_needed(queries, keys));
}

Instruction& Builder::record(Op op) {
  const bool is_exchange = op == Op::exchange;
  instructions_.push_back(
      {.op = op, .step = step_, .first = static_cast<uint32_t>(is_exchange ? parts_.size() : slices_.size())});
  return instructions_.back();
}

uint32_t Builder::operands(const Slices& list) {
  uint32_t count = 0;
  for (const Slice& slice : list) {
    if (is_empty(slice)) continue;
    slices_.push_back(slice);
    ++count;
  }
  return count;
}

Value Builder::create(Op op, Form form, Fields fields, SetId tokens, SetId heads) {
  if (tokens == SetId::empty || heads == SetId::empty) return {};
  ValueId id{};
  if (free_.empty()) {
    id = static_cast<ValueId>(slots_.size());
    slots_.push_back({});
  } else {
    id = free_.back();
    free_.pop_back();
  }
  slots_[static_cast<size_t>(id)] = {fields, form, tokens, heads, 1};
  Instruction& instruction = record(op);
  instruction.form = form;
  instruction.targets = 1;
  slices_.push_back({id, tokens, heads, fields});
  return Value(this, id);
}

void Builder::release(ValueId id) {
  Slot& slot = slots_[static_cast<size_t>(id)];
  if (--slot.references > 0) return;
  Instruction& instruction = record(Op::drop);
  instruction.sources = 1;
  slices_.push_back({id, slot.tokens, slot.heads, slot.fields});
  free_.push_back(id);
}

Value Builder::input(Fields fields) {
  const bool query_side = kQueryFields.includes(fields);
  const bool given = (fields & kDocumentFields).empty() || problem_.inputs_of(true).includes(fields);
  const Set own = query_side ? queries_of(rank_) : keys_of(rank_);
  return create(Op::input, Form::whole, fields, given ? rows(fields, own).id() : SetId::empty,
                (query_side ? all_heads() : all_kv_heads()).id());
}

Set Builder::rows(Fields fields, Set tokens) {
  if ((fields & kDocumentFields).empty() || tokens.empty()) return tokens;
  return set(problem_.rows_among(tokens.intervals(), fields));
}

Value Builder::whole(Fields fields, Set tokens, Set heads) {
  return create(Op::create, Form::whole, fields, tokens.id(), heads.id());
}

Value Builder::pieces(Fields fields, Set run, Set heads) {
  return create(Op::create, Form::pieces, fields, run.id(), heads.id());
}

Value Builder::partial(const Slice& queries) {
  return create(Op::create, Form::accumulating, Field::out | Field::lse, queries.tokens, queries.heads);
}

Value Builder::partial(Set tokens, Set heads) {
  return create(Op::create, Form::accumulating, Field::out | Field::lse, tokens.id(), heads.id());
}

Value Builder::sums(Fields fields, Set tokens, Set heads) {
  return create(Op::create, Form::accumulating, fields, tokens.id(), heads.id());
}

void Builder::result(const Slice& slice) {
  if (is_empty(slice)) return;
  Instruction& instruction = record(Op::result);
  instruction.sources = operands(slice);
}

bool Builder::any_pair(const Slices& queries, const Slices& keys) const {
  for (const Slice& q : queries) {
    for (const Slice& k : keys) {
      if (!is_empty(q) && !is_empty(k) && problem_.pairs.any(pool_[q.tokens], pool_[k.tokens])) return true;
    }
  }
  return false;
}

void Builder::pairwise(Op op, const Slices& queries, const Slices& keys, const Slices& bundles, const Slices& targets,
                       const Slices& more_targets) {
  if (!any_pair(queries, keys)) return;
  Instruction& instruction = record(op);
  instruction.queries = operands(queries);
  instruction.keys = operands(keys);
  instruction.bundles = operands(bundles);
  instruction.targets = operands(targets);
  instruction.targets += operands(more_targets);
}

void Builder::attend(const Slices& queries, const Slices& keys, const Slices& partial) {
  pairwise(Op::attend, queries, keys, {}, partial, {});
}

void Builder::attend_backward(const Slices& queries, const Slices& keys, const Slices& bundle, const Slices& dq,
                              const Slices& dkv) {
  pairwise(Op::attend_backward, queries, keys, bundle, dq, dkv);
}

Value Builder::prepare_backward(const Slice& out, const Slice& dout) {
  Value delta = create(Op::create, Form::whole, Field::delta, dout.tokens, dout.heads);
  if (delta.empty()) return delta;
  Instruction& instruction = record(Op::prepare_backward);
  instruction.sources = operands(out);
  instruction.sources += operands(dout);
  instruction.targets = operands(delta);
  return delta;
}

Value Builder::finish(const Slice& sums) {
  Value whole = create(Op::create, Form::whole, sums.fields, sums.tokens, sums.heads);
  if (whole.empty()) return whole;
  Instruction& instruction = record(Op::finish);
  instruction.sources = operands(sums);
  instruction.targets = operands(whole);
  return whole;
}

void Builder::merge(const Slice& into, const Slice& from) {
  if (is_empty(into) || is_empty(from)) return;
  Instruction& instruction = record(Op::merge);
  instruction.sources = operands(from);
  instruction.targets = operands(into);
}

void Builder::add(const Slice& into, const Slice& from) {
  if (is_empty(into) || is_empty(from)) return;
  Instruction& instruction = record(Op::add);
  instruction.sources = operands(from);
  instruction.targets = operands(into);
}

// ---- whole rows of scores

void Builder::score(const Slices& queries, const Slices& keys, const Slices& scores) {
  pairwise(Op::score, queries, keys, {}, scores, {});
}

std::pair<Value, Value> Builder::normalise(const Slice& scores) {
  Value probs = create(Op::create, Form::whole, Field::probs, scores.tokens, scores.heads);
  Value lse = create(Op::create, Form::whole, Field::lse, scores.tokens, scores.heads);
  if (probs.empty()) return {};
  Instruction& instruction = record(Op::normalise);
  instruction.sources = operands(scores);
  instruction.targets = operands(probs);
  instruction.targets += operands(lse);
  return {std::move(probs), std::move(lse)};
}

void Builder::weigh(const Slices& probs, const Slices& values, const Slices& out) {
  pairwise(Op::weigh, probs, values, {}, out, {});
}

void Builder::weigh_backward(const Slices& dout, const Slices& values, const Slices& probs, const Slices& dprobs,
                             const Slices& dv) {
  pairwise(Op::weigh_backward, dout, values, probs, dprobs, dv);
}

Value Builder::normalise_backward(const Slice& probs, const Slice& dprobs) {
  Value dscores = create(Op::create, Form::whole, Field::dscores, dprobs.tokens, dprobs.heads);
  if (dscores.empty()) return dscores;
  Instruction& instruction = record(Op::normalise_backward);
  instruction.sources = operands(probs);
  instruction.sources += operands(dprobs);
  instruction.targets = operands(dscores);
  return dscores;
}

void Builder::score_backward(const Slices& queries, const Slices& keys, const Slices& dscores, const Slices& dq,
                             const Slices& dk) {
  pairwise(Op::score_backward, queries, keys, dscores, dq, dk);
}

// ---- linear layers

Value Builder::state_of(const Slices& keys) {
  const Slice& run = *keys.begin();
  Value state = whole(Field::state, Set(pool_, run.tokens), Set(pool_, run.heads));
  if (state.empty()) return state;
  Instruction& instruction = record(Op::summarise);
  instruction.keys = operands(keys);
  instruction.targets = operands(state);
  return state;
}

Value Builder::transition_of(const Slice& keys) {
  if (!has_transition(problem_.layer)) return {};
  Value transition = whole(Field::transition, Set(pool_, keys.tokens), Set(pool_, keys.heads));
  if (transition.empty()) return transition;
  Instruction& instruction = record(Op::summarise);
  instruction.keys = operands(keys);
  instruction.targets = operands(transition);
  return transition;
}

Value Builder::dstate_of(const Slice& queries, const Slice& keys, const Slices& dout) {
  Value dstate = whole(Field::dstate, Set(pool_, queries.tokens), Set(pool_, queries.heads));
  if (dstate.empty()) return dstate;
  Instruction& instruction = record(Op::summarise_backward);
  instruction.queries = operands(queries);
  instruction.keys = operands(keys);
  instruction.bundles = operands(dout);
  instruction.targets = operands(dstate);
  return dstate;
}

Value Builder::compose(const Slice& earlier, const Slice& later, const Slice& transition) {
  WEFT_CHECK(!is_empty(earlier) && !is_empty(later));
  Value joined =
      whole(earlier.fields, Set(pool_, pool_.unite(earlier.tokens, later.tokens)), Set(pool_, earlier.heads));
  Instruction& instruction = record(Op::compose);
  instruction.bundles = operands(transition);
  instruction.sources = operands(earlier);
  instruction.sources += operands(later);
  instruction.targets = operands(joined);
  return joined;
}

Value Builder::compose_pieces(const Slice& pieces, const Slice& transitions) {
  Value joined = whole(pieces.fields, Set(pool_, pieces.tokens), Set(pool_, pieces.heads));
  if (joined.empty()) return joined;
  Instruction& instruction = record(Op::compose);
  instruction.bundles = operands(transitions);
  instruction.sources = operands(pieces);
  instruction.targets = operands(joined);
  return joined;
}

void Builder::scan(const Slice& queries, const Slices& keys, const Slices& out, const Slice& state,
                   const Slice& leaving) {
  if (is_empty(queries)) return;
  Instruction& instruction = record(Op::scan);
  instruction.queries = operands(queries);
  instruction.keys = operands(keys);
  instruction.bundles = operands(state);
  instruction.targets = operands(out);
  instruction.targets += operands(leaving);
}

void Builder::apply_state(const Slice& queries, const Slice& keys, const Slice& state, const Slices& out,
                          const Slice& dout) {
  if (is_empty(queries) || is_empty(state)) return;
  Instruction& instruction = record(Op::apply_state);
  instruction.queries = operands(queries);
  instruction.keys = operands(keys);
  instruction.bundles = operands(state);
  instruction.bundles += operands(dout);
  instruction.targets = operands(out);
}

void Builder::scan_backward(const Slice& queries, const Slices& keys, const Slices& dout, const Slice& state,
                            const Slice& dq, const Slices& dkv, const Slice& dstate, const Slice& leaving) {
  if (is_empty(queries)) return;
  Instruction& instruction = record(Op::scan_backward);
  instruction.queries = operands(queries);
  instruction.keys = operands(keys);
  instruction.bundles = operands(dout);
  instruction.bundles += operands(state);
  instruction.bundles += operands(dstate);
  instruction.targets = operands(dq);
  instruction.targets += operands(dkv);
  instruction.targets += operands(leaving);
}

void Builder::apply_dstate(const Slices& keys, const Slice& dstate, const Slice& state, const Slices& dkv) {
  if (is_empty(*keys.begin()) || is_empty(dstate)) return;
  Instruction& instruction = record(Op::apply_dstate);
  instruction.keys = operands(keys);
  instruction.bundles = operands(dstate);
  instruction.bundles += operands(state);
  instruction.targets = operands(dkv);
}

void Builder::issue(int lane) {
  if (outgoing_.empty() && incoming_.empty()) return;
  const auto by_peer = [](const Part& a, const Part& b) { return a.peer < b.peer; };
  // Writers mostly name peers in order already; stable, so parts of one peer keep their listed order.
  for (std::vector<Part>* parts : {&outgoing_, &incoming_}) {
    if (!std::is_sorted(parts->begin(), parts->end(), by_peer)) std::stable_sort(parts->begin(), parts->end(), by_peer);
  }
  const uint32_t first = static_cast<uint32_t>(parts_.size());
  const uint32_t out = static_cast<uint32_t>(outgoing_.size()), in = static_cast<uint32_t>(incoming_.size());
  if (first == 0) std::swap(parts_, outgoing_);  // an exchange may have thousands
  parts_.insert(parts_.end(), outgoing_.begin(), outgoing_.end());
  parts_.insert(parts_.end(), incoming_.begin(), incoming_.end());
  outgoing_.clear();
  incoming_.clear();
  constexpr size_t kFew = 256;  // other ranks may have as many, and none needs the room again soon
  if (incoming_.capacity() > kFew) incoming_.shrink_to_fit();
  Instruction& instruction = record(Op::exchange);
  instruction.lane = static_cast<uint8_t>(lane);
  instruction.first = first;
  instruction.sources = out;
  instruction.targets = in;
}

void Builder::wait(int lane) { record(Op::wait).lane = static_cast<uint8_t>(lane); }

void Builder::begin_backward() { record(Op::begin_backward); }

Block Builder::take() {
  WEFT_CHECK(outgoing_.empty() && incoming_.empty());  // an exchange was put together and never issued
  ++step_;
  return {instructions_, slices_, parts_};
}

void Builder::clear() {
  instructions_.clear();
  slices_.clear();
  parts_.clear();
}

}  // namespace weft
