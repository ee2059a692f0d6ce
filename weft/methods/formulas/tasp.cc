// What tasp.cc costs: pieces of key-value blocks, each on a ring of its own, and their sums one step behind.
#include <vector>

#include "weft/methods/formulas/formulas.h"
#include "weft/methods/formulas/ledger.h"
#include "weft/methods/passes/hamilton.h"

namespace weft::methods {
namespace {

// What is needed of the piece that an owner sends round a ring, by how far away ranks before and after the owner are met
// first and last.
class PieceRows {
 public:
  PieceRows(const Tour& tour, size_t place, Needed piece) : piece_(piece) {
    const int ranks = static_cast<int>(tour.size()), owner = tour[place];
    const auto is_before = [&](int distance) {
      const size_t at = place + static_cast<size_t>(distance);
      return tour[at < tour.size() ? at : at - tour.size()] < owner;
    };
    const bool has_before = owner > 0, has_after = owner + 1 < ranks;
    for (int d = 1; (has_before && before_.first == 0) || (has_after && after_.first == 0); ++d) {
      int& first = is_before(d) ? before_.first : after_.first;
      if (first == 0) first = d;
    }
    for (int d = ranks - 1; (has_before && before_.last == 0) || (has_after && after_.last == 0); --d) {
      int& last = is_before(d) ? before_.last : after_.last;
      if (last == 0) last = d;
    }
  }

  // By the ranks at least, and at most, so far after the owner.
  int64_t ahead(int distance) const {
    return std::max(before_.last >= distance ? piece_.by_before : 0, after_.last >= distance ? piece_.by_after : 0);
  }
  int64_t so_far(int distance) const {
    return std::max(before_.is_met(distance) ? piece_.by_before : 0, after_.is_met(distance) ? piece_.by_after : 0);
  }

 private:
  struct Met {
    int first = 0, last = 0;  // 0: never
    bool is_met(int distance) const { return first > 0 && first <= distance; }
  };
  Needed piece_;
  Met before_, after_;
};

// All rings, and what is needed of all pieces.
class Rings {
 public:
  Rings(std::vector<Tour> tours, Needed piece) : tours_(std::move(tours)), piece_(piece) {
    for (const Tour& tour : tours_) {
      std::vector<size_t>& places = places_.emplace_back(tour.size());
      for (size_t place = 0; place < tour.size(); ++place) {
        places[static_cast<size_t>(tour[place])] = place;
        needs_.emplace_back(tour, place, piece);
      }
    }
  }
  size_t count() const { return tours_.size(); }
  int ranks() const { return static_cast<int>(tours_[0].size()); }
  // The place on a ring of the owner whose piece a rank holds in step t.
  size_t owner_place(size_t ring, int64_t rank, int t) const {
    const size_t place = places_[ring][static_cast<size_t>(rank)], back = static_cast<size_t>(t);
    return place >= back ? place - back : place + tours_[ring].size() - back;
  }
  const PieceRows& needs(size_t ring, size_t place) const { return needs_[ring * tours_[ring].size() + place]; }
  int64_t needed_by(int64_t rank, size_t ring, size_t place) const { return piece_.by(rank, tours_[ring][place]); }

 private:
  std::vector<Tour> tours_;
  Needed piece_;
  std::vector<std::vector<size_t>> places_;  // by ring and rank
  std::vector<PieceRows> needs_;             // by ring and place of the owner
};

// What one value of a rank is of in one step: a piece, or those of all rings.
struct HeldBytes {
  int64_t keys = 0, going_on = 0;            // rows; those that the next rank gets
  int64_t arriving = 0, sums = 0, mine = 0;  // rows of sums: that come, with mine, that I add
  int messages_of_keys = 0, messages_of_sums = 0;
  bool adds_to_arriving = false;

  void add(const Rings& rings, size_t ring, int64_t rank, int t) {
    const size_t owner = rings.owner_place(ring, rank, t);
    const PieceRows& needs = rings.needs(ring, owner);
    const int64_t onward = needs.ahead(t + 1);
    going_on += onward;
    messages_of_keys += onward > 0;
    if (t == 0) return;
    const int64_t came = needs.so_far(t - 1), here = needs.so_far(t), my_own = rings.needed_by(rank, ring, owner);
    keys += needs.ahead(t);
    arriving += came, sums += here, mine += my_own;
    messages_of_sums += here > 0;
    adds_to_arriving |= came > 0 && my_own > 0;
  }
};

class TaspRank {
 public:
  using Id = Ledger::Id;

  TaspRank(const Rings& rings, bool joined, const RowBytes& row, int64_t rank, Ledger& ledger)
      : rings_(rings), row_(row), ledger_(ledger), groups_(joined ? 1 : rings.count()) {
    for (size_t i = 0; i < rings.count(); ++i) {
      Group& group = groups_[joined ? 0 : i];
      group.steps.resize(static_cast<size_t>(rings.ranks()));
      for (int t = 0; t < rings.ranks(); ++t) group.at(t).add(rings, i, rank, t);
      const PieceRows& mine = rings.needs(i, rings.owner_place(i, rank, 0));
      coming_home_ += mine.so_far(rings.ranks() - 1);
    }
  }

  // Without and with sums, which end in `home`.
  void go_round(Id own, Id home) {
    for (int t = 0; t < rings_.ranks(); ++t) {
      pass_keys(t, own);
      if (home != 0 && t > 1) pass_sums(t);
      attend(t, home);
      for (Group& group : groups_) {
        if (home != 0) settle(group, t);
        ledger_.move(group.next_keys, group.keys);
      }
    }
    if (home != 0) bring_home(home);
  }

 private:
  struct Group {
    std::vector<HeldBytes> steps;
    Id keys = 0, next_keys = 0, sums = 0, part = 0;

    const HeldBytes& at(int t) const { return steps[static_cast<size_t>(t)]; }
    HeldBytes& at(int t) { return steps[static_cast<size_t>(t)]; }
  };

  void pass_keys(int t, Id own) {
    if (t + 1 == rings_.ranks()) return;
    out_.clear(), in_.clear();
    for (Group& group : groups_) {
      const HeldBytes& now = group.at(t);
      const int64_t coming = group.at(t + 1).keys * row_.kv;
      group.next_keys = ledger_.make(coming);
      in_.push_back({group.next_keys, coming});
      out_.push_back({t == 0 ? own : group.keys, now.going_on * row_.kv, 0, now.messages_of_keys});
    }
    ledger_.exchange(0, out_, in_);
  }

  void send_sums(Group& group, int t) {
    const HeldBytes& then = group.at(t);
    out_.push_back({group.sums, then.sums * row_.sent_dkv, then.sums * row_.packed_dkv, then.messages_of_sums});
  }

  void pass_sums(int t) {
    if (std::exchange(unanswered_, true)) ledger_.wait(1);
    out_.clear(), in_.clear(), sent_.clear();
    for (Group& group : groups_) {
      const HeldBytes& now = group.at(t);
      send_sums(group, t - 1);
      sent_.push_back(std::exchange(group.sums, 0));
      if (now.arriving == 0) continue;
      group.sums = ledger_.make(now.sums * row_.dkv);
      in_.push_back({group.sums, now.arriving * row_.sent_dkv});
      unanswered_ = false;
    }
    ledger_.exchange(1, out_, in_);
    for (Id& id : sent_) ledger_.drop(id);
  }

  void attend(int t, Id home) {
    if (t == 0) return ledger_.attend({}, {home});
    int64_t mine = 0;
    Id keys = 0;  // one value stands for all: they arrived together
    for (Group& group : groups_) {
      if (home != 0) group.part = ledger_.make(group.at(t).mine * row_.dkv);
      mine += group.at(t).mine;
      if (group.keys != 0) keys = group.keys;
    }
    if (mine > 0) ledger_.attend({keys}, {});
  }

  void settle(Group& group, int t) {
    if (group.sums == 0) {
      group.sums = std::exchange(group.part, 0);
    } else if (group.at(t).adds_to_arriving) {
      ledger_.use({}, {group.sums});
    }
    ledger_.drop(group.part);
  }

  void bring_home(Id home) {
    out_.clear(), in_.clear();
    for (Group& group : groups_) send_sums(group, rings_.ranks() - 1);
    in_.push_back({home, coming_home_ * row_.sent_dkv, coming_home_ * row_.sent_dkv});
    ledger_.exchange(1, out_, in_);
    for (Group& group : groups_) ledger_.drop(group.sums);
  }

  const Rings& rings_;
  const RowBytes& row_;
  Ledger& ledger_;
  std::vector<Group> groups_;
  int64_t coming_home_ = 0;
  bool unanswered_ = false;
  std::vector<Id> sent_;
  std::vector<Ledger::Out> out_;
  std::vector<Ledger::In> in_;
};

}  // namespace

Formula tasp_formula(const Configuration& c, int nodes, int rings, bool joined) {
  Formula f;
  const Shares shares = share_rows(c, "zigzag", f, 1, rings);
  if (!f.known()) return f;
  const int64_t ranks = c.ranks, rows = shares.rows, local = ranks / nodes;
  if (const char* reason = why_not_walked(ranks, shares.full, std::max(ranks * rings, nodes > 1 ? local * local : 0))) {
    return no_formula(reason);
  }
  // Pieces that are not of whole rows count in parts of a row, unless there are so many rows that it makes no difference.
  const int64_t scale = f.exact || rows > (1 << 20) ? 1 : rings;
  const Needed piece{shares.keys.by_before * scale / rings, shares.keys.by_after * scale / rings};
  const Rings all(rings_over_nodes(nodes, static_cast<int>(local), rings), piece);
  const RowBytes row(c);
  f.forward.steps = ranks;
  f.forward.work = shares.work;
  if (c.backward) f.backward.steps = ranks + (ranks > 1), f.backward.work = shares.work;
  const auto walk = [&](Ledger& ledger, int64_t rank) {
    TaspRank mine(all, joined, row, rank, ledger);
    const auto finish = [&](Ledger::Id sums, int64_t bytes) {
      Ledger::Id done = ledger.make(scale * rows * bytes);
      ledger.use({sums}, {});
      ledger.drop(done);
    };
    Ledger::Id q = ledger.make(scale * rows * row.q), kv = ledger.make(scale * rows * row.kv),
               acc = ledger.make(scale * rows * row.partial);
    mine.go_round(kv, 0);
    finish(acc, row.out);
    ledger.drop(acc), ledger.drop(q), ledger.drop(kv);
    if (!c.backward) return;
    ledger.begin_phase();
    ledger.make(scale * rows * (row.backward_inputs() - row.kv));
    kv = ledger.make(scale * rows * row.kv);
    const Ledger::Id dkv = ledger.make(scale * rows * row.dkv);
    mine.go_round(kv, dkv);
    finish(0, row.dq_done);
    finish(dkv, row.dkv_done);
  };
  count_ranks(f, ranks, shares.full, ranks * rings, walk);
  for (PhaseCost* cost : {&f.forward, &f.backward}) {
    for (Amount* amount : {&cost->bytes, &cost->exposed_bytes}) amount->total /= scale, amount->busiest /= scale;
  }
  f.live_bytes /= scale;
  return f;
}

}  // namespace weft::methods
