#include "weft/schedule/print.h"

namespace weft {
namespace {

// "kv" reads better than "k+v", and the two nearly always travel together.
std::string short_name(Fields fields) {
  const auto and_others = [&](std::string name, Fields joined) {
    if (fields.has(Field::g) || fields.has(Field::dg)) name += "g", joined = joined | (fields & (Field::g | Field::dg));
    const Fields others = Fields::from_bits(fields.bits() & ~joined.bits());
    return others.empty() ? name : name + "+" + to_string(others);
  };
  if (fields.includes(Field::k | Field::v)) return and_others("kv", Field::k | Field::v);
  if (fields.includes(Field::dk | Field::dv)) return and_others("dkv", Field::dk | Field::dv);
  return fields.empty() ? "value" : to_string(fields);
}

}  // namespace

ValueNumbers::Entry& ValueNumbers::entry(ValueId id) {
  Entry& entry = entries_[static_cast<uint32_t>(id)];
  if (entry.state == State::unseen) entry = {next_++, State::named};
  return entry;
}

void ValueNumbers::follow(const Block& block, const Instruction& instruction) {
  if (instruction.op == Op::create || instruction.op == Op::input) {
    for (const Slice& slice : block.targets(instruction)) {
      Entry& at = entry(slice.value);
      if (at.state == State::dropped) at.number = next_++;
      at.state = State::alive;
    }
  } else if (instruction.op == Op::drop) {
    for (const Slice& slice : block.sources(instruction)) {
      Entry& at = entry(slice.value);
      if (at.state == State::alive) at.state = State::dropped;
    }
  }
}

std::string print(const Problem& problem, const SetPool& pool, ValueNumbers& numbers, const Slice& slice) {
  std::string text =
      short_name(slice.fields) + "#" + std::to_string(numbers.of(slice.value)) + " " + to_string(pool[slice.tokens]);
  const bool query_side = !(slice.fields & kQueryFields).empty();
  const IntervalSet all = Range{0, query_side ? problem.heads : problem.kv_heads};
  if (!(pool[slice.heads] == all)) text += " heads " + to_string(pool[slice.heads]);
  return text;
}

std::string print(const Problem& problem, const SetPool& pool, ValueNumbers& numbers, const Block& block,
                  const Instruction& instruction) {
  const auto list = [&](std::span<const Slice> slices) {
    std::string text;
    for (const Slice& slice : slices) {
      if (!text.empty()) text += ", ";
      text += print(problem, pool, numbers, slice);
    }
    return text.empty() ? std::string("nothing") : text;
  };
  const auto messages = [&](std::span<const Part> parts, std::string verb, bool incoming) {
    std::string text;
    for_each_message(parts, [&](int peer, std::span<const Part> message) {
      text += (text.empty() ? verb + " " : ", ") + std::to_string(peer) + (incoming ? " -> " : " <- ");
      bool first = true;
      for (const Part& part : message) {
        if (!first) text += " & ";
        first = false;
        text += print(problem, pool, numbers, part.slice);
        if (incoming && part.combine != Combine::copy) text += std::string(" (") + name_of(part.combine) + ")";
      }
    });
    return text;
  };

  const std::string name = name_of(instruction.op);
  switch (instruction.op) {
    case Op::create: return name + " " + list(block.targets(instruction)) + ", " + name_of(instruction.form);
    case Op::input: return name + " " + list(block.targets(instruction));
    case Op::drop:
    case Op::result: return name + " " + list(block.sources(instruction));
    case Op::exchange: {
      const std::string out = messages(block.outgoing(instruction), "send", false);
      const std::string in = messages(block.incoming(instruction), "receive", true);
      return name + " lane " + std::to_string(instruction.lane) + ": " + out + (out.empty() || in.empty() ? "" : "; ") +
             in + (out.empty() && in.empty() ? "nothing" : "");
    }
    case Op::wait: return name + " for lane " + std::to_string(instruction.lane);
    case Op::attend:
    case Op::score:
    case Op::weigh:
    case Op::scan:
      return name + " " + list(block.queries(instruction)) + " to " + list(block.keys(instruction)) +
             (instruction.bundles == 0 ? "" : " with " + list(block.bundles(instruction))) + " into " +
             list(block.targets(instruction));
    case Op::attend_backward:
    case Op::weigh_backward:
    case Op::score_backward:
    case Op::apply_state:
    case Op::summarise_backward:
    case Op::scan_backward:
      return name + " " + list(block.queries(instruction)) + " to " + list(block.keys(instruction)) + " with " +
             list(block.bundles(instruction)) + " into " + list(block.targets(instruction));
    case Op::prepare_backward:
    case Op::finish:
    case Op::merge:
    case Op::add:
    case Op::normalise:
    case Op::normalise_backward:
      return name + " " + list(block.sources(instruction)) + " into " + list(block.targets(instruction));
    case Op::summarise: return name + " " + list(block.keys(instruction)) + " into " + list(block.targets(instruction));
    case Op::apply_dstate:
      return name + " " + list(block.bundles(instruction)) + " to " + list(block.keys(instruction)) + " into " +
             list(block.targets(instruction));
    case Op::compose:
      return name + " " + list(block.sources(instruction)) +
             (instruction.bundles == 0 ? "" : " with " + list(block.bundles(instruction))) + " into " +
             list(block.targets(instruction));
    case Op::begin_backward: return name;
  }
  return name;
}

}  // namespace weft
