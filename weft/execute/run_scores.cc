// Attention by whole rows of scores: slices become views and blocks, and the plain loops of kernels/scores.h do the rest.
#include "weft/execute/run.h"
#include "weft/kernels/scores.h"

namespace weft::execute_internal {
namespace {

using kernels::ConstView;
using kernels::View;

// What a product computes from the other two.
enum class Into : uint8_t { scores, queries, keys };

}  // namespace

// The values of one product, and the tokens and query heads that it is about.
struct Run::ScoreProduct {
  Into into;
  Field query_field, key_field, score_field;
  const RankValue &queries, &keys, &scores;
  const Slice &q, &k;
  double scale = 1;
};

void Run::multiply(const ScoreProduct& p) {
  const SetId columns = p.scores.columns;
  const SetId keys = sets_.intersect(p.k.tokens, columns);  // no query of the value sees the others
  const bool by_row = p.into == Into::queries;
  const RankValue &from = by_row ? p.scores : p.queries, &to = by_row ? p.queries : p.scores;
  const auto blocks = c_.blocks.of({.q = p.q.tokens,
                                    .k = keys,
                                    .q_all = from.all.tokens,
                                    .k_all = p.keys.all.tokens,
                                    .out_all = to.all.tokens,
                                    .grad_all = columns});
  if (blocks.empty()) return;
  const auto run = [&](auto product, auto queries, auto kept, auto scores, int64_t heads) {
    product({.queries = queries,
             .keys = kept,
             .scores = scores,
             .heads = heads,
             .kv_head = kv_head_,
             .columns = problem_.columns_of(p.query_field),
             .scale = p.scale,
             .blocks = blocks,
             .stop = &c_.endpoint.stop_flag()});
  };
  for (const Range& heads : sets_[p.q.heads].ranges()) {
    const auto at = [&](const RankValue& value, Field field) {
      return value.field(field).view(0, sets_[value.all.heads].rank_of(heads.begin));
    };
    set_kv_heads(heads, p.keys);
    const View queries = at(p.queries, p.query_field), scores = at(p.scores, p.score_field);
    const View kept = p.keys.field(p.key_field).view();
    switch (p.into) {
      case Into::scores:
        run(kernels::multiply_into_scores, ConstView(queries), ConstView(kept), scores, heads.size());
        break;
      case Into::queries:
        run(kernels::multiply_into_queries, queries, ConstView(kept), ConstView(scores), heads.size());
        break;
      case Into::keys:
        run(kernels::multiply_into_keys, ConstView(queries), kept, ConstView(scores), heads.size());
        break;
    }
  }
}

void Run::execute_scores(const Instruction& i) {
  if (problem_.canonical_tile != 0)
    refuse("whole rows of scores are not summed tile by tile, as canonical results are");
  switch (i.op) {
    case Op::score: return score(i);
    case Op::normalise: return normalise(i);
    case Op::weigh: return weigh(i);
    case Op::weigh_backward: return weigh_backward(i);
    case Op::normalise_backward: return normalise_backward(i);
    case Op::score_backward: return score_backward(i);
    default: refuse("unknown operation");
  }
}

// Calls f(query slice, its value, key slice, its value).
template <typename F>
void Run::for_each_pair(const Instruction& i, Field query_field, Field key_field, F&& f) {
  for (const Slice& q : block_.queries(i)) {
    const RankValue& queries = whole(q, "queries", query_field);
    for (const Slice& k : block_.keys(i)) {
      const RankValue& keys = whole(k, "keys", key_field);
      if (!sets_.includes(k.heads, sets_.contract(q.heads, problem_.group()))) {
        refuse("the keys lack kv heads that query heads " + to_string(sets_[q.heads]) + " read");
      }
      f(q, queries, k, keys);
    }
  }
}

// The first target that has all these rows of a field; null where no target has the field.
RankValue* Run::score_target(const Instruction& i, Field field, SetId rows, SetId heads) {
  bool wanted = false;
  for (const Slice& target : block_.targets(i)) {
    if (target.fields != Fields(field)) continue;
    wanted = true;
    if (sets_.includes(target.tokens, rows) && sets_.includes(target.heads, heads))
      return &accumulator(target, "target");
  }
  if (!wanted) return nullptr;
  refuse(std::string("no ") + name_of(field) + " rows for " + to_string(sets_[rows]) + ", heads " +
         to_string(sets_[heads]));
}

RankValue& Run::score_bundle(const Instruction& i, Field field, const Slice& q) {
  for (const Slice& slice : block_.bundles(i)) {
    if (!slice.fields.has(field) || !sets_.includes(slice.tokens, q.tokens) || !sets_.includes(slice.heads, q.heads)) {
      continue;
    }
    return whole({slice.value, q.tokens, q.heads, slice.fields}, "bundle", field);
  }
  refuse(std::string("no ") + name_of(field) + " for queries " + describe(q));
}

void Run::need_same_columns(const RankValue& a, const RankValue& b) {
  if (a.all.tokens != b.all.tokens) {
    refuse("of values that hold different queries: " + describe(a.all) + " and " + describe(b.all));
  }
}

// ---- forward

void Run::score(const Instruction& i) {
  for_each_pair(
      i, Field::q, Field::k, [&](const Slice& q, const RankValue& queries, const Slice& k, const RankValue& keys) {
        const RankValue* scores = score_target(i, Field::scores, q.tokens, q.heads);
        if (!scores) refuse("gives scores, and has no target for them");
        multiply(
            {Into::scores, Field::q, Field::k, Field::scores, queries, keys, *scores, q, k, problem_.softmax_scale()});
      });
}

void Run::normalise(const Instruction& i) {
  const auto sources = block_.sources(i), targets = block_.targets(i);
  if (sources.size() != 1 || targets.size() != 2 || sources[0].fields != Fields(Field::scores) ||
      targets[0].fields != Fields(Field::probs) || targets[1].fields != Fields(Field::lse)) {
    refuse("takes scores and gives probs and lse");
  }
  const RankValue& scores = accumulator(sources[0], "scores");
  RankValue &probs = find(targets[0], "probs"), &lse = find(targets[1], "lse");
  for (const Slice& target : targets) need_same_rows(sources[0], target, "normalise");
  need_same_columns(scores, probs);
  if (lse.form != Form::whole) refuse("gives whole lse, not accumulating");
  write(probs, targets[0]);
  write(lse, targets[1]);
  for_each_common_run<2>(
      sets_[targets[0].tokens], {&sets_[probs.all.tokens], &sets_[lse.all.tokens]},
      [&](std::array<int64_t, 2> row, int64_t rows) {
        for_each_common_run<3>(
            sets_[targets[0].heads], {&sets_[scores.all.heads], &sets_[probs.all.heads], &sets_[lse.all.heads]},
            [&](std::array<int64_t, 3> head, int64_t heads) {
              kernels::softmax(
                  probs.field(Field::probs).view(row[0], head[1]), lse.field(Field::lse).view(row[1], head[2]),
                  scores.field(Field::scores).view(row[0], head[0]), {rows, heads, sets_.size(scores.columns)});
            });
      });
}

void Run::weigh(const Instruction& i) {
  for_each_pair(i, Field::probs, Field::v,
                [&](const Slice& q, const RankValue& probs, const Slice& k, const RankValue& values) {
                  const RankValue* out = score_target(i, Field::out, q.tokens, q.heads);
                  if (!out) refuse("adds to sums of out, and has no target for them");
                  multiply({Into::queries, Field::out, Field::v, Field::probs, *out, values, probs, q, k});
                });
}

// ---- backward

void Run::weigh_backward(const Instruction& i) {
  for_each_pair(i, Field::dout, Field::v,
                [&](const Slice& q, const RankValue& dout, const Slice& k, const RankValue& values) {
                  const RankValue& probs = score_bundle(i, Field::probs, q);
                  if (const RankValue* dprobs = score_target(i, Field::dprobs, q.tokens, q.heads)) {
                    multiply({Into::scores, Field::dout, Field::v, Field::dprobs, dout, values, *dprobs, q, k});
                  }
                  const SetId kv_heads = sets_.contract(q.heads, problem_.group());
                  if (const RankValue* dv = score_target(i, Field::dv, k.tokens, kv_heads)) {
                    multiply({Into::keys, Field::dout, Field::dv, Field::probs, dout, *dv, probs, q, k});
                  }
                });
}

void Run::normalise_backward(const Instruction& i) {
  const auto sources = block_.sources(i), targets = block_.targets(i);
  if (sources.size() != 2 || targets.size() != 1 || sources[1].fields != Fields(Field::dprobs) ||
      targets[0].fields != Fields(Field::dscores)) {
    refuse("takes probs and dprobs and gives dscores");
  }
  if (inputs_.dlse.data != nullptr) refuse("has no gradient of lse; use a method that is not a reference");
  const RankValue &probs = whole(sources[0], "probs", Field::probs), &dprobs = accumulator(sources[1], "dprobs");
  RankValue& dscores = find(targets[0], "dscores");
  for (const Slice& source : sources) need_same_rows(source, targets[0], "normalise_backward");
  need_same_columns(probs, dscores);
  need_same_columns(dprobs, dscores);
  write(dscores, targets[0]);
  for_each_common_run<1>(
      sets_[targets[0].tokens], {&sets_[dscores.all.tokens]}, [&](std::array<int64_t, 1> row, int64_t rows) {
        for_each_common_run<3>(
            sets_[targets[0].heads], {&sets_[probs.all.heads], &sets_[dprobs.all.heads], &sets_[dscores.all.heads]},
            [&](std::array<int64_t, 3> head, int64_t heads) {
              kernels::softmax_backward(
                  dscores.field(Field::dscores).view(row[0], head[2]), probs.field(Field::probs).view(row[0], head[0]),
                  dprobs.field(Field::dprobs).view(row[0], head[1]), {rows, heads, sets_.size(dscores.columns)});
            });
      });
}

void Run::score_backward(const Instruction& i) {
  for_each_pair(i, Field::q, Field::k,
                [&](const Slice& q, const RankValue& queries, const Slice& k, const RankValue& keys) {
                  const RankValue& dscores = score_bundle(i, Field::dscores, q);
                  const double scale = problem_.softmax_scale();
                  if (const RankValue* dq = score_target(i, Field::dq, q.tokens, q.heads)) {
                    multiply({Into::queries, Field::dq, Field::k, Field::dscores, *dq, keys, dscores, q, k, scale});
                  }
                  const SetId kv_heads = sets_.contract(q.heads, problem_.group());
                  if (const RankValue* dk = score_target(i, Field::dk, k.tokens, kv_heads)) {
                    multiply({Into::keys, Field::q, Field::dk, Field::dscores, queries, *dk, dscores, q, k, scale});
                  }
                });
}

}  // namespace weft::execute_internal
