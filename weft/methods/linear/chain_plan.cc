#include "weft/methods/linear/chain_plan.h"

#include <queue>
#include <tuple>

namespace weft::methods {
namespace {

constexpr int64_t kScan = 100;  // the unit of times

}  // namespace

// One way through, for a number of blocks ahead.
class ChainPlay {
 public:
  using Kind = ChainWork::Kind;
  ChainPlay(const ChainPlan& plan, int ahead, bool early)
      : plan_(plan),
        ahead_(ahead),
        early_(early),
        ranks_(static_cast<size_t>(plan.ranks_)),
        done_(static_cast<size_t>(plan.fragments_.count()) * static_cast<size_t>(plan.blocks_)) {}

  // When the last rank is done.
  int64_t play();
  std::vector<std::vector<ChainWork>> programs();

 private:
  struct Block {
    bool arrived = false, summarised = false;
  };
  // Of what is ready the first comes first: summaries, then what others wait for; by block, then what is farthest on its way.
  using Ready = std::tuple<int, int, int, Kind, int>;  // class, block, place, kind, fragment
  static constexpr int kLast = 2;                      // class of what nobody waits for
  struct Rank {
    std::vector<ChainWork> program;
    size_t last_work = 0;  // where a receive may be begun: before the last summary or scan
    std::priority_queue<Ready, std::vector<Ready>, std::greater<>> ready;
    std::vector<ChainWork> arrived;  // and not noticed; in the order in which they were sent
    bool busy = false, waits = false;
    ChainWork at{};
    int awaited = 0;  // what others wait for and is not begun
  };
  using Event = std::tuple<int64_t, int64_t, int>;  // time, number, rank

  const Fragment& fragment(int f) const { return plan_.fragments_[f]; }
  Rank& rank_of(int f) { return ranks_[static_cast<size_t>(fragment(f).rank)]; }
  Block& block(const ChainWork& work) {
    return done_[static_cast<size_t>(work.fragment) * static_cast<size_t>(plan_.blocks_) +
                 static_cast<size_t>(work.block)];
  }
  // Whether what leaves is made ahead of the scan.
  bool leaves_ahead(const ChainWork& work) const { return work.block < ahead_ && plan_.leaves(work.fragment); }
  bool waits_to_pass(const ChainWork& work) const { return leaves_ahead(work) && fragment(work.fragment).crossed(); }
  void add_ready(Kind kind, const ChainWork& work);
  void notice(Rank& rank);
  void finish(Rank& rank);
  void pass(const ChainWork& work);
  void start(Rank& rank, int number);
  int64_t time_of(const ChainWork& work) const;
  void wake(int64_t time, int rank) { events_.emplace(time, ++issued_, rank); }

  const ChainPlan& plan_;
  const int ahead_;
  const bool early_;
  std::vector<Rank> ranks_;
  std::vector<Block> done_;  // by fragment and block
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  int64_t issued_ = 0, now_ = 0;
};

void ChainPlay::add_ready(Kind kind, const ChainWork& work) {
  const bool awaited = kind == Kind::summarise || (plan_.leaves(work.fragment) && !leaves_ahead(work));
  const int order = kind == Kind::summarise ? 0 : awaited ? 1 : kLast;
  rank_of(work.fragment).ready.emplace(order, work.block, -plan_.towards_ * work.fragment, kind, work.fragment);
}

int64_t ChainPlay::time_of(const ChainWork& work) const {
  const Fragment& f = fragment(work.fragment);
  const int64_t blocks = plan_.blocks_of(work.fragment),
                heads = plan_.heads_ * (work.block + 1) / blocks - plan_.heads_ * work.block / blocks;
  if (work.kind == Kind::scan) return kScan * heads * f.tokens.size();
  const Range summed = plan_.towards_ > 0 ? f.tail : f.head;
  return heads * (plan_.work_.summary * summed.size() + (f.crossed() ? plan_.work_.transition * f.tokens.size() : 0));
}

// What has come is received, in the order in which it was sent, before anything else is sent: so no two ranks ever wait for
// one another, even if every message waited for its receiver.
void ChainPlay::notice(Rank& rank) {
  std::vector<ChainWork> arrived;
  std::swap(arrived, rank.arrived);
  for (const ChainWork& work : arrived) {
    if (fragment(work.fragment - plan_.towards_).rank == fragment(work.fragment).rank) continue;
    const auto at = early_ ? rank.program.begin() + static_cast<int64_t>(rank.last_work++) : rank.program.end();
    rank.program.insert(at, {Kind::receive, work.fragment, work.block});
  }
  for (const ChainWork& work : arrived) {
    block(work).arrived = true;
    add_ready(Kind::scan, work);
    if (waits_to_pass(work) && block(work).summarised) pass(work);
  }
}

void ChainPlay::pass(const ChainWork& work) {
  Rank& rank = rank_of(work.fragment);
  rank.program.push_back({Kind::pass, work.fragment, work.block});
  const int next = work.fragment + plan_.towards_;
  Rank& to = rank_of(next);
  to.arrived.push_back({Kind::receive, next, work.block});
  if (&to == &rank) return notice(rank);
  if (!to.busy) wake(now_, fragment(next).rank);
}

void ChainPlay::finish(Rank& rank) {
  if (!std::exchange(rank.busy, false)) return;
  const ChainWork work = rank.at;
  if (work.kind == Kind::summarise) {
    block(work).summarised = true;
    if (!waits_to_pass(work) || block(work).arrived) pass(work);
  } else if (plan_.leaves(work.fragment) && !leaves_ahead(work)) {
    pass(work);
  }
}

void ChainPlay::start(Rank& rank, int number) {
  if (rank.busy || rank.ready.empty()) return;
  const auto [order, block, place, kind, at] = rank.ready.top();
  // What others wait for may be about to come: a moment is less than a block.
  if (order == kLast && rank.awaited > 0 && !std::exchange(rank.waits, true))
    return wake(now_ + time_of({kind, at, block}) / 16 + 1, number);
  rank.waits = false;
  rank.ready.pop();
  if (order == 1) --rank.awaited;
  rank.at = {kind, at, block}, rank.busy = true;
  rank.last_work = rank.program.size();
  rank.program.push_back(rank.at);
  wake(now_ + time_of(rank.at), number);
}

int64_t ChainPlay::play() {
  for (int f = 0; f < plan_.fragments_.count(); ++f) {
    for (int n = 0; n < plan_.blocks_of(f); ++n) {
      const ChainWork work{Kind::scan, f, n};
      if (leaves_ahead(work)) add_ready(Kind::summarise, work);
      if (plan_.leaves(f) && !leaves_ahead(work)) ++rank_of(f).awaited;
      if (!plan_.enters(f)) add_ready(Kind::scan, work);
    }
  }
  std::vector<int64_t> free_at(ranks_.size(), 0);
  for (int r = 0; r < plan_.ranks_; ++r) wake(0, r);
  while (!events_.empty()) {
    const auto [time, number, r] = events_.top();
    events_.pop();
    Rank& rank = ranks_[static_cast<size_t>(r)];
    now_ = time;
    if (rank.busy && time < free_at[static_cast<size_t>(r)]) continue;  // woken while it works
    notice(rank);
    finish(rank);
    start(rank, r);
    if (rank.busy) free_at[static_cast<size_t>(r)] = now_ + time_of(rank.at);
  }
  return now_;
}

std::vector<std::vector<ChainWork>> ChainPlay::programs() {
  std::vector<std::vector<ChainWork>> list;
  for (Rank& rank : ranks_) list.push_back(std::move(rank.program));
  return list;
}

bool ChainPlan::enters(int fragment) const {
  const Fragment& f = fragments_[fragment];
  return !(towards_ > 0 ? f.before : f.after).empty();
}

bool ChainPlan::leaves(int fragment) const {
  const Fragment& f = fragments_[fragment];
  return !(towards_ > 0 ? f.after : f.before).empty();
}

// The most fragments one after the other into which something enters.
int ChainPlan::borders_in_a_row() const {
  int most = 0, row = 0;
  for (int f = 0; f < fragments_.count(); ++f) most = std::max(most, row = enters(f) ? row + 1 : 0);
  return most;
}

// Whether what is sent goes up the ranks only, or down, from each to one and to each from one. Then nobody can wait for himself,
// and receives may begin before they are due.
bool ChainPlan::is_a_path() const {
  std::vector<int> to(static_cast<size_t>(ranks_), -1), from(to);
  for (int f = 0; f < fragments_.count(); ++f) {
    if (!leaves(f)) continue;
    const int sender = fragments_[f].rank, receiver = fragments_[f + towards_].rank;
    if ((receiver - sender) * towards_ <= 0) return false;
    int &next = to[static_cast<size_t>(sender)], &last = from[static_cast<size_t>(receiver)];
    if ((next >= 0 && next != receiver) || (last >= 0 && last != sender)) return false;
    next = receiver, last = sender;
  }
  return true;
}

ChainPlan::ChainPlan(const Problem& problem, const Fragments& fragments, int blocks, int towards)
    : fragments_(fragments),
      heads_(problem.heads),
      ranks_(problem.ranks()),
      blocks_(blocks),
      towards_(towards),
      work_(linear_work(problem.layer, towards < 0)) {
  // States made ahead are sums in another order than those that leave scans: canonical results have none of them.
  const bool canonical = problem.canonical_tile != 0;
  const int row = borders_in_a_row(), most = canonical ? 0 : std::min(blocks, row);
  const bool path = is_a_path();
  int64_t least = -1;
  // In a row much longer than the blocks are many, waiting costs more than all summaries.
  for (int ahead = row >= 2 * blocks ? most : 0;; ahead = std::min(most, std::max(1, 2 * ahead))) {
    ChainPlay play(*this, ahead, path);
    const int64_t time = play.play();
    if (least < 0 || time < least) least = time, ahead_ = ahead, programs_ = play.programs();
    if (ahead == most) break;
  }
  time_ = static_cast<double>(least) / kScan;
}

}  // namespace weft::methods
