// Exchanges in the symbolic run of a rank: issue, matching of parts, completion, and the bytes they hold.
#include <algorithm>

#include "weft/verify/rank_run.h"

namespace weft::verify_internal {
namespace {

constexpr int kPartsAhead = 6;  // two or three cache lines

}  // namespace

void RankRun::issue(const Instruction& i) {
  exchange_ = &i;
  outgoing_.clear();
  incoming_.clear();
  unmatched = 0;
  check_exchange(i);
  const auto pend = [&](std::span<const Part> parts, std::vector<PendingMessage>& messages) {
    for_each_message(parts, [&](int peer, std::span<const Part> message) {
      if (peer == rank_ || peer < 0 || peer >= problem_.ranks()) return;
      messages.push_back({.peer = peer,
                          .first = static_cast<uint32_t>(message.data() - block_.parts.data()),
                          .count = static_cast<uint32_t>(message.size()) & 0x7fffffff});
      ++unmatched;
    });
  };
  pend(block_.outgoing(i), outgoing_);
  pend(block_.incoming(i), incoming_);
  if (!outgoing_.empty() || !incoming_.empty()) mark_step(i);
  const int64_t sent_before = report_.bytes_sent;
  for (const PendingMessage& message : outgoing_) {
    ++report_.messages;
    report_.messages_backward += backward_;
    const int64_t sent_before_it = report_.bytes_sent;
    for (const Part& part : parts_of(message)) {
      const size_t id = static_cast<size_t>(part.slice.value);
      const Form form = id < values_.size() ? values_[id].form : Form::whole;
      report_.bytes_sent += bytes_of_message(part.slice, form);
    }
    report_.largest_message = std::max(report_.largest_message, report_.bytes_sent - sent_before_it);
  }

  if (backward_) report_.bytes_backward += report_.bytes_sent - sent_before;

  const uint64_t number = dependencies_.issue(block_, i);
  FlightState flight{.number = number, .computes_before = computes_};
  for (const Part& part : block_.outgoing(i)) {
    const size_t id = static_cast<size_t>(part.slice.value);
    if (id >= values_.size() || !values_[id].exists) continue;
    // What travels in a narrower type is packed first, and the packed copy stays until it has been taken.
    if (values_[id].form == Form::accumulating && problem_.wire != problem_.accumulator()) {
      flight.staging += bytes_of_message(part.slice, Form::accumulating);
    }
    add_reader(values_[id].readers, number);
  }
  for (const Part& part : block_.incoming(i)) {
    const size_t id = static_cast<size_t>(part.slice.value);
    const Form form = id < values_.size() ? values_[id].form : Form::whole;
    const int64_t bytes = bytes_of_message(part.slice, form);
    if (part.peer != rank_) flight.received += bytes;
    if (part.combine != Combine::copy) flight.staging += bytes;
  }
  flights_.push_back(flight);
  add_live(flight.staging);
}

void RankRun::add_reader(Readers& readers, uint64_t flight) const {
  std::vector<uint64_t>& others = readers.others;
  if (readers.first == flight || (!others.empty() && others.back() == flight)) return;
  if (others.empty() && (readers.first == Readers::kNone || !is_in_flight(readers.first))) {
    readers.first = flight;
    return;
  }
  if (others.size() >= kFewReaders) std::erase_if(others, [&](uint64_t number) { return !is_in_flight(number); });
  others.push_back(flight);
}

void RankRun::check_exchange(const Instruction& i) {
  const auto out = block_.outgoing(i), in = block_.incoming(i);
  const auto by_peer = [](const Part& a, const Part& b) { return a.peer < b.peer; };
  if (!std::is_sorted(out.begin(), out.end(), by_peer) || !std::is_sorted(in.begin(), in.end(), by_peer)) {
    note("operand", "exchange: parts are not ordered by peer");
  }
  const auto check_part = [&](const Part& part, const char* role) {
    if (part.peer < 0 || part.peer >= problem_.ranks()) {
      note("message", std::string(role) + " rank " + std::to_string(part.peer) + ", but ranks are 0.." +
                          std::to_string(problem_.ranks() - 1));
      return;
    }
    if (part.slice.tokens == SetId::empty || part.slice.heads == SetId::empty) {
      note("operand", std::string("exchange: an empty part ") + role + " rank " + std::to_string(part.peer));
    }
    if (!(part.slice.fields & kScoreFields).empty()) {
      note("operand", "exchange: " + to_string(part.slice.fields) + " stay where they are computed");
    }
  };
  std::vector<ValueId>& accumulators = sent_sums_;  // nothing may arrive in them at the same time
  accumulators.clear();
  for (const Part& part : out) {
    check_part(part, "to");
    ValueState* value = find(part.slice, "exchange: send");
    if (!value) continue;
    if (value->form != Form::accumulating) {
      is_whole(*value, part.slice, "exchange: send", part.slice.fields);
    } else if (is_sum(*value, part.slice, "exchange: send") &&
               has_shared_rows(part.slice, value->all.heads, "exchange: send")) {
      if (accumulators.empty() || accumulators.back() != part.slice.value) accumulators.push_back(part.slice.value);
    }
  }
  for (const Part& part : in) {
    check_part(part, "from");
    ValueState* value = find(part.slice, "exchange: receive");
    if (!value) continue;
    const bool partial = part.slice.fields == (Field::out | Field::lse);
    const bool sums = value->form == Form::accumulating;
    if (part.combine != Combine::copy && (!sums || partial != (part.combine == Combine::merge))) {
      note("operand", std::string("exchange: ") + name_of(part.combine) + " of " + (sums ? "" : "whole ") +
                          to_string(part.slice.fields) + "; partial results merge, sums add, whole values are copied");
    }
    if (value->form == Form::pieces) is_one_piece(*value, part.slice);
    if (part.combine == Combine::copy) has_shared_rows(part.slice, value->all.heads, "exchange: receive by copy");
    if (sums) {
      is_sum(*value, part.slice, "exchange: receive");
      if (part.combine == Combine::copy) check_copy(part, in);
    }
    if (std::find(accumulators.begin(), accumulators.end(), part.slice.value) == accumulators.end()) continue;
    for (const Part& sent : out) {
      if (sent.slice.value == part.slice.value && pool_.intersects(sent.slice.tokens, part.slice.tokens) &&
          pool_.intersects(sent.slice.heads, part.slice.heads)) {
        note("operand", "exchange: rows " + to_string(pool_[part.slice.tokens]) + " of value " +
                            std::to_string(static_cast<size_t>(part.slice.value)) + " are sent and received at once");
      }
    }
  }
}

// A copy takes over rows that are the identity, so nothing else may arrive in them: who came first would decide.
void RankRun::check_copy(const Part& copy, std::span<const Part> incoming) {
  for (const Part& other : incoming) {
    if (&other == &copy || other.slice.value != copy.slice.value) continue;
    if (pool_.intersects(other.slice.tokens, copy.slice.tokens) &&
        pool_.intersects(other.slice.heads, copy.slice.heads)) {
      note("operand", "exchange: rows " + to_string(pool_[copy.slice.tokens]) + " of value " +
                          std::to_string(static_cast<size_t>(copy.slice.value)) +
                          " are received by copy, but something else arrives in them too");
      return;
    }
  }
}

void RankRun::receive(RankRun& sender, std::span<const Part> sent, std::span<const Part> expected, SetPool& sets) {
  // Where ranks wait for thousands of others the next messages are of these parts' neighbours.
  __builtin_prefetch(sent.data() + kPartsAhead), __builtin_prefetch(expected.data() + kPartsAhead);
  if (sender.exchange_->lane != exchange_->lane) {
    note("message", "rank " + std::to_string(sender.rank_) + " sends on lane " +
                        std::to_string(sender.exchange_->lane) + " (its instruction " +
                        std::to_string(sender.instruction()) + "), but lane " + std::to_string(exchange_->lane) +
                        " is expected");
  }
  if (sender.backward_ != backward_) {
    note("message", "rank " + std::to_string(sender.rank_) + " sends in its " +
                        (sender.backward_ ? "backward" : "forward") + " phase (its instruction " +
                        std::to_string(sender.instruction()) + "), but this is the " +
                        (backward_ ? "backward" : "forward") + " phase");
  }
  if (sent.size() != expected.size()) {
    note("message", "rank " + std::to_string(sender.rank_) + " sends " + std::to_string(sent.size()) +
                        (sent.size() == 1 ? " part" : " parts") + " (its instruction " +
                        std::to_string(sender.instruction()) + "), but " + std::to_string(expected.size()) +
                        (expected.size() == 1 ? " is" : " are") + " expected");
  }
  for (size_t n = 0; n < std::min(sent.size(), expected.size()); ++n) {
    const Slice &from = sent[n].slice, &to = expected[n].slice;
    if (from.tokens != to.tokens || from.heads != to.heads || from.fields != to.fields) {
      note("message", "rank " + std::to_string(sender.rank_) + " sends " + describe(from) + " (its instruction " +
                          std::to_string(sender.instruction()) + "), but " + describe(to) + " is expected");
      continue;
    }
    const size_t a = static_cast<size_t>(from.value), b = static_cast<size_t>(to.value);
    if (a >= sender.values_.size() || b >= values_.size()) continue;
    ValueState &source = sender.values_[a], &target = values_[b];
    if (!source.exists || !target.exists) continue;
    if ((source.form == Form::accumulating) != (target.form == Form::accumulating)) {
      note("message", "rank " + std::to_string(sender.rank_) + " sends " + name_of(source.form) + " " + describe(from) +
                          ", but it is received as the other form");
      continue;
    }
    if (target.form != Form::accumulating) {  // whole values become defined in complete_exchange
      if (trace_ && trace_->concerns_state(to.fields, sets, to.heads, sets[to.tokens])) {
        trace_->events.push_back({sender.rank_, sender.instruction(), "sent to rank " + std::to_string(rank_)});
      }
      continue;
    }
    take(source, target, to, expected[n].combine == Combine::copy, sets);
    if (!trace_) continue;
    source.contributions.for_each(sets, {query_heads(to, sets), to.tokens}, [&](Box box, const IntervalSet& other) {
      if (!trace_->concerns(to.fields, sets, box.heads, box.own, other)) return;
      trace_->events.push_back({sender.rank_, sender.instruction(), "sent to rank " + std::to_string(rank_)});
    });
  }
}

void RankRun::complete_exchange() {
  const Instruction& i = *exchange_;
  // To oneself: the k-th part sent is the k-th received.
  const auto own = [&](std::span<const Part> parts) {
    const auto is_own = [&](const Part& part) { return part.peer == rank_; };
    const auto begin = std::find_if(parts.begin(), parts.end(), is_own);
    const auto end = std::find_if_not(begin, parts.end(), is_own);
    return std::span<const Part>(begin, end);
  };
  const auto sent = own(block_.outgoing(i)), expected = own(block_.incoming(i));
  if (!sent.empty() || !expected.empty()) receive(*this, sent, expected, pool_);
  for (const Part& part : block_.incoming(i)) {
    const size_t id = static_cast<size_t>(part.slice.value);
    if (id >= values_.size() || !values_[id].exists || values_[id].form == Form::accumulating) continue;
    if (!values_[id].defined.define(pool_, part.slice, values_[id].all)) {
      note("lifetime", describe(part.slice) + " is received, but was written before");
    }
  }
  exchange_ = nullptr;
}

void RankRun::complete_flight(uint64_t number) {
  std::erase_if(flights_, [&](const FlightState& flight) {
    if (flight.number != number) return false;
    add_live(-flight.staging);
    if (flight.computes_before == computes_) {
      report_.exposed_bytes += flight.received;
      if (backward_) report_.exposed_backward += flight.received;
    }
    return true;
  });
  std::erase_if(held_by_, [&](const HeldBy& by) {
    if (by.flight != number) return false;
    if (--held_[by.held].pending == 0) add_live(-held_[by.held].bytes);
    return true;
  });
  if (held_by_.empty()) held_.clear();
}

}  // namespace weft::verify_internal
