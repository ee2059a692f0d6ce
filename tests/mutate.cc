#include "tests/mutate.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>

namespace weft::testing {
namespace {

using Program = std::vector<LooseInstruction>;

// A random index among the instructions of a kind, or -1.
int pick(const Program& program, Random& random, const std::function<bool(const LooseInstruction&)>& fits) {
  std::vector<int> places;
  for (size_t i = 0; i < program.size(); ++i) {
    if (fits(program[i])) places.push_back(static_cast<int>(i));
  }
  return places.empty() ? -1 : places[static_cast<size_t>(random.uniform(static_cast<int64_t>(places.size())))];
}

bool is(const LooseInstruction& i, Op op) { return i.head.op == op; }
bool is_exchange(const LooseInstruction& i) { return is(i, Op::exchange); }
bool has_operands(const LooseInstruction& i) { return !i.slices.empty() || is_exchange(i); }

// A random slice of an instruction.
Slice* pick_slice(LooseInstruction& i, Random& random) {
  const size_t count = i.slices.size() + i.outgoing.size() + i.incoming.size();
  if (count == 0) return nullptr;
  size_t n = static_cast<size_t>(random.uniform(static_cast<int64_t>(count)));
  if (n < i.slices.size()) return &i.slices[n];
  n -= i.slices.size();
  return n < i.outgoing.size() ? &i.outgoing[n].slice : &i.incoming[n - i.outgoing.size()].slice;
}

// A set near another: a member more or less at an end of an interval, an interval less, or shifted.
SetId near(SetPool& pool, SetId id, int64_t limit, Random& random) {
  std::vector<Range> ranges(pool[id].ranges().begin(), pool[id].ranges().end());
  if (ranges.empty()) return id;
  Range& range = ranges[static_cast<size_t>(random.uniform(static_cast<int64_t>(ranges.size())))];
  switch (random.uniform(5)) {
    case 0: range.begin += 1; break;
    case 1: range.end -= 1; break;
    case 2: range.begin = std::max<int64_t>(0, range.begin - 1); break;
    case 3: range.end = std::min(limit, range.end + 1); break;
    default:
      range = range.begin > 0 ? Range{range.begin - 1, range.end - 1}
                              : Range{range.begin + 1, std::min(limit, range.end + 1)};
  }
  return pool.intern(IntervalSet(std::span<const Range>(ranges)));
}

std::string change_peer(Program& program, int ranks, Random& random) {
  const int at = pick(program, random, is_exchange);
  if (at < 0 || ranks < 2) return "";
  LooseInstruction& i = program[static_cast<size_t>(at)];
  std::vector<Part>& side =
      (random.uniform(2) == 0 && !i.outgoing.empty()) || i.incoming.empty() ? i.outgoing : i.incoming;
  const int old = side[static_cast<size_t>(random.uniform(static_cast<int64_t>(side.size())))].peer;
  const int fresh = static_cast<int>(random.uniform(ranks));
  if (fresh == old) return "";
  for (Part& part : side) {
    if (part.peer == old) part.peer = fresh;
  }
  return "redirect a message of instruction " + std::to_string(at) + " from rank " + std::to_string(old) + " to " +
         std::to_string(fresh);
}

std::string remove_part(Program& program, Random& random) {
  const int at = pick(program, random, is_exchange);
  if (at < 0) return "";
  LooseInstruction& i = program[static_cast<size_t>(at)];
  std::vector<Part>& side =
      (random.uniform(2) == 0 && !i.outgoing.empty()) || i.incoming.empty() ? i.outgoing : i.incoming;
  side.erase(side.begin() + random.uniform(static_cast<int64_t>(side.size())));
  return "remove a part of instruction " + std::to_string(at);
}

std::string change_combine(Program& program, Random& random) {
  const int at = pick(program, random, [](const LooseInstruction& i) { return !i.incoming.empty(); });
  if (at < 0) return "";
  std::vector<Part>& parts = program[static_cast<size_t>(at)].incoming;
  Part& part = parts[static_cast<size_t>(random.uniform(static_cast<int64_t>(parts.size())))];
  const auto fresh = static_cast<Combine>(random.uniform(3));
  if (fresh == part.combine) return "";
  part.combine = fresh;
  return "combine by " + std::string(name_of(fresh)) + " in instruction " + std::to_string(at);
}

}  // namespace

LooseSchedule take_apart(const StoredSchedule& stored) {
  LooseSchedule loose;
  for (const StoredProgram& program : stored.programs) {
    Program& to = loose.programs.emplace_back();
    const Block block = program.block();
    for (const Instruction& i : program.instructions) {
      LooseInstruction& one = to.emplace_back();
      one.head = i;
      if (i.op == Op::exchange) {
        one.outgoing.assign(block.outgoing(i).begin(), block.outgoing(i).end());
        one.incoming.assign(block.incoming(i).begin(), block.incoming(i).end());
      } else {
        one.slices.assign(block.operands(i).begin(), block.operands(i).end());
      }
    }
  }
  return loose;
}

std::shared_ptr<const StoredSchedule> put_together(const LooseSchedule& loose, const SetPool& pool) {
  auto stored = std::make_shared<StoredSchedule>();
  stored->pool = std::make_unique<SetPool>();
  const auto moved = [&](Slice slice) {
    slice.tokens = stored->pool->intern(pool[slice.tokens]);
    slice.heads = stored->pool->intern(pool[slice.heads]);
    return slice;
  };
  for (const Program& program : loose.programs) {
    StoredProgram& to = stored->programs.emplace_back();
    for (const LooseInstruction& one : program) {
      Instruction i = one.head;
      if (i.op == Op::exchange) {
        i.first = static_cast<uint32_t>(to.parts.size());
        i.sources = static_cast<uint32_t>(one.outgoing.size());
        i.targets = static_cast<uint32_t>(one.incoming.size());
        for (const auto* side : {&one.outgoing, &one.incoming}) {
          std::vector<Part> parts = *side;
          std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.peer < b.peer; });
          for (Part part : parts) {
            part.slice = moved(part.slice);
            to.parts.push_back(part);
          }
        }
      } else {
        i.first = static_cast<uint32_t>(to.slices.size());
        for (const Slice& slice : one.slices) to.slices.push_back(moved(slice));
      }
      to.instructions.push_back(i);
    }
  }
  return stored;
}

std::string mutate(LooseSchedule& schedule, SetPool& pool, const Problem& problem, Random& random) {
  const size_t rank = static_cast<size_t>(random.uniform(static_cast<int64_t>(schedule.programs.size())));
  Program& program = schedule.programs[rank];
  if (program.empty()) return "";
  const auto at_place = [&](int at) { return program.begin() + at; };
  const std::string where = "rank " + std::to_string(rank) + ": ";
  const auto said = [&](const std::string& text) { return text.empty() ? text : where + text; };
  switch (random.uniform(14)) {
    case 0: {  // an exchange, or any instruction, is lost
      const bool any = random.uniform(2) == 0;
      const int at = pick(program, random, [&](const LooseInstruction& i) { return any || is_exchange(i); });
      if (at < 0) return "";
      const std::string text = "drop " + std::string(name_of(at_place(at)->head.op)) + " at " + std::to_string(at);
      program.erase(at_place(at));
      return said(text);
    }
    case 1: {  // an exchange or a compute happens twice
      const bool any = random.uniform(2) == 0;
      const int at = pick(program, random, [&](const LooseInstruction& i) { return any || is_exchange(i); });
      if (at < 0) return "";
      const LooseInstruction copy = *at_place(at);
      program.insert(at_place(at), copy);
      return said("duplicate " + std::string(name_of(copy.head.op)) + " at " + std::to_string(at));
    }
    case 2: {  // two instructions change places
      const bool any = random.uniform(2) == 0;
      const int at = pick(program, random, [&](const LooseInstruction& i) { return any || is_exchange(i); });
      if (at < 0 || program.size() < 2) return "";
      const int to = std::clamp<int>(at + (random.uniform(2) == 0 ? 1 : -1) * static_cast<int>(1 + random.uniform(3)),
                                     0, static_cast<int>(program.size()) - 1);
      if (to == at) return "";
      std::swap(program[static_cast<size_t>(at)], program[static_cast<size_t>(to)]);
      std::swap(program[static_cast<size_t>(at)].head.step, program[static_cast<size_t>(to)].head.step);
      return said("swap instructions " + std::to_string(at) + " and " + std::to_string(to));
    }
    case 3: return said(change_peer(program, static_cast<int>(schedule.programs.size()), random));
    case 4:
    case 5: {  // other tokens
      const int at = pick(program, random, has_operands);
      Slice* slice = at < 0 ? nullptr : pick_slice(*at_place(at), random);
      if (!slice) return "";
      const SetId old = slice->tokens;
      slice->tokens = near(pool, old, problem.query_layout.tokens(), random);
      return slice->tokens == old ? ""
                                  : said("change tokens in " + std::string(name_of(at_place(at)->head.op)) + " at " +
                                         std::to_string(at));
    }
    case 6: {  // other heads
      const int at = pick(program, random, has_operands);
      Slice* slice = at < 0 ? nullptr : pick_slice(*at_place(at), random);
      if (!slice) return "";
      const SetId old = slice->heads;
      slice->heads = near(pool, old, problem.heads, random);
      return slice->heads == old
                 ? ""
                 : said("change heads in " + std::string(name_of(at_place(at)->head.op)) + " at " + std::to_string(at));
    }
    case 7: {  // another value
      const int at = pick(program, random, has_operands);
      Slice* slice = at < 0 ? nullptr : pick_slice(*at_place(at), random);
      if (!slice) return "";
      const auto fresh = static_cast<ValueId>(random.uniform(8));
      if (fresh == slice->value) return "";
      slice->value = fresh;
      return said("use another value in " + std::string(name_of(at_place(at)->head.op)) + " at " + std::to_string(at));
    }
    case 8: {  // a merge or an addition is skipped
      const int at =
          pick(program, random, [](const LooseInstruction& i) { return is(i, Op::merge) || is(i, Op::add); });
      if (at < 0) return "";
      program.erase(at_place(at));
      return said("skip the merge or add at " + std::to_string(at));
    }
    case 9: {  // a value ends too early
      const int at = pick(program, random, [](const LooseInstruction& i) { return is(i, Op::drop); });
      if (at <= 0) return "";
      const int to = std::max<int>(0, at - 1 - static_cast<int>(random.uniform(6)));
      LooseInstruction moved = *at_place(at);
      moved.head.step = program[static_cast<size_t>(to)].head.step;
      program.erase(at_place(at));
      program.insert(at_place(to), moved);
      return said("drop the value of " + std::to_string(at) + " already at " + std::to_string(to));
    }
    case 10: return said(remove_part(program, random));
    case 11: return said(change_combine(program, random));
    case 12: {  // two operands change places
      const int at = pick(program, random, [](const LooseInstruction& i) { return i.slices.size() > 1; });
      if (at < 0) return "";
      std::vector<Slice>& slices = at_place(at)->slices;
      const auto any = [&] { return static_cast<size_t>(random.uniform(static_cast<int64_t>(slices.size()))); };
      const size_t a = any(), b = any();
      if (slices[a] == slices[b]) return "";
      std::swap(slices[a], slices[b]);
      return said("exchange two operands of " + std::string(name_of(at_place(at)->head.op)) + " at " +
                  std::to_string(at));
    }
    default: {  // another lane, or a field less
      const int at = pick(program, random, has_operands);
      if (at < 0) return "";
      if (is_exchange(*at_place(at)) && random.uniform(2) == 0) {
        at_place(at)->head.lane = static_cast<uint8_t>(random.uniform(kLanes));
        return said("change the lane at " + std::to_string(at));
      }
      Slice* slice = pick_slice(*at_place(at), random);
      if (!slice) return "";
      const Fields fewer =
          Fields::from_bits(slice->fields.bits() & static_cast<uint32_t>(random.uniform(int64_t{1} << kFieldCount)));
      if (fewer == slice->fields) return "";
      slice->fields = fewer;
      return said("take fields away in " + std::string(name_of(at_place(at)->head.op)) + " at " + std::to_string(at));
    }
  }
}

bool can_hang(const LooseSchedule& schedule) {
  struct Exchange {
    std::vector<int> to, from;  // one message per peer and direction, self left out
  };
  const int ranks = static_cast<int>(schedule.programs.size());
  std::vector<std::vector<Exchange>> exchanges(static_cast<size_t>(ranks));
  for (int r = 0; r < ranks; ++r) {
    for (const LooseInstruction& i : schedule.programs[static_cast<size_t>(r)]) {
      if (!is_exchange(i)) continue;
      std::set<int> to, from;
      for (const Part& part : i.outgoing) to.insert(part.peer);
      for (const Part& part : i.incoming) from.insert(part.peer);
      to.erase(r), from.erase(r);
      if (to.empty() && from.empty()) continue;
      exchanges[static_cast<size_t>(r)].push_back({{to.begin(), to.end()}, {from.begin(), from.end()}});
    }
  }
  // A state: for each rank, which exchange it is at and which of its messages have met their other end.
  struct Place {
    size_t at = 0;
    uint32_t sent = 0, received = 0;
    auto operator<=>(const Place&) const = default;
  };
  using State = std::vector<Place>;
  std::set<State> seen;
  std::vector<State> open = {State(static_cast<size_t>(ranks))};
  while (!open.empty()) {
    State state = open.back();
    open.pop_back();
    if (!seen.insert(state).second) continue;
    bool moved = false, all_done = true;
    for (int a = 0; a < ranks; ++a) {
      Place& sender = state[static_cast<size_t>(a)];
      const auto& mine = exchanges[static_cast<size_t>(a)];
      if (sender.at == mine.size()) continue;
      all_done = false;
      const std::vector<int>& to = mine[sender.at].to;
      for (size_t m = 0; m < to.size(); ++m) {
        const int b = to[m];
        if ((sender.sent >> m & 1) != 0 || b < 0 || b >= ranks) continue;
        const Place& receiver = state[static_cast<size_t>(b)];
        const auto& theirs = exchanges[static_cast<size_t>(b)];
        if (receiver.at == theirs.size()) continue;
        const std::vector<int>& from = theirs[receiver.at].from;
        const auto found = std::find(from.begin(), from.end(), a);
        const size_t n = static_cast<size_t>(found - from.begin());
        if (found == from.end() || (receiver.received >> n & 1) != 0) continue;
        State next = state;
        next[static_cast<size_t>(a)].sent |= 1u << m;
        next[static_cast<size_t>(b)].received |= 1u << n;
        for (int r : {a, b}) {  // an exchange whose messages have all met lets its rank go on
          Place& place = next[static_cast<size_t>(r)];
          const Exchange& x = exchanges[static_cast<size_t>(r)][place.at];
          if (place.sent + 1 == 1u << x.to.size() && place.received + 1 == 1u << x.from.size())
            place = {place.at + 1, 0, 0};
        }
        open.push_back(std::move(next));
        moved = true;
      }
    }
    if (!moved && !all_done) return true;
  }
  return false;
}

}  // namespace weft::testing
