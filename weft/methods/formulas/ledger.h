// Ledger: what one rank holds and sends, told in sizes alone.
//
// Where values of many sizes come and go in flight of one another, no expression says which moment holds most. Then a
// formula walks through the steps of a rank as its writer does, with a number of bytes in place of each value, and the
// ledger keeps the books by the rules of schedule/dependencies.h. Values are used as a whole: a formula whose uses of one
// value touch different rows says so by leaving a use out.
//
//   const auto walk = [&](Ledger& ledger, int64_t rank) { Ledger::Id kv = ledger.make(rows * row.kv); ... };
//   count_ranks(f, ranks, shares.full, steps, walk);  // or a reason why not
#pragma once

#include <array>
#include <initializer_list>
#include <span>
#include <vector>

#include "weft/methods/formulas/parts.h"

namespace weft::methods {

class Ledger {
 public:
  using Id = int;  // of a value; 0: none, which every call ignores
  struct Out {
    Id value;
    int64_t bytes, packed = 0;  // in the message, and of the copy that is packed for it
    int messages = 1;           // 0: it joins one of another part; with several peers they are more
  };
  struct In {
    Id value;
    int64_t bytes, staged = 0;  // in the message, and of the buffer where what is combined arrives
  };
  using Ids = std::initializer_list<Id>;

  // A value; none where there are no bytes.
  Id make(int64_t bytes);
  void drop(Id& value);
  // `into` takes over the value of `from` and drops its own.
  void move(Id& from, Id& into);
  // Attention; and everything else that reads and writes.
  void attend(Ids reads, Ids writes);
  void use(Ids reads, Ids writes);
  void exchange(int lane, std::span<const Out> out, std::span<const In> in);
  void exchange(int lane, std::initializer_list<Out> out, std::initializer_list<In> in) {
    exchange(lane, std::span(out.begin(), out.size()), std::span(in.begin(), in.size()));
  }
  void wait(int lane);
  // The second phase; also the end of the program.
  void begin_phase();

  struct Phase {
    int64_t messages = 0, bytes = 0, exposed = 0;
  };
  const Phase& phase(int i) const { return phases_[static_cast<size_t>(i)]; }
  int64_t most() const { return most_; }

 private:
  using Serial = uint32_t;  // of an exchange: 1, 2, ...
  static constexpr size_t kLanes = 4;
  using Newest = std::array<Serial, kLanes>;  // on each lane
  struct Value {
    int64_t bytes = 0;
    int readers = 0;  // exchanges in flight
    bool ended = false;
    Newest read{}, written{};
  };
  struct Flight {
    Serial serial = 0;
    size_t lane = 0;
    int64_t staged = 0, received = 0, attended = 0;
    std::vector<Id> reads;
  };

  Value& at(Id id) { return values_[static_cast<size_t>(id)]; }
  void hold(int64_t bytes) { most_ = std::max(most_, held_ += bytes); }
  // Exchanges that are due before a value is read, and before it is written.
  void await(const Newest& newest);
  void await_read(Id id) { await(at(id).written); }
  void await_written(Id id) { await(at(id).written), await(at(id).read); }
  // Completes what is due, and what was issued before it on its lane.
  void complete_due();
  void land(const Flight& flight);
  void release(Id id);

  std::vector<Value> values_{1};
  std::vector<Id> free_;
  std::vector<Flight> flights_;  // oldest first; those from in_flight_ on are spare
  size_t in_flight_ = 0;
  Serial issued_ = 0;
  Newest due_{};
  std::array<Phase, 3> phases_;
  size_t phase_ = 0;
  int64_t held_ = 0, most_ = 0, attended_ = 0;
};

// Why no formula walks through so many steps of every rank, or of one where all are `alike`; null where it does.
inline const char* why_not_walked(int64_t ranks, bool alike, int64_t steps) {
  constexpr int64_t kMost = int64_t{1} << 22;  // a second or two
  return steps <= kMost / (alike ? 1 : ranks) ? nullptr : "no closed form for so many ranks: too many steps to walk";
}

// Calls walk(ledger, rank) for every rank, for the first where all are `alike`, and enters what the ledgers say; or a
// reason, where the `steps` of a rank are too many.
template <typename F>
void count_ranks(Formula& f, int64_t ranks, bool alike, int64_t steps, F&& walk) {
  if (const char* reason = why_not_walked(ranks, alike, steps)) {
    f = no_formula(reason);
    return;
  }
  const int64_t walked = alike ? 1 : ranks;
  const auto add = [&](Amount& amount, int64_t mine) {
    amount.total += ranks / walked * mine;
    amount.busiest = std::max(amount.busiest, mine);
  };
  for (int64_t rank = 0; rank < walked; ++rank) {
    Ledger ledger;
    walk(ledger, rank);
    ledger.begin_phase();
    for (int i = 0; i < 2; ++i) {
      PhaseCost& cost = i == 0 ? f.forward : f.backward;
      add(cost.messages, ledger.phase(i).messages);
      add(cost.bytes, ledger.phase(i).bytes);
      add(cost.exposed_bytes, ledger.phase(i).exposed);
    }
    f.live_bytes = std::max(f.live_bytes, ledger.most());
  }
}

}  // namespace weft::methods
