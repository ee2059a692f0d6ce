// What mercury.cc costs: members of a team fetch queries of one another, keys ring between teams, sums go home in teams.
#include <vector>

#include "weft/methods/formulas/formulas.h"
#include "weft/methods/formulas/ledger.h"
#include "weft/methods/formulas/ring.h"

namespace weft::methods {
namespace {

using Id = Ledger::Id;

// Bytes of a row of queries that a team shares, of its sums, of those on the way and packed for it.
struct Shared {
  int64_t block, sums, sent, packed;
};

// Who needs what of whom: keys between teams, queries inside one.
struct TeamShapes {
  int64_t size, count;
  bool adjacent;
  int direction;
  const Shares& shares;

  int64_t team_of(int64_t rank) const { return adjacent ? rank / size : rank % count; }
  int64_t member_of(int64_t rank) const { return adjacent ? rank % size : rank / count; }
  // Of the keys of a member by the teams before and after its own. Where members are not adjacent, nearly every team has
  // ranks on both sides.
  Needed keys(int64_t member) const {
    if (adjacent) return shares.keys;
    return {member + 1 < size ? shares.keys.most() : shares.keys.by_before,
            member > 0 ? shares.keys.most() : shares.keys.by_after};
  }
  // Of the queries of `owner` by the keys on the ring of another member.
  int64_t queries(int64_t team, int64_t owner, int64_t member) const {
    const bool before = member < owner || (adjacent && team > 0);
    const bool after = member > owner || (adjacent && team + 1 < count);
    return std::max(before ? shares.queries.by_before : 0, after ? shares.queries.by_after : 0);
  }
  // Pairs of a team's queries and a ring's keys. A zigzag has as many of any two ranks; striped shards have one key more for
  // each query of the ranks from the keys' owner on.
  int64_t pairs(int64_t rank) const {
    const int64_t team = team_of(rank), member = member_of(rank), rows = shares.rows;
    const int64_t from_owner = adjacent ? size * team + size - member : (size - 1 - member) * count + team + 1;
    return shares.ranks * (rows * (rows - 1) / 2) + rows * from_owner;
  }
};

class MercuryRank {
 public:
  MercuryRank(const TeamShapes& teams, const RowBytes& row, int64_t rank, Ledger& ledger)
      : teams_(teams),
        row_(row),
        rows_(teams.shares.rows),
        team_(teams.team_of(rank)),
        member_(teams.member_of(rank)),
        place_(teams.direction > 0 ? teams.count - 1 - team_ : team_),
        need_(teams.direction > 0 ? teams.keys(member_).mirrored() : teams.keys(member_)),
        ledger_(ledger) {}

  void forward() {
    const Shared moving{row_.q, row_.partial, row_.sent_partial, row_.packed_partial};
    Id q = ledger_.make(rows_ * row_.q), kv = ledger_.make(rows_ * row_.kv), acc = ledger_.make(rows_ * row_.partial);
    gather(moving, q);
    ledger_.attend({q, kv}, {acc});
    for (int64_t t = 0; t < teams_.count; ++t) {
      const Id block = t == 0 ? kv : last_;
      Id next = 0;
      if (t + 1 < teams_.count) {
        const int64_t left = teams_.count - 1 - t;
        const int64_t sent = ahead(place_ + t, left) * row_.kv, coming = ahead(place_ + t + 1, left) * row_.kv;
        next = ledger_.make(coming);
        ledger_.exchange(0, {{block, sent}}, {{next, coming}});
      }
      attend(t, block, 0);
      if (next != 0) ledger_.move(next, last_);
    }
    return_sums(moving, acc);
    finish(acc, row_.out);
    ledger_.drop(acc), ledger_.drop(q), ledger_.drop(kv);
  }
  // Of the block held last, which backward begins with.
  int64_t saved() const { return teams_.count > 1 ? ahead(place_ - 1, 1) * row_.kv : 0; }

  void backward() {
    ledger_.begin_phase();
    const Shared moving{row_.bundle, row_.dq, row_.sent_dq, row_.packed_dq};
    Id kv = ledger_.make(rows_ * row_.kv), dq = ledger_.make(rows_ * row_.dq);
    const Id queries = ledger_.make(rows_ * (row_.q + row_.out + row_.dout + row_.delta));
    gather(moving, queries);
    Id block = teams_.count > 1 ? last_ : kv;
    Id sums = ledger_.make((teams_.count > 1 ? ahead(place_ - 1, 1) : rows_) * row_.dkv);
    ledger_.attend({block}, {sums});
    for (int64_t t = 0; t < teams_.count; ++t) pass_back(t, kv, block, sums);
    return_sums(moving, dq);
    finish(sums, row_.dkv_done);
    finish(dq, row_.dq_done);
  }

 private:
  int64_t ahead(int64_t owner, int64_t count) const { return ring_rows_ahead(need_, teams_.count, owner, count); }
  int64_t my_queries(int64_t member) const { return teams_.queries(team_, member_, member); }
  int64_t queries_of(int64_t member) const { return teams_.queries(team_, member, member_); }
  template <typename F>
  void for_each_other(F&& f) const {
    for (int64_t member = 0; member < teams_.size; ++member) {
      if (member != member_) f(member);
    }
  }

  void gather(const Shared& row, Id own) {
    out_.clear(), in_.clear();
    for_each_other([&](int64_t member) {
      const int64_t bytes = queries_of(member) * row.block;
      fetched_.push_back(ledger_.make(bytes));
      sums_.push_back(ledger_.make(queries_of(member) * row.sums));
      out_.push_back({own, my_queries(member) * row.block});
      in_.push_back({fetched_.back(), bytes});
    });
    ledger_.exchange(2, out_, in_);
  }

  void return_sums(const Shared& row, Id home) {
    out_.clear(), in_.clear();
    size_t next = 0;
    for_each_other([&](int64_t member) {
      const int64_t mine = my_queries(member), theirs = queries_of(member);
      out_.push_back({sums_[next++], theirs * row.sent, theirs * row.packed});
      in_.push_back({home, mine * row.sent, mine * row.sent});
    });
    ledger_.exchange(2, out_, in_);
    for (std::vector<Id>* values : {&fetched_, &sums_}) {
      for (Id& id : *values) ledger_.drop(id);
      values->clear();
    }
  }

  // The own queries have their turn with the first block before its ring step.
  void attend(int64_t t, Id block, Id sums) {
    if (t == 0 && fetched_.empty()) return;
    for (Id id : fetched_) ledger_.use({id}, {});
    ledger_.attend({block}, {sums});
  }

  // RingPass::backward in direction -1; `block` is that of place_ - t - 1.
  void pass_back(int64_t t, Id kv, Id& block, Id& sums) {
    const int64_t count = teams_.count, owner = place_ - t - 2;
    Id next = t + 2 == count ? kv : 0;
    const int64_t arriving = t + 1 < count ? ahead(owner, t + 1) : 0,
                  needed = t + 2 < count ? ahead(owner, t + 2) : rows_;
    if (t + 2 < count) {
      next = ledger_.make(needed * row_.kv);
      const int64_t rejoining = ahead(place_, t + 2) - ahead(place_, t + 1);
      ledger_.exchange(0, {{block, ahead(place_ - t - 1, t + 1) * row_.kv}, {kv, rejoining * row_.kv}},
                       {{next, needed * row_.kv}});
    }
    if (t == 0) {
      attend(t, block, sums);
    } else {
      const int64_t mine = t + 1 < count ? need_.by(place_, (place_ - t - 1 + count) % count) : rows_;
      Id part = ledger_.make(mine * row_.dkv);
      attend(t, block, part);
      ledger_.use({part}, {sums});
      ledger_.drop(part);
    }
    if (t + 1 == count) return;
    const int64_t leaving = ahead(place_ - t - 1, t + 1);
    Id home = ledger_.make(needed * row_.dkv);
    ledger_.exchange(1, {{sums, leaving * row_.sent_dkv, leaving * row_.packed_dkv}},
                     {{home, arriving * row_.sent_dkv}});
    ledger_.move(home, sums);
    ledger_.drop(block);
    block = next;
  }

  void finish(Id sums, int64_t bytes) {
    Id done = ledger_.make(rows_ * bytes);
    ledger_.use({sums}, {});
    ledger_.drop(done);
  }

  const TeamShapes& teams_;
  const RowBytes& row_;
  int64_t rows_, team_, member_, place_;
  Needed need_;
  Ledger& ledger_;
  Id last_ = 0;
  std::vector<Id> fetched_, sums_;
  std::vector<Ledger::Out> out_;
  std::vector<Ledger::In> in_;
};

}  // namespace

Formula mercury_formula(const Configuration& c, int size, bool adjacent, int direction) {
  Formula f;
  const Shares shares = share_rows(c, "zigzag", f);
  if (!f.known()) return f;
  if (c.ranks > 1 && (shares.keys.by_before == 0 || shares.keys.by_after == 0)) {
    return no_formula("no closed form where some ranks need nothing of others");
  }
  const TeamShapes teams{size, c.ranks / size, adjacent, direction, shares};
  const RowBytes row(c);
  f.forward.steps = teams.count + (size > 1);
  f.forward.work = shares.work;
  if (c.mask.causal && c.layout == "striped") {
    f.forward.work = over_all(c.ranks, [&](int64_t rank) { return teams.pairs(rank) * c.heads; });
  }
  if (c.backward) f.backward.steps = f.forward.steps, f.backward.work = f.forward.work;
  const auto walk = [&](Ledger& ledger, int64_t rank) {
    MercuryRank mine(teams, row, rank, ledger);
    mine.forward();
    if (!c.backward) return;
    f.saved_bytes = std::max(f.saved_bytes, mine.saved());
    mine.backward();
  };
  count_ranks(f, c.ranks, shares.full, teams.count + size, walk);
  return f;
}

}  // namespace weft::methods
