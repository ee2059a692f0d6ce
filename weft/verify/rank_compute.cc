// Compute instructions in the symbolic run of a rank: what each adds to the contributions of its targets, and the
// proof point, finish.
#include <algorithm>

#include "weft/layout/tile_cuts.h"
#include "weft/verify/rank_run.h"

namespace weft::verify_internal {
// Calls f(set) for groups of slices without a token in common, each as one set: many keys join what their queries hold
// at once. Tokens that come twice come in two groups.
template <typename F>
void RankRun::for_each_group(const std::vector<SetId>& tokens, F&& f) {
  if (tokens.empty()) return;
  if (tokens.size() == 1) return f(pool_[tokens[0]]);
  ranges_.clear();
  for (SetId id : tokens) {
    const auto some = pool_[id].ranges();
    ranges_.insert(ranges_.end(), some.begin(), some.end());
  }
  std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  const auto overlap = [](const Range& a, const Range& b) { return a.end > b.begin; };
  group_.clear();
  if (std::adjacent_find(ranges_.begin(), ranges_.end(), overlap) == ranges_.end()) {
    for (const Range& range : ranges_) group_.append(range);
    return f(group_);
  }
  for (SetId id : tokens) {
    if (group_.intersects(pool_[id])) {
      f(group_);
      group_.clear();
    }
    group_.unite(pool_[id]);
  }
  f(group_);
}

void RankRun::attend(const Instruction& i) {
  for (const Slice& q : block_.queries(i)) {
    if (!is_whole(q, "attend: queries", Field::q)) continue;
    std::vector<SetId>& keys = attended_;
    keys.clear();
    for (const Slice& k : block_.keys(i)) {
      if (!is_whole(k, "attend: keys", Field::k | Field::v)) continue;
      if (!pool_.includes(k.heads, pool_.contract(q.heads, problem_.group()))) {
        note("operand", "attend: the keys lack kv heads that query heads " + to_string(pool_[q.heads]) + " read");
        continue;
      }
      check_tiles("attend", Field::out, q.tokens, k.tokens);
      keys.push_back(k.tokens);
    }
    if (keys.empty()) continue;
    ValueState* into = nullptr;
    for (const Slice& target : block_.targets(i)) {
      if (!pool_.includes(target.tokens, q.tokens) || !pool_.includes(target.heads, q.heads)) continue;
      into = accumulator(target, "attend: partial");
      if (into && target.fields != kPartialFields) {
        note("operand", "attend: the target holds " + to_string(target.fields) + ", not out+lse");
        into = nullptr;
      }
      break;
    }
    if (!into) {
      note("operand", "attend: no partial result for queries " + to_string(pool_[q.tokens]) + ", heads " +
                          to_string(pool_[q.heads]));
      continue;
    }
    for_each_group(keys, [&](const IntervalSet& group) {
      report_.work += problem_.pairs.area(pool_[q.tokens], group) * pool_.size(q.heads);
      into->contributions.add(pool_, {q.heads, q.tokens}, group, [&](Box box, const IntervalSet& both) {
        const int64_t pairs = problem_.pairs.area(pool_[box.own], both);
        if (pairs > 0) {
          note("coverage", "out of queries " + to_string(pool_[box.own]) + ", heads " + to_string(pool_[box.heads]) +
                               ": " + std::to_string(pairs) + " pairs with keys " + to_string(both) +
                               " are attended twice");
        }
      });
      if (trace_ && trace_->concerns(kPartialFields, pool_, q.heads, q.tokens, group)) {
        trace_->events.push_back({rank_, instruction(), "attended"});
      }
    });
  }
}

// Canonical results: what is summed over must not be cut inside a tile.
void RankRun::check_tiles(const char* op, Field field, SetId queries, SetId keys) {
  const int64_t tile = problem_.canonical_tile;
  if (tile == 0) return;
  const bool over_queries = kKeyFields.has(field);
  const auto position = over_queries ? queries_cut_inside_tile(problem_.pairs, pool_[queries], pool_[keys], tile)
                                     : keys_cut_inside_tile(problem_.pairs, pool_[queries], pool_[keys], tile);
  if (!position) return;
  note("tile", std::string(op) + ": " + (over_queries ? "queries" : "keys") + " are cut at position " +
                   std::to_string(*position) + ", inside a tile of " + std::to_string(tile) + ", with " +
                   (over_queries ? "queries of one key" : "keys of one query") + " on both sides");
}

void RankRun::attend_backward(const Instruction& i) {
  for (const Slice& q : block_.queries(i)) {
    if (!is_whole(q, "attend_backward: queries", Field::q)) continue;
    bool complete = true;
    for (Field field : {Field::dout, Field::lse, Field::delta}) {
      const Slice* found = nullptr;
      for (const Slice& slice : block_.bundles(i)) {
        if (slice.fields.has(field) && pool_.includes(slice.tokens, q.tokens) && pool_.includes(slice.heads, q.heads)) {
          found = &slice;
          break;
        }
      }
      if (!found) {
        note("operand",
             std::string("attend_backward: no ") + name_of(field) + " for queries " + to_string(pool_[q.tokens]));
        complete = false;
      } else {
        complete &= is_whole({found->value, q.tokens, q.heads, found->fields}, "attend_backward: bundle", field);
      }
    }
    if (!complete) continue;
    std::vector<SetId>& keys = attended_;
    keys.clear();
    for (const Slice& k : block_.keys(i)) {
      if (!is_whole(k, "attend_backward: keys", Field::k | Field::v)) continue;
      if (!pool_.includes(k.heads, pool_.contract(q.heads, problem_.group()))) {
        note("operand",
             "attend_backward: the keys lack kv heads that query heads " + to_string(pool_[q.heads]) + " read");
        continue;
      }
      Fields wanted;
      for (const Slice& target : block_.targets(i)) wanted = wanted | target.fields;
      if (wanted.has(Field::dq)) check_tiles("attend_backward", Field::dq, q.tokens, k.tokens);
      if (!(wanted & kKeyFields).empty()) check_tiles("attend_backward", Field::dk, q.tokens, k.tokens);
      keys.push_back(k.tokens);
      contribute(i, Field::dk, q.heads, k.tokens, pool_[q.tokens]);
      contribute(i, Field::dv, q.heads, k.tokens, pool_[q.tokens]);
    }
    for_each_group(keys, [&](const IntervalSet& group) {
      report_.work_backward += problem_.pairs.area(pool_[q.tokens], group) * pool_.size(q.heads);
      contribute(i, Field::dq, q.heads, q.tokens, group);
    });
  }
}

void RankRun::contribute(const Instruction& i, Field field, SetId query_heads, SetId rows, const IntervalSet& others) {
  const bool key_side = field != Field::dq;
  const SetId heads = key_side ? pool_.contract(query_heads, problem_.group()) : query_heads;
  bool wanted = false;
  for (const Slice& target : block_.targets(i)) {
    if (!target.fields.has(field)) continue;
    wanted = true;
    if (!pool_.includes(target.tokens, rows) || !pool_.includes(target.heads, heads)) continue;
    if (field == Field::dv && target.fields.has(Field::dk)) return;  // one value: contributed with dk
    ValueState* into = accumulator(target, "attend_backward: gradient");
    if (!into) return;
    into->contributions.add(pool_, {query_heads, rows}, others, [&](Box box, const IntervalSet& both) {
      const int64_t pairs =
          key_side ? problem_.pairs.area(both, pool_[box.own]) : problem_.pairs.area(pool_[box.own], both);
      if (pairs > 0) {
        note("coverage", to_string(target.fields) + " of " + (key_side ? "keys " : "queries ") +
                             to_string(pool_[box.own]) + ", query heads " + to_string(pool_[box.heads]) + ": " +
                             std::to_string(pairs) + " pairs with " + (key_side ? "queries " : "keys ") +
                             to_string(both) + " are added twice");
      }
    });
    if (trace_ && trace_->concerns(target.fields, pool_, query_heads, rows, others)) {
      trace_->events.push_back({rank_, instruction(), "computed"});
    }
    return;
  }
  if (wanted) {
    note("operand", std::string("attend_backward: no ") + name_of(field) + " rows for " +
                        (key_side ? "keys " : "queries ") + to_string(pool_[rows]) + ", heads " +
                        to_string(pool_[heads]));
  }
}

void RankRun::prepare_backward(const Instruction& i) {
  const auto sources = block_.sources(i), targets = block_.targets(i);
  if (sources.size() != 2 || targets.size() != 1)
    return note("operand", "prepare_backward takes out and dout and gives delta");
  if (!is_whole(sources[0], "prepare_backward: out", Field::out)) return;
  if (!is_whole(sources[1], "prepare_backward: dout", Field::dout)) return;
  ValueState* delta = find(targets[0], "prepare_backward: delta");
  if (!delta) return;
  const Slice& to = targets[0];
  for (const Slice& from : sources) {
    if (from.tokens != to.tokens || from.heads != to.heads) {
      return note("operand", "prepare_backward of different rows: " + describe(from) + " and " + describe(to));
    }
  }
  if (delta->form != Form::whole || to.fields != Fields(Field::delta)) {
    return note("operand", "prepare_backward gives whole delta, not " + to_string(to.fields));
  }
  if (!delta->defined.define(pool_, to, delta->all)) note("lifetime", "delta " + describe(to) + " is written twice");
}

int64_t RankRun::missing_pairs(bool key_side, SetId own, const IntervalSet& other) const {
  return key_side ? problem_.pairs.area(other, pool_[own]) : problem_.pairs.area(pool_[own], other);
}

void RankRun::finish(const Instruction& i) {
  const auto sources = block_.sources(i), targets = block_.targets(i);
  if (sources.size() != 1 || targets.size() != 1)
    return note("operand", "finish takes one slice of sums and gives one whole one");
  ValueState* from = find(sources[0], "finish: sums");
  ValueState* to = find(targets[0], "finish: result");
  if (!from || !to || !same_rows(sources[0], targets[0], "finish")) return;
  if (from->form != Form::accumulating || to->form != Form::whole) {
    return note("operand", "finish turns an accumulating value into a whole one");
  }
  if (!has_shared_rows(sources[0], from->all.heads, "finish: sums") ||
      !has_shared_rows(targets[0], to->all.heads, "finish: result")) {
    return;
  }
  check_complete(*from, sources[0]);
  if (!to->defined.define(pool_, targets[0], to->all)) note("lifetime", describe(targets[0]) + " is written twice");
}

void RankRun::check_complete(const ValueState& from, const Slice& slice) {
  const bool key_side = is_key_side(slice.fields);
  const IntervalSet& all = pool_[key_side ? all_queries_ : all_keys_];
  const auto lacks = [&](Box box, const IntervalSet& missing) {
    const int64_t pairs = missing_pairs(key_side, box.own, missing);
    if (pairs == 0) return;
    const SetId missing_id = pool_.intern(missing);
    const IntervalSet rows = key_side ? problem_.pairs.keys_needed(missing, pool_[box.own])
                                      : problem_.pairs.queries_needed(pool_[box.own], missing);
    const IntervalSet what = key_side ? problem_.pairs.queries_needed(pool_[missing_id], rows)
                                      : problem_.pairs.keys_needed(rows, pool_[missing_id]);
    if (trace_ && trace_->fields.empty()) {  // the first thing missing is what the explanation follows
      trace_->fields = from.all.fields;
      trace_->head = pool_[box.heads].hull().begin;
      trace_->own = rows.hull().begin;
      const IntervalSet one(Range{trace_->own, trace_->own + 1});
      const IntervalSet lost =
          key_side ? problem_.pairs.queries_needed(what, one) : problem_.pairs.keys_needed(one, what);
      trace_->other = lost.hull().begin;
    }
    note("coverage", to_string(slice.fields) + " of " + (key_side ? "keys " : "queries ") + to_string(rows) +
                         ", query heads " + to_string(pool_[box.heads]) + " lacks " + std::to_string(pairs) +
                         " pairs with " + (key_side ? "queries " : "keys ") + to_string(what));
  };
  const Box rows{query_heads(slice, pool_), slice.tokens};
  from.contributions.for_each(pool_, rows,
                              [&](Box box, const IntervalSet& other) { lacks(box, subtract(all, other)); });
  from.contributions.for_each_empty(pool_, rows, [&](Box box) { lacks(box, all); });
}

void RankRun::take(ValueState& from, ValueState& to, const Slice& target, bool into_identity, SetPool& sets) {
  const Box rows{query_heads(target, sets), target.tokens};
  const bool key_side = is_key_side(target.fields);
  if (into_identity) {
    to.contributions.for_each(sets, rows, [&](Box box, const IntervalSet&) {
      note("lifetime", "rows " + to_string(pool_[box.own]) + " of " + to_string(target.fields) +
                           " are received by copy, but hold something already");
    });
  }
  const auto move = [&](Box box, const IntervalSet& other) {
    to.contributions.add(sets, box, other, [&](Box twice, const IntervalSet& both) {
      const int64_t pairs = missing_pairs(key_side, twice.own, both);
      if (pairs > 0) {
        note("coverage", to_string(target.fields) + " of " + (key_side ? "keys " : "queries ") +
                             to_string(pool_[twice.own]) + ", query heads " + to_string(pool_[twice.heads]) + ": " +
                             std::to_string(pairs) + " pairs with " + (key_side ? "queries " : "keys ") +
                             to_string(both) + " arrive twice");
      }
    });
  };
  if (&from != &to) return from.contributions.for_each(sets, rows, move);
  const Contributions before = from.contributions;  // one value of one rank, in a broken schedule
  before.for_each(sets, rows, move);
}

void RankRun::combine(const Instruction& i) {
  const auto sources = block_.sources(i), targets = block_.targets(i);
  if (sources.size() != 1 || targets.size() != 1)
    return note("operand", std::string(name_of(i.op)) + " takes one slice into one slice");
  ValueState* from = accumulator(sources[0], "source");
  ValueState* to = accumulator(targets[0], "target");
  if (!from || !to || !same_rows(sources[0], targets[0], name_of(i.op))) return;
  if ((targets[0].fields == kPartialFields) != (i.op == Op::merge) || !(targets[0].fields & kScoreFields).empty()) {
    return note("operand", std::string(name_of(i.op)) + " of " + to_string(targets[0].fields) +
                               "; partial results merge, sums add");
  }
  if (!has_shared_rows(sources[0], from->all.heads, "source")) return;
  if (from == to) return note("coverage", std::string(name_of(i.op)) + " of a value with itself");
  take(*from, *to, targets[0], false, pool_);
}

}  // namespace weft::verify_internal
