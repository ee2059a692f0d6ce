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

void LinearPass::begin_forward(std::vector<LocalFragment>& own) {
  out = b.sums(Field::out, q.tokens(), q.heads());
  if (b.problem().final_states) final = b.sums(Field::final_state, b.rows(Field::final_state, q.tokens()), q.heads());
  for (LocalFragment& f : own) {
    f.state = b.state_of(keys(f.tail, kv.heads()));
    if (f.crossed) f.transition = b.transition_of(kv[f.tokens]);
  }
}

void LinearPass::begin_backward(std::vector<LocalFragment>& own) {
  dout = b.input(Field::dout);
  dfinal = b.input(Field::dfinal_state);
  dq = b.sums(Field::dq, q.tokens(), q.heads());
  dkv = b.sums(b.problem().key_gradients(), kv.tokens(), kv.heads());
  if (!initial.empty()) dinitial = b.sums(Field::dinitial_state, initial.tokens(), initial.heads());
  for (LocalFragment& f : own) f.dstate = b.dstate_of(q[f.head], kv[f.head], with(dout, dfinal, f.head, dout.heads()));
}

void LinearPass::scan(const LocalFragment& fragment) {
  b.scan(q[fragment.tokens], keys(fragment.tokens, kv.heads()), with(out, final, fragment.tokens, q.heads()));
}

void LinearPass::apply(const LocalFragment& fragment, const Slice& state) {
  const Set heads(b.pool(), state.heads);
  b.apply_state(q.at(fragment.head, heads), kv.at(fragment.head, heads), state, with(out, final, fragment.head, heads));
}

void LinearPass::apply_entering(std::vector<LocalFragment>& own) {
  for (LocalFragment& f : own) {
    f.state.reset();
    for (const Value& state : f.entering) apply(f, state);
  }
}

void LinearPass::scan_backward(const LocalFragment& fragment) {
  const auto scan = [&](Set heads, const Slice& state) {
    const Set tokens = fragment.tokens;
    b.scan_backward(q.at(tokens, heads), keys(tokens, heads), with(dout, dfinal, tokens, heads), state,
                    dq.at(tokens, heads), with(dkv, dinitial, tokens, heads));
  };
  if (fragment.entering.empty()) scan(q.heads(), {});
  for (const Value& state : fragment.entering) scan(state.heads(), state);
}

void LinearPass::apply_backward(const LocalFragment& fragment, const Slice& dstate) {
  const Set tail = fragment.tail, heads(b.pool(), dstate.heads);
  Slice entering;  // into the tail: nothing, unless that is all of the fragment
  for (const Value& state : fragment.entering) {
    if (fragment.crossed && (state.heads() == heads)) entering = state;
  }
  b.apply_dstate(keys(tail, heads), dstate, entering, with(dkv, dinitial, tail, heads));
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
