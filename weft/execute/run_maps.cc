// Linear layers: joining the maps of runs that follow one another.
#include "weft/execute/run.h"

namespace weft::execute_internal {

using kernels::View;

// Two maps, or two transitions, and what becomes of both. The transition is passed by a state from the one to the other.
struct Run::Joining {
  Field field{};
  View earlier, later, transition, joined;
  Range passed;  // the run of the later one, for dstates of the earlier one
};

void Run::join(const Joining& maps, int64_t head) {
  const bool mixes = mixes_rows(problem_.layer);
  const int64_t blocks = column_blocks(problem_.layer);
  if (maps.field == Field::transition) {
    if (blocks > 0)
      return kernels::multiply_column_transitions(maps.earlier, maps.later, problem_.dim_v, blocks, maps.joined);
    return kernels::multiply_transitions(maps.earlier, maps.later,
                                         mixes ? problem_.dim : problem_.columns_of(Field::transition), mixes,
                                         maps.joined, &c_.kernels);
  }
  const bool forward = maps.field == Field::state;
  kernels::compose_states({.near = forward ? maps.earlier : maps.later,
                           .far = forward ? maps.later : maps.earlier,
                           .transition = maps.transition,
                           .mixes_rows = mixes,
                           .blocks = blocks,
                           .transposed = !forward,
                           .decays = decays_of(head),
                           .rows = maps.passed.size(),
                           .cut = !problem_.bidirectional() && problem_.document_begins_in(maps.passed),
                           .dim = problem_.dim,
                           .dim_v = problem_.dim_v,
                           .kernels = &c_.kernels},
                          maps.joined);
}

template <typename F>
void Run::for_each_of(SetId heads, F&& f) {
  for (const Range& range : sets_[heads].ranges()) {
    for (int64_t head = range.begin; head < range.end; ++head) f(head);
  }
}

void Run::compose(const Instruction& i) {
  const auto sources = block_.sources(i), targets = block_.targets(i);
  if (sources.empty() || sources.size() > 2 || targets.size() != 1 || !kStateFields.includes(targets[0].fields)) {
    refuse("takes two states, or pieces, and gives one");
  }
  const Slice& target = targets[0];
  for (const Slice& source : sources) {
    if (source.fields != target.fields || source.heads != target.heads) refuse("of different kinds");
  }
  sources.size() == 1 ? compose_pieces(i, sources[0], target) : compose_two(i, sources[0], sources[1], target);
}

void Run::compose_two(const Instruction& i, const Slice& first, const Slice& second, const Slice& target) {
  const Range earlier = sets_[first.tokens].hull(), later = sets_[second.tokens].hull();
  if (earlier.end != later.begin || !(sets_[target.tokens] == IntervalSet(Range{earlier.begin, later.end}))) {
    refuse("of runs that do not follow one another");
  }
  const RankValue &one = whole(first, "source", target.fields), &other = whole(second, "source", target.fields);
  const Field field = kind_of(target);
  const Slice& passed = field == Field::dstate ? first : second;
  const RankValue* transition = nullptr;
  if (const Slice* given = transition_passed(i, field)) {
    if (given->heads != target.heads || given->tokens != passed.tokens) refuse("of another transition");
    transition = &whole(*given, "transition", Field::transition);
  }
  RankValue& to = find(target, "target");
  write(to, target);
  for_each_of(target.heads, [&](int64_t head) {
    join({.field = field,
          .earlier = view_of(&one, field, 0, head),
          .later = view_of(&other, field, 0, head),
          .transition = view_of(transition, Field::transition, 0, head),
          .joined = view_of(&to, field, 0, head),
          .passed = sets_[passed.tokens].hull()},
         head);
  });
}

// From the first piece on, dstates from the last: what has been joined goes to and fro between the target and a spare state, so
// that the last is in the target.
void Run::compose_pieces(const Instruction& i, const Slice& source, const Slice& target) {
  const Field field = kind_of(target);
  const RankValue& from = in_pieces(source, "source");
  if (source.tokens != target.tokens) refuse("pieces of other tokens");
  const Range run = sets_[source.tokens].hull();
  const bool backward = field == Field::dstate;
  const RankValue* transitions = nullptr;
  const int64_t count = c_.pieces.count(run);
  if (const Slice* given = count > 1 ? transition_passed(i, field) : nullptr) {
    const Range far = c_.pieces.holding(run, backward ? run.end - 1 : run.begin);
    if (given->heads != target.heads || !(sets_[given->tokens] == subtract(IntervalSet(run), IntervalSet(far))))
      refuse("of other transitions");
    transitions = &in_pieces(*given, "transitions");
  }
  RankValue& to = find(target, "target");
  write(to, target);
  const int64_t bytes = problem_.columns_of(field) * size_of(to.field(field).type);
  const auto spare = c_.pool.take(bytes);
  const auto at = [&](const RankValue& value, Field f, Range piece, int64_t head) {
    const int64_t row = c_.pieces.number(sets_[value.all.tokens].hull(), piece.begin);
    return value.field(f).view(row, sets_[value.all.heads].rank_of(head));
  };
  for_each_of(target.heads, [&](int64_t head) {
    const View ends[] = {view_of(&to, field, 0, head), {spare.get(), to.field(field).type, 0, 0}};
    Range piece = c_.pieces.holding(run, backward ? run.end - 1 : run.begin);
    View joined = at(from, field, piece, head);
    if (count == 1)
      std::copy_n(static_cast<const std::byte*>(joined.data), bytes, static_cast<std::byte*>(ends[0].data));
    for (int64_t left = count - 2; left >= 0; --left) {
      piece = c_.pieces.holding(run, backward ? piece.begin - 1 : piece.end);
      const View next = at(from, field, piece, head), into = ends[left % 2];
      join({.field = field,
            .earlier = backward ? next : joined,
            .later = backward ? joined : next,
            .transition = transitions ? at(*transitions, Field::transition, piece, head) : View{},
            .joined = into,
            .passed = piece},
           head);
      joined = into;
    }
  });
}

Field Run::kind_of(const Slice& map) const {
  for (const Field field : {Field::state, Field::dstate, Field::transition})
    if (map.fields == Fields(field)) return field;
  refuse("joins states, dstates or transitions, one kind at a time");
}

// What maps of this kind are passed through, where that is not known anyway.
const Slice* Run::transition_passed(const Instruction& i, Field field) {
  if (field == Field::transition || !has_transition(problem_.layer)) return nullptr;
  const auto bundles = block_.bundles(i);
  if (bundles.size() != 1 || bundles[0].fields != Fields(Field::transition))
    refuse("needs the transition that is passed");
  return &bundles[0];
}

const RankValue& Run::in_pieces(const Slice& slice, const char* role) {
  const RankValue& value = find(slice, role);
  if (!value.pieces || !value.pieces->are_whole(sets_[slice.tokens].hull(), sets_[value.all.tokens].hull()))
    refuse(std::string(role) + ": " + describe(slice) + " is not made of pieces of a value");
  if (!value.written.covers(sets_, slice))
    refuse(std::string(role) + ": a piece of " + describe(slice) + " is missing");
  return value;
}

}  // namespace weft::execute_internal
