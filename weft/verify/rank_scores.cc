// Attention by whole rows of scores in the symbolic run of a rank.
//
// Rows (query head, query) of scores and of dprobs hold the keys whose columns are there, as rows of out do, so what is
// proved of partial results is proved of them by the same sets: normalise and normalise_backward are proof points like
// finish. Probabilities and dscores come from complete rows only, so they are whole values. Which column belongs to which
// key is never said: an instruction works on the columns of the keys that it names.
#include "weft/verify/rank_run.h"

namespace weft::verify_internal {

void RankRun::execute_scores(const Instruction& i) {
  if (problem_.canonical_tile != 0) {
    note("tile", std::string(name_of(i.op)) + ": whole rows of scores are not summed tile by tile");
  }
  switch (i.op) {
    case Op::score: return score(i);
    case Op::normalise: return normalise(i);
    case Op::weigh: return weigh(i);
    case Op::weigh_backward: return weigh_backward(i);
    case Op::normalise_backward: return normalise_backward(i);
    case Op::score_backward: return score_backward(i);
    default: return;
  }
}

int64_t RankRun::bytes_of_scores(const Slice& slice) {
  const std::optional<int64_t> bytes = problem_.bytes_of_scores(pool_[slice.tokens], pool_.size(slice.heads));
  if (!bytes) note("operand", "more than 2^50 scores in one value: " + describe(slice));
  return bytes.value_or(0);
}

// Calls f(query slice, key slice) for the pairs whose operands are there.
template <typename F>
void RankRun::for_each_pair(const Instruction& i, Field query_field, Field key_field, F&& f) {
  const std::string name = name_of(i.op);
  const std::string queries = name + ": " + weft::name_of(query_field), keys = name + ": " + weft::name_of(key_field);
  for (const Slice& q : block_.queries(i)) {
    if (!is_whole(q, queries.c_str(), query_field)) continue;
    for (const Slice& k : block_.keys(i)) {
      if (!is_whole(k, keys.c_str(), key_field)) continue;
      if (pool_.includes(k.heads, pool_.contract(q.heads, problem_.group()))) {
        f(q, k);
      } else {
        note("operand", name + ": the keys lack kv heads that query heads " + to_string(pool_[q.heads]) + " read");
      }
    }
  }
}

// Whether the bundles hold this field, whole, for all rows and heads of the queries.
bool RankRun::has_bundle(const Instruction& i, const Slice& q, Field field) {
  const std::string name = name_of(i.op);
  for (const Slice& slice : block_.bundles(i)) {
    if (!slice.fields.has(field) || !pool_.includes(slice.tokens, q.tokens) || !pool_.includes(slice.heads, q.heads)) {
      continue;
    }
    return is_whole({slice.value, q.tokens, q.heads, slice.fields}, (name + ": bundle").c_str(), field);
  }
  note("operand", name + ": no " + weft::name_of(field) + " for queries " + to_string(pool_[q.tokens]) + ", heads " +
                      to_string(pool_[q.heads]));
  return false;
}

// Each target is one of the sums that the instruction adds to, by itself.
void RankRun::check_targets(const Instruction& i, Fields wanted) {
  for (const Slice& target : block_.targets(i)) {
    bool fits = false;
    wanted.for_each([&](Field field) { fits |= target.fields == Fields(field); });
    if (!fits) {
      note("operand",
           std::string(name_of(i.op)) + ": a target holds " + to_string(target.fields) + ", not " + to_string(wanted));
    }
  }
  if (i.targets == 0) note("operand", std::string(name_of(i.op)) + " without a target");
}

// The first target that has all rows of a field gains the pairs of q and k. No target of that field: it is not wanted.
void RankRun::add_pairs(const Instruction& i, Field field, Rows rows, const Slice& q, const Slice& k,
                        const char* verb) {
  const bool key_side = rows == Rows::keys;
  const SetId own = key_side ? k.tokens : q.tokens, other = key_side ? q.tokens : k.tokens;
  const SetId heads = key_side ? pool_.contract(q.heads, problem_.group()) : q.heads;
  const std::string name = std::string(name_of(i.op)) + ": " + weft::name_of(field);
  bool wanted = false;
  for (const Slice& target : block_.targets(i)) {
    if (target.fields != Fields(field)) continue;
    wanted = true;
    if (!pool_.includes(target.tokens, own) || !pool_.includes(target.heads, heads)) continue;
    ValueState* into = accumulator(target, name.c_str());
    if (!into) return;
    into->contributions.add(pool_, {q.heads, own}, pool_[other], [&](Box box, const IntervalSet& both) {
      const int64_t pairs = missing_pairs(key_side, box.own, both);
      if (pairs == 0) return;
      note("coverage", std::string(weft::name_of(field)) + " of " + (key_side ? "keys " : "queries ") +
                           to_string(pool_[box.own]) + ", query heads " + to_string(pool_[box.heads]) + ": " +
                           std::to_string(pairs) + " pairs with " + (key_side ? "queries " : "keys ") +
                           to_string(both) + " are " + verb + " twice");
    });
    if (trace_ && trace_->concerns(field, pool_, q.heads, own, pool_[other])) {
      trace_->events.push_back({rank_, instruction(), verb});
    }
    return;
  }
  if (wanted) {
    note("operand", name + ": no rows for " + (key_side ? "keys " : "queries ") + to_string(pool_[own]) + ", heads " +
                        to_string(pool_[heads]));
  }
}

// Rows of scores have the same columns in two values when these hold the same queries.
bool RankRun::same_queries(const Slice& a, const Slice& b, const char* what) {
  const ValueState &x = values_[static_cast<size_t>(a.value)], &y = values_[static_cast<size_t>(b.value)];
  if (a.tokens != b.tokens || a.heads != b.heads) {
    note("operand", std::string(what) + " of different rows: " + describe(a) + " and " + describe(b));
    return false;
  }
  if (x.all.tokens == y.all.tokens) return true;
  note("operand",
       std::string(what) + " of values that hold different queries: " + describe(x.all) + " and " + describe(y.all));
  return false;
}

// ---- forward

void RankRun::score(const Instruction& i) {
  check_targets(i, Field::scores);
  for_each_pair(i, Field::q, Field::k, [&](const Slice& q, const Slice& k) {
    report_.work += problem_.pairs.area(pool_[q.tokens], pool_[k.tokens]) * pool_.size(q.heads);
    add_pairs(i, Field::scores, Rows::queries, q, k, "scored");
  });
}

void RankRun::normalise(const Instruction& i) {
  const auto sources = block_.sources(i), targets = block_.targets(i);
  if (sources.size() != 1 || targets.size() != 2 || sources[0].fields != Fields(Field::scores) ||
      targets[0].fields != Fields(Field::probs) || targets[1].fields != Fields(Field::lse)) {
    return note("operand", "normalise takes scores and gives probs and lse");
  }
  const ValueState* from = accumulator(sources[0], "normalise: scores");
  ValueState *probs = find(targets[0], "normalise: probs"), *lse = find(targets[1], "normalise: lse");
  if (!from || !probs || !lse || !same_queries(sources[0], targets[0], "normalise")) return;
  if (targets[1].tokens != sources[0].tokens || targets[1].heads != sources[0].heads) {
    return note("operand", "normalise of different rows: " + describe(sources[0]) + " and " + describe(targets[1]));
  }
  if (lse->form != Form::whole) return note("operand", "normalise gives whole lse, not accumulating");
  check_complete(*from, sources[0]);
  for (ValueState* to : {probs, lse}) {
    const Slice& slice = targets[to == probs ? 0 : 1];
    if (!to->defined.define(pool_, slice, to->all)) note("lifetime", describe(slice) + " is written twice");
  }
}

void RankRun::weigh(const Instruction& i) {
  check_targets(i, Field::out);
  for_each_pair(i, Field::probs, Field::v,
                [&](const Slice& q, const Slice& k) { add_pairs(i, Field::out, Rows::queries, q, k, "weighed"); });
}

// ---- backward

void RankRun::weigh_backward(const Instruction& i) {
  check_targets(i, Field::dprobs | Field::dv);
  for_each_pair(i, Field::dout, Field::v, [&](const Slice& q, const Slice& k) {
    if (!has_bundle(i, q, Field::probs)) return;
    add_pairs(i, Field::dprobs, Rows::queries, q, k, "computed");
    add_pairs(i, Field::dv, Rows::keys, q, k, "added");
  });
}

void RankRun::normalise_backward(const Instruction& i) {
  const auto sources = block_.sources(i), targets = block_.targets(i);
  if (sources.size() != 2 || targets.size() != 1 || sources[1].fields != Fields(Field::dprobs) ||
      targets[0].fields != Fields(Field::dscores)) {
    return note("operand", "normalise_backward takes probs and dprobs and gives dscores");
  }
  if (!is_whole(sources[0], "normalise_backward: probs", Field::probs)) return;
  const ValueState* from = accumulator(sources[1], "normalise_backward: dprobs");
  ValueState* to = find(targets[0], "normalise_backward: dscores");
  if (!from || !to || !same_queries(sources[0], targets[0], "normalise_backward") ||
      !same_queries(sources[1], targets[0], "normalise_backward")) {
    return;
  }
  check_complete(*from, sources[1]);
  if (!to->defined.define(pool_, targets[0], to->all)) note("lifetime", describe(targets[0]) + " is written twice");
}

void RankRun::score_backward(const Instruction& i) {
  check_targets(i, Field::dq | Field::dk);
  for_each_pair(i, Field::q, Field::k, [&](const Slice& q, const Slice& k) {
    if (!has_bundle(i, q, Field::dscores)) return;
    report_.work_backward += problem_.pairs.area(pool_[q.tokens], pool_[k.tokens]) * pool_.size(q.heads);
    add_pairs(i, Field::dq, Rows::queries, q, k, "added");
    add_pairs(i, Field::dk, Rows::keys, q, k, "added");
  });
}

}  // namespace weft::verify_internal
