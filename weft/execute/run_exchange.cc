// How a run moves data: slices become messages, and what arrives is put, added or merged.
#include <algorithm>

#include "weft/execute/run.h"

namespace weft::execute_internal {
namespace {

constexpr ValueId kNeverDropped{0xffffffffu};

}  // namespace

void Run::exchange(const Instruction& i) {
  const auto out = block_.outgoing(i), in = block_.incoming(i);
  check_parts(out, in);
  Transfer transfer{.lane = i.lane, .origin = count_ - 1, .memory = &c_.pool.memory(), .send = {}, .receive = {}};
  Flight flight;
  for_each_message(out, [&](int peer, std::span<const Part> parts) {
    OutgoingMessage& message = transfer.send.emplace_back();
    message.peer = peer;
    std::vector<ValueId>& readers = flight.readers.emplace_back();
    for (const Part& part : parts) send_part(i, part, flight, message.parts, readers);
  });
  for_each_message(in, [&](int peer, std::span<const Part> parts) {
    IncomingMessage& message = transfer.receive.emplace_back();
    message.peer = peer;
    const size_t number = transfer.receive.size() - 1;
    for (const Part& part : parts) receive_part(i, part, number, flight, message.parts);
  });
  flight.pending = c_.endpoint.post(std::move(transfer));
  flight.number = dependencies_.issue(block_, i);
  flights_.push_back(std::move(flight));
  if (c_.options.overlap) return;
  flights_.back().pending->wait(Until::matched);
  complete(flights_.back().number);
}

// Everything about the operands that is wrong whatever the other ranks do.
void Run::check_parts(std::span<const Part> out, std::span<const Part> in) {
  const auto check = [&](const Part& part, const char* role) {
    if (part.slice.tokens == SetId::empty || part.slice.heads == SetId::empty) {
      refuse(std::string(role) + ": an empty part");
    }
    if (!(part.slice.fields & kScoreFields).empty()) {
      refuse(std::string(role) + ": " + to_string(part.slice.fields) + " stay where they are computed");
    }
  };
  for (const Part& part : out) {
    check(part, "send");
    const RankValue& value = find(part.slice, "send");
    if (value.form == Form::pieces) refuse("send: pieces are received and joined, and not sent");
    if (value.form == Form::whole) {
      whole(part.slice, "send", part.slice.fields);
    } else {
      need_shared_rows(part.slice, accumulator(part.slice, "send").all.heads, "send");
    }
  }
  for (const Part& part : in) {
    check(part, "receive");
    RankValue& value = find(part.slice, "receive");
    const bool partial = part.slice.fields == kPartialFields;
    const bool sums = value.form == Form::accumulating;
    if (part.combine != Combine::copy && (!sums || partial != (part.combine == Combine::merge))) {
      refuse(std::string("receive: ") + name_of(part.combine) + " of " + to_string(part.slice.fields) +
             "; partial results merge, sums add, whole values are copied");
    }
    for (const Part& sent : out) {
      if (sent.slice.value == part.slice.value && sets_.intersects(sent.slice.tokens, part.slice.tokens) &&
          sets_.intersects(sent.slice.heads, part.slice.heads) && !(sent.slice.fields & part.slice.fields).empty()) {
        refuse("rows " + to_string(sets_[part.slice.tokens]) + " of value " +
               std::to_string(static_cast<size_t>(part.slice.value)) + " are sent and received at once");
      }
    }
    if (part.combine == Combine::copy) need_shared_rows(part.slice, value.all.heads, "receive by copy");
    if (!sums) {
      if (value.pieces && rows_in(sets_, value, part.slice).size() != 1) refuse("receive: of one piece at a time");
      write(value, part.slice);
      continue;
    }
    // A copy into all of a fresh value needs no identity under it.
    const bool all = part.slice == value.all && part.combine == Combine::copy;
    if (all) value.needs_identity = false;
    accumulator(part.slice, "receive");
  }
}

// Equal for a part and its counterpart on the other rank, and for hardly anything else.
uint64_t Run::label(const Instruction& i, const Slice& slice, Field field, Form form) {
  uint64_t h = c_.hash_of(slice.tokens) * 0x9e3779b97f4a7c15u + c_.hash_of(slice.heads);
  h ^= h >> 31;
  const uint64_t rest = static_cast<uint64_t>(field) | static_cast<uint64_t>(form == Form::accumulating) << 8 |
                        static_cast<uint64_t>(i.lane) << 16 |
                        static_cast<uint64_t>(problem_.wire_type_of(field, form)) << 24;
  return (h ^ rest) * 0xd6e8feb86659fd93u;
}

// A buffer for a slice in the types of the wire.
RankValue Run::staging_of(const RankValue& value, const Slice& slice) {
  RankValue staging;
  staging.exists = true;
  staging.form = value.form;
  staging.all = slice;
  slice.fields.for_each([&](Field f) {
    FieldMemory& memory = staging.field(f);
    memory.type = problem_.wire_type_of(f, value.form);
    memory.sharing = problem_.sharing(f);
    memory.head_stride = problem_.columns_of(f);
    memory.row_stride = heads_in(sets_, memory, slice.heads).size() * memory.head_stride;
    auto buffer = c_.pool.take(rows_of(sets_, slice) * memory.row_stride * size_of(memory.type));
    memory.data = buffer.get();
    memory.owner = std::move(buffer);
  });
  return staging;
}

void Run::send_part(const Instruction& i, const Part& part, Flight& flight, std::vector<OutgoingPart>& to,
                    std::vector<ValueId>& readers) {
  const Slice& slice = part.slice;
  const RankValue& value = find(slice, "send");
  flight.charges.push_back(value.charge);
  slice.fields.for_each([&](Field f) {
    const DType wire = problem_.wire_type_of(f, value.form);
    RankValue lowered;  // the field in the type of the wire, where that is another
    if (wire != value.field(f).type) {
      lowered = staging_of(value, slice.only(f));
      convert(lowered, value, slice.only(f));
      flight.charges.push_back(
          std::make_shared<Charge>(meter_, sets_.size(slice.tokens) * lowered.field(f).row_stride * size_of(wire)));
    }
    const RankValue& source = lowered.exists ? lowered : value;
    const FieldMemory& memory = source.field(f);
    OutgoingPart& sent = to.emplace_back();
    sent.regions = regions_of(sets_, source, slice, f, problem_.columns_of(f));
    for (const Region& region : sent.regions) sent.bytes += region.bytes();
    sent.label = label(i, slice, f, value.form);
    sent.owner = memory.owner;
    if (lowered.exists) {
      sent.lending = Lending::lasting;
    } else if (value.form == Form::whole && !memory.callers) {
      sent.lending = memory.lending;
    } else {  // may change once the exchange is over: a sum, or what the caller gets as a result
      sent.lending = Lending::none;
      const ValueId reader = memory.callers ? kNeverDropped : slice.value;
      if (std::find(readers.begin(), readers.end(), reader) == readers.end()) {
        readers.push_back(reader);
      }
    }
  });
}

void Run::receive_part(const Instruction& i, const Part& part, size_t message, Flight& flight,
                       std::vector<IncomingPart>& to) {
  const Slice& slice = part.slice;
  RankValue& value = find(slice, "receive");
  Arrival arrival;
  arrival.part = part;
  arrival.message = message;
  arrival.first = to.size();
  arrival.staged = part.combine != Combine::copy;
  slice.fields.for_each(
      [&](Field f) { arrival.staged |= problem_.wire_type_of(f, value.form) != value.field(f).type; });
  if (arrival.staged) arrival.staging = staging_of(value, slice);
  if (part.combine != Combine::copy) {
    flight.charges.push_back(std::make_shared<Charge>(
        meter_,
        sets_.size(slice.tokens) * wire_bytes_in_heads(sets_, problem_, slice.heads, slice.fields, value.form)));
  }
  const RankValue& target = arrival.staged ? arrival.staging : value;
  const bool entire = slice.tokens == value.all.tokens && slice.heads == value.all.heads;
  slice.fields.for_each([&](Field f) {
    IncomingPart& received = to.emplace_back();
    received.regions = regions_of(sets_, target, slice, f, problem_.columns_of(f));
    for (const Region& region : received.regions) received.bytes += region.bytes();
    received.label = label(i, slice, f, value.form);
    received.owner = target.field(f).owner;
    received.may_borrow = arrival.staged || (value.form == Form::whole && entire && !value.field(f).callers);
  });
  flight.arrivals.push_back(std::move(arrival));
}

// ---- completion

void Run::complete(uint64_t number) {
  const auto flight =
      std::find_if(flights_.begin(), flights_.end(), [&](const Flight& f) { return f.number == number; });
  if (flight == flights_.end()) return;  // was waited for at its issue
  flight->pending->wait(Until::usable);
  for (Arrival& arrival : flight->arrivals) apply(*flight, arrival);
  flights_.erase(flight);
}

void Run::apply(Flight& flight, Arrival& arrival) {
  RankValue& value = find(arrival.part.slice, "receive");
  std::vector<IncomingPart>& parts = flight.pending->received()[arrival.message].parts;
  size_t next = arrival.first;
  arrival.part.slice.fields.for_each([&](Field f) {
    Loan& loan = parts[next++].loan;
    if (!loan.data) return;
    FieldMemory& memory = arrival.staged ? arrival.staging.field(f) : value.field(f);
    memory.data = loan.data;
    memory.row_stride = loan.stride / size_of(memory.type);
    memory.lending = loan.lending;
    memory.owner = std::move(loan.owner);
  });
  if (!arrival.staged) return;
  switch (arrival.part.combine) {
    case Combine::copy: return convert(value, arrival.staging, arrival.part.slice);
    case Combine::add: return add(value, arrival.staging, arrival.part.slice);
    case Combine::merge: return merge_arrived(value, arrival);
  }
}

// Kernels merge accumulators only; what came in a smaller type is widened first.
void Run::merge_arrived(RankValue& value, Arrival& arrival) {
  const Slice& slice = arrival.part.slice;
  const DType type = value.field(Field::out).type;
  FieldMemory& arrived = arrival.staging.field(Field::out);
  if (arrived.type != type) {
    RankValue widened = arrival.staging;
    FieldMemory& memory = widened.field(Field::out);
    auto buffer = c_.pool.take(sets_.size(slice.tokens) * memory.row_stride * size_of(type));
    memory.data = buffer.get();
    memory.owner = std::move(buffer);
    memory.type = type;
    convert(widened, arrival.staging, slice.only(Field::out));
    return merge(value, widened, slice);
  }
  merge(value, arrival.staging, slice);
}

// A value has been dropped: nobody will change what was sent from it.
void Run::let_go(ValueId id) {
  for (Flight& flight : flights_) {
    for (size_t message = 0; message < flight.readers.size(); ++message) {
      std::vector<ValueId>& readers = flight.readers[message];
      if (readers.empty() || std::erase(readers, id) == 0 || !readers.empty()) continue;
      flight.pending->let_go(message);
    }
  }
}

}  // namespace weft::execute_internal
