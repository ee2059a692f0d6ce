#include "weft/methods/linear/fragments.h"

#include <algorithm>

namespace weft::methods {

std::vector<Fragment> Fragments::runs_of_ranks(const Problem& problem) {
  std::vector<Fragment> runs;
  for (int rank = 0; rank < problem.ranks(); ++rank) {
    for (const Range& range : problem.query_layout.shard(rank).ranges()) {
      Fragment& fragment = runs.emplace_back();
      fragment.tokens = range, fragment.rank = rank;
    }
  }
  return runs;
}

Fragments::Fragments(const Problem& problem, std::vector<Fragment> cut)
    : all_(std::move(cut)), of_rank_(static_cast<size_t>(problem.ranks())) {
  std::sort(all_.begin(), all_.end(),
            [](const Fragment& a, const Fragment& b) { return a.tokens.begin < b.tokens.begin; });
  const int64_t tokens = problem.query_layout.tokens();
  // The earlier tokens of the document that crosses a position, and the later ones.
  const auto before = [&](int64_t position) -> Range {
    if (position == 0 || position == tokens) return {};
    return problem.pairs.keys_needed(IntervalSet(Range{position, position + 1}), IntervalSet(Range{0, position}))
        .hull();
  };
  const auto after = [&](int64_t position) -> Range {
    if (position == 0 || position == tokens) return {};
    const IntervalSet last(Range{position - 1, position});
    return problem.pairs.queries_needed(IntervalSet(Range{position, tokens}), last).hull();
  };
  for (int i = 0; i < count(); ++i) {
    Fragment& f = all_[static_cast<size_t>(i)];
    of_rank_[static_cast<size_t>(f.rank)].push_back(i);
    f.before = before(f.tokens.begin);
    f.after = after(f.tokens.end);
    f.head = intersect(after(f.tokens.begin), f.tokens);
    f.tail = intersect(before(f.tokens.end), f.tokens);
    f.first = f.before.empty() ? i : holding(f.before.begin);
    f.end = f.after.empty() ? i + 1 : holding(f.after.end - 1) + 1;
    longest_ = std::max(longest_, i - f.first);
  }
}

int Fragments::holding(int64_t token) const {
  const auto after = std::upper_bound(all_.begin(), all_.end(), token,
                                      [](int64_t t, const Fragment& fragment) { return t < fragment.tokens.begin; });
  return static_cast<int>(after - all_.begin()) - 1;
}

SharedFragments make_fragments(const Problem& problem) { return std::make_shared<const Fragments>(problem); }

LocalFragment::LocalFragment(Builder& b, const Fragments& fragments, int fragment)
    : number(fragment),
      tokens(b.set(fragments[fragment].tokens)),
      before(b.set(fragments[fragment].before)),
      after(b.set(fragments[fragment].after)),
      head(b.set(fragments[fragment].head)),
      tail(b.set(fragments[fragment].tail)),
      crossed(fragments[fragment].crossed()) {}

std::vector<LocalFragment> local_fragments(Builder& b, const Fragments& fragments) {
  std::vector<LocalFragment> list;
  for (const int number : fragments.of(b.rank())) list.emplace_back(b, fragments, number);
  return list;
}

// ---- work on a fragment

void LinearPass::open_forward() {
  out = b.sums(Field::out, q.tokens(), q.heads());
  if (b.problem().gives_states()) final = b.sums(Field::final_state, b.rows(Field::final_state, q.tokens()), q.heads());
}

void LinearPass::open_backward(Value dout_rows, Value dfinal_rows) {
  dout = std::move(dout_rows), dfinal = std::move(dfinal_rows);
  dq = b.sums(Field::dq, q.tokens(), q.heads());
  dkv = b.sums(b.problem().key_gradients(), kv.tokens(), kv.heads());
  if (!initial.empty()) dinitial = b.sums(Field::dinitial_state, initial.tokens(), initial.heads());
}

Value LinearPass::state_of(const LocalFragment& f, Set heads) { return b.state_of(keys(f.tail, heads)); }

Value LinearPass::dstate_of(const LocalFragment& f, Set heads) {
  return b.dstate_of(q.at(f.head, heads), kv.at(f.head, heads), with(dout, dfinal, f.head, heads));
}

void LinearPass::scan(const LocalFragment& f, Set heads, const Slice& state, const Slice& leaving) {
  b.scan(q.at(f.tokens, heads), keys(f.tokens, heads), with(out, final, f.tokens, heads), state, leaving);
}

void LinearPass::scan_backward(const LocalFragment& f, Set heads, const Slice& state, const Slice& dstate,
                               const Slice& leaving) {
  const Set tokens = f.tokens;
  b.scan_backward(q.at(tokens, heads), keys(tokens, heads), with(dout, dfinal, tokens, heads), state,
                  dq.at(tokens, heads), with(dkv, dinitial, tokens, heads), dstate, leaving);
}

void LinearPass::begin_forward(std::vector<LocalFragment>& own) {
  open_forward();
  for (LocalFragment& f : own) {
    f.state = state_of(f, kv.heads());
    if (f.crossed) f.transition = b.transition_of(kv[f.tokens]);
  }
}

void LinearPass::make_dstates(std::vector<LocalFragment>& own) {
  for (LocalFragment& f : own) f.dstate = dstate_of(f, q.heads());
}

void LinearPass::scan_first(const std::vector<LocalFragment>& own) {
  for (const LocalFragment& f : own) scan(f, f.before.empty() ? q.heads() : first_heads(), {});
}

void LinearPass::scan_rest(std::vector<LocalFragment>& own) {
  for (LocalFragment& f : own) {
    f.state.reset();
    if (f.before.empty()) continue;
    const Set heads = first_heads();
    if (!other_heads().empty()) scan(f, other_heads(), in(f.entering, other_heads()));
    b.apply_state(q.at(f.head, heads), kv.at(f.head, heads), in(f.entering, heads), with(out, final, f.head, heads));
  }
}

void LinearPass::scan_backward_first(const std::vector<LocalFragment>& own) {
  for (const LocalFragment& f : own) {
    const Set heads = f.after.empty() ? q.heads() : first_heads();
    scan_backward(f, heads, in(f.entering, heads), {});
  }
}

void LinearPass::scan_backward_rest(const std::vector<LocalFragment>& own, const std::vector<Value>& dstates) {
  for (size_t i = 0; i < own.size(); ++i) {
    const LocalFragment& f = own[i];
    if (f.after.empty()) continue;
    const Set heads = first_heads(), others = other_heads();
    if (!others.empty()) scan_backward(f, others, in(f.entering, others), in(dstates[i], others));
    // Into the tail nothing enters, unless it is all of the fragment.
    b.apply_dstate(keys(f.tail, heads), in(dstates[i], heads), f.crossed ? in(f.entering, heads) : Slice{},
                   with(dkv, dinitial, f.tail, heads));
  }
}

void LinearPass::finish_forward() {
  b.result(b.finish(out));
  b.result(b.finish(final));
}

void LinearPass::finish_backward() {
  b.result(b.finish(dq));
  b.result(b.finish(dkv));
  b.result(b.finish(dinitial));
}

}  // namespace weft::methods
