// How a run computes: slices become views and blocks, and kernels do the rest.
#include "weft/execute/run.h"

namespace weft::execute_internal {
namespace {

// By how many rows `part` lies further down among `to` than among `from`, if everywhere by as many.
std::optional<int64_t> constant_shift(const SetPool& sets, SetId part, SetId from, SetId to) {
  if (from == to) return 0;
  const auto a = runs_of(sets[part], sets[from]), b = runs_of(sets[part], sets[to]);
  for (size_t i = 0; i < a.size(); ++i) {
    if (b[i].row - a[i].row != b[0].row - a[0].row) return std::nullopt;
  }
  return a.empty() ? 0 : b[0].row - a[0].row;
}

}  // namespace

// ---- attend

void Run::attend(const Instruction& i) {
  for (const Slice& q : block_.queries(i)) {
    whole(q, "attend: queries", Field::q);
    RankValue* into = nullptr;
    for (const Slice& target : block_.targets(i)) {
      if (!sets_.includes(target.tokens, q.tokens) || !sets_.includes(target.heads, q.heads)) {
        continue;
      }
      into = &accumulator(target, "attend: partial");
      if (target.fields != kPartialFields) refuse("the target holds " + to_string(target.fields));
      break;
    }
    if (!into) refuse("no partial result for queries " + describe(q));
    for (const Slice& k : block_.keys(i)) attend_pair(q, k, *into);
  }
}

// The kv head of the keys' value that each query head of the run reads.
void Run::set_kv_heads(Range heads, const RankValue& kv) {
  kv_head_.clear();
  const IntervalSet& held = sets_[kv.all.heads];
  for (int64_t head = heads.begin; head < heads.end; ++head) {
    kv_head_.push_back(static_cast<int32_t>(held.rank_of(head / problem_.group())));
  }
}

void Run::attend_pair(const Slice& q, const Slice& k, RankValue& into) {
  const RankValue& qv = find(q, "attend: queries");
  const RankValue& kv = whole(k, "attend: keys", Field::k | Field::v);
  if (!sets_.includes(k.heads, sets_.contract(q.heads, problem_.group()))) {
    refuse("the keys lack kv heads that query heads " + to_string(sets_[q.heads]) + " read");
  }
  const auto blocks = c_.blocks.of(
      {.q = q.tokens, .k = k.tokens, .q_all = qv.all.tokens, .k_all = kv.all.tokens, .out_all = into.all.tokens});
  if (blocks.empty()) return;
  for (const Range& heads : sets_[q.heads].ranges()) {
    const int64_t in_q = sets_[qv.all.heads].rank_of(heads.begin);
    const int64_t in_out = sets_[into.all.heads].rank_of(heads.begin);
    set_kv_heads(heads, kv);
    c_.kernels.attend({.q = qv.field(Field::q).view(0, in_q),
                       .k = kv.field(Field::k).view(),
                       .v = kv.field(Field::v).view(),
                       .o = into.field(Field::out).view(0, in_out),
                       .lse = into.field(Field::lse).view(0, in_out),
                       .heads = heads.size(),
                       .kv_head = kv_head_,
                       .dim = problem_.dim,
                       .dim_v = problem_.dim_v,
                       .scale = problem_.softmax_scale(),
                       .blocks = blocks,
                       .stop = &c_.endpoint.stop_flag(),
                       .tile = problem_.canonical_tile,
                       .pool = c_.workers.get()});
  }
}

// ---- attend_backward

// One pair of query and key slices; gradients that are not wanted are null.
struct Run::Backward {
  const RankValue *q, *k, *dout, *lse, *delta;
  RankValue *dq, *dk, *dv;
  SetId q_tokens, k_tokens, heads;
};

void Run::attend_backward(const Instruction& i) {
  for (const Slice& q : block_.queries(i)) {
    Backward operands{};
    operands.q = &whole(q, "attend_backward: queries", Field::q);
    operands.q_tokens = q.tokens;
    operands.heads = q.heads;
    const auto bundle = [&](Field field) -> const RankValue* {
      for (const Slice& slice : block_.bundles(i)) {
        if (!slice.fields.has(field) || !sets_.includes(slice.tokens, q.tokens) ||
            !sets_.includes(slice.heads, q.heads)) {
          continue;
        }
        return &whole({slice.value, q.tokens, q.heads, slice.fields}, "attend_backward: bundle", field);
      }
      refuse(std::string("no ") + name_of(field) + " for queries " + describe(q));
    };
    operands.dout = bundle(Field::dout);
    operands.lse = bundle(Field::lse);
    operands.delta = bundle(Field::delta);
    const SetId kv_heads = sets_.contract(q.heads, problem_.group());
    const auto gradient = [&](Field field, SetId rows, SetId heads) -> RankValue* {
      bool wanted = false;
      for (const Slice& target : block_.targets(i)) {
        if (!target.fields.has(field)) continue;
        wanted = true;
        if (!sets_.includes(target.tokens, rows) || !sets_.includes(target.heads, heads)) continue;
        return &accumulator(target, "attend_backward: gradient");
      }
      if (!wanted) return nullptr;
      refuse(std::string("no ") + name_of(field) + " rows for " + to_string(sets_[rows]) + ", heads " +
             to_string(sets_[heads]));
    };
    for (const Slice& k : block_.keys(i)) {
      operands.k = &whole(k, "attend_backward: keys", Field::k | Field::v);
      operands.k_tokens = k.tokens;
      if (!sets_.includes(k.heads, kv_heads)) {
        refuse("the keys lack kv heads that query heads " + to_string(sets_[q.heads]) + " read");
      }
      operands.dq = gradient(Field::dq, q.tokens, q.heads);
      operands.dk = gradient(Field::dk, k.tokens, kv_heads);
      operands.dv = gradient(Field::dv, k.tokens, kv_heads);
      attend_backward_pair(operands);
    }
  }
}

void Run::attend_backward_pair(const Backward& b) {
  // A block counts rows of dout, lse and delta together, and of dk and dv. Where their values hold
  // other tokens, views that begin elsewhere do it, or else one call for each interval.
  const auto tokens = [](const RankValue& value) { return value.all.tokens; };
  const RankValue* kv_gradient = b.dk ? b.dk : b.dv;
  const auto lse = constant_shift(sets_, b.q_tokens, tokens(*b.dout), tokens(*b.lse));
  const auto delta = constant_shift(sets_, b.q_tokens, tokens(*b.dout), tokens(*b.delta));
  const auto dv =
      b.dv ? constant_shift(sets_, b.k_tokens, tokens(*kv_gradient), tokens(*b.dv)) : std::optional<int64_t>(0);
  if (!lse || !delta || !dv) {
    Backward part = b;
    const bool queries = !lse || !delta;
    for (const Range& range : sets_[queries ? b.q_tokens : b.k_tokens].ranges()) {
      (queries ? part.q_tokens : part.k_tokens) = sets_.intern(range);
      attend_backward_pair(part);
    }
    return;
  }
  const auto blocks = c_.blocks.of({.q = b.q_tokens,
                                    .k = b.k_tokens,
                                    .q_all = tokens(*b.q),
                                    .k_all = tokens(*b.k),
                                    .out_all = b.dq ? tokens(*b.dq) : SetId::empty,
                                    .bundle_all = tokens(*b.dout),
                                    .grad_all = kv_gradient ? tokens(*kv_gradient) : SetId::empty});
  if (blocks.empty()) return;
  for (const Range& heads : sets_[b.heads].ranges()) {
    const auto at = [&](const RankValue& value, Field field, int64_t rows = 0) {
      return value.field(field).view(rows, sets_[value.all.heads].rank_of(heads.begin));
    };
    const int64_t kv_head = heads.begin / problem_.group();
    const int64_t in_k = sets_[b.k->all.heads].rank_of(kv_head);
    // The kernel counts heads of dk and dv as it does those of k.
    const auto gradient = [&](RankValue* value, Field field, int64_t rows) {
      if (!value) return kernels::View{};
      return value->field(field).view(rows, sets_[value->all.heads].rank_of(kv_head) - in_k);
    };
    set_kv_heads(heads, *b.k);
    c_.kernels.attend_backward({.q = at(*b.q, Field::q),
                                .k = b.k->field(Field::k).view(),
                                .v = b.k->field(Field::v).view(),
                                .dout = at(*b.dout, Field::dout),
                                .lse = at(*b.lse, Field::lse, *lse),
                                .delta = at(*b.delta, Field::delta, *delta),
                                .dq = b.dq ? at(*b.dq, Field::dq) : kernels::View{},
                                .dk = gradient(b.dk, Field::dk, 0),
                                .dv = gradient(b.dv, Field::dv, *dv),
                                .heads = heads.size(),
                                .kv_head = kv_head_,
                                .dim = problem_.dim,
                                .dim_v = problem_.dim_v,
                                .scale = problem_.softmax_scale(),
                                .blocks = blocks,
                                .stop = &c_.endpoint.stop_flag(),
                                .tile = problem_.canonical_tile,
                                .pool = c_.workers.get()});
  }
}

// ---- element-wise

namespace {

// Calls f(rows, heads, first rows, first heads) for the pieces in which a field of two equal slices lies
// together in both values.
template <typename F>
void for_each_piece(SetPool& sets, const RankValue& a, const RankValue& b, const Slice& slice, Field field, F&& f) {
  using Two = std::array<int64_t, 2>;
  IntervalSet room[2];
  const std::array<const IntervalSet*, 2> all{&rows_in(sets, a, a.all, std::move(room[0])),
                                              &rows_in(sets, b, b.all, std::move(room[1]))};
  const auto heads_of = [&](SetId heads) -> const IntervalSet& { return heads_in(sets, a.field(field), heads); };
  for_each_common_run<2>(rows_in(sets, a, slice), all, [&](Two row, int64_t rows) {
    for_each_common_run<2>(heads_of(slice.heads), {&heads_of(a.all.heads), &heads_of(b.all.heads)},
                           [&](Two head, int64_t heads) { f(rows, heads, row, head); });
  });
}

}  // namespace

void Run::add(RankValue& to, const RankValue& from, const Slice& slice) {
  slice.fields.for_each([&](Field f) {
    for_each_piece(sets_, to, from, slice, f, [&](int64_t rows, int64_t heads, auto row, auto head) {
      c_.kernels.add(to.field(f).view(row[0], head[0]), from.field(f).view(row[1], head[1]),
                     {rows, heads, problem_.columns_of(f)});
    });
  });
}

void Run::merge(RankValue& to, const RankValue& from, const Slice& slice) {
  for_each_piece(sets_, to, from, slice, Field::out, [&](int64_t rows, int64_t heads, auto row, auto head) {
    c_.kernels.merge(to.field(Field::out).view(row[0], head[0]), to.field(Field::lse).view(row[0], head[0]),
                     from.field(Field::out).view(row[1], head[1]), from.field(Field::lse).view(row[1], head[1]),
                     {rows, heads, problem_.dim_v});
  });
}

void Run::finish_partial(RankValue& to, const RankValue& from, const Slice& slice) {
  for_each_piece(sets_, to, from, slice, Field::out, [&](int64_t rows, int64_t heads, auto row, auto head) {
    const auto target = [&](Field f) {
      return slice.fields.has(f) ? to.field(f).view(row[0], head[0]) : kernels::View{};
    };
    c_.kernels.finish(target(Field::out), target(Field::lse), from.field(Field::out).view(row[1], head[1]),
                      from.field(Field::lse).view(row[1], head[1]), {rows, heads, problem_.dim_v});
  });
}

void Run::convert(RankValue& to, const RankValue& from, const Slice& slice) {
  slice.fields.for_each([&](Field f) {
    for_each_piece(sets_, to, from, slice, f, [&](int64_t rows, int64_t heads, auto row, auto head) {
      c_.kernels.convert(to.field(f).view(row[0], head[0]), from.field(f).view(row[1], head[1]),
                         {rows, heads, problem_.columns_of(f)});
    });
  });
}

void Run::prepare_backward(const Instruction& i) {
  const auto sources = block_.sources(i), targets = block_.targets(i);
  if (sources.size() != 2 || targets.size() != 1) refuse("takes out and dout and gives delta");
  const RankValue& out = whole(sources[0], "out", Field::out);
  const RankValue& dout = whole(sources[1], "dout", Field::dout);
  RankValue& delta = find(targets[0], "delta");
  for (const Slice& source : sources) need_same_rows(source, targets[0], "prepare_backward");
  if (delta.form != Form::whole || targets[0].fields != Fields(Field::delta)) {
    refuse("gives whole delta, not " + to_string(targets[0].fields));
  }
  write(delta, targets[0]);
  // Where lse has a gradient: dscores = probs * (dprobs - delta + dlse).
  const bool mine = sets_.includes(c_.my_queries, targets[0].tokens);
  if (inputs_.dlse.data != nullptr && !mine)
    refuse("makes delta of rows of other ranks, whose gradient of lse is not known here");
  const SetId all_rows = mine ? c_.my_queries : targets[0].tokens;
  const auto dlse_at = [&](int64_t row, int64_t head) -> kernels::ConstView {
    if (inputs_.dlse.data == nullptr) return {};
    const DType type = problem_.accumulator();
    const int64_t stride = inputs_.dlse.row_stride == 0 ? problem_.heads : inputs_.dlse.row_stride;
    return {static_cast<const std::byte*>(inputs_.dlse.data) + (row * stride + head) * size_of(type), type, stride, 1};
  };
  using Four = std::array<int64_t, 4>;
  for_each_common_run<4>(
      sets_[targets[0].tokens],
      {&sets_[out.all.tokens], &sets_[dout.all.tokens], &sets_[delta.all.tokens], &sets_[all_rows]},
      [&](Four row, int64_t rows) {
        for_each_common_run<4>(
            sets_[targets[0].heads],
            {&sets_[out.all.heads], &sets_[dout.all.heads], &sets_[delta.all.heads], &sets_[c_.all_heads]},
            [&](Four head, int64_t heads) {
              c_.kernels.prepare_backward(delta.field(Field::delta).view(row[2], head[2]),
                                          out.field(Field::out).view(row[0], head[0]),
                                          dout.field(Field::dout).view(row[1], head[1]), dlse_at(row[3], head[3]),
                                          {rows, heads, problem_.dim_v});
            });
      });
}

void Run::finish(const Instruction& i) {
  const auto sources = block_.sources(i), targets = block_.targets(i);
  if (sources.size() != 1 || targets.size() != 1) refuse("takes one slice and gives one");
  RankValue& from = find(sources[0], "sums");
  RankValue& to = find(targets[0], "result");
  need_same_rows(sources[0], targets[0], "finish");
  if (from.form != Form::accumulating || to.form != Form::whole || sources[0].fields != targets[0].fields) {
    refuse("finish turns accumulating " + to_string(targets[0].fields) + " into whole");
  }
  need_shared_rows(sources[0], from.all.heads, "sums");
  need_shared_rows(targets[0], to.all.heads, "result");
  fill_identity(from);
  write(to, targets[0]);
  if (from.all.fields == kPartialFields) {
    finish_partial(to, from, targets[0]);
  } else {
    convert(to, from, targets[0]);
  }
}

void Run::combine(const Instruction& i) {
  const auto sources = block_.sources(i), targets = block_.targets(i);
  if (sources.size() != 1 || targets.size() != 1) refuse("takes one slice into one slice");
  const RankValue& from = accumulator(sources[0], "source");
  RankValue& to = accumulator(targets[0], "target");
  need_same_rows(sources[0], targets[0], name_of(i.op));
  if (sources[0].fields != targets[0].fields || (targets[0].fields == kPartialFields) != (i.op == Op::merge) ||
      !(targets[0].fields & kScoreFields).empty()) {
    refuse("partial results merge, sums add; these are " + to_string(sources[0].fields) + " and " +
           to_string(targets[0].fields));
  }
  need_shared_rows(sources[0], from.all.heads, "source");
  if (&from == &to) refuse("a value with itself");
  if (i.op == Op::merge) {
    merge(to, from, targets[0]);
  } else {
    add(to, from, targets[0]);
  }
}

}  // namespace weft::execute_internal
