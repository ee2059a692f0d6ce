#include "weft/verify/verify.h"

#include <algorithm>
#include <deque>

#include "weft/verify/rank_run.h"

namespace weft {
namespace {

using verify_internal::PendingMessage;
using verify_internal::RankRun;
using verify_internal::Trace;

struct TooMany {};  // thrown when enough problems have been found

// Whose turn it is among the ranks that can go on. Nothing is matched by chance, so every order proves the same; but
// what is wrong is found in the order of running.
enum class Order {
  in_turn,  // first ready, first served: findings come as far as possible in the order of the programs
  by_band,  // some turns of neighbouring ranks before the next ranks: their state stays in the cache meanwhile
};

// Ranks that can go on. By band, each rank first gets its turns 0..kBand-1, then kBand..2*kBand-1, and so on. Inside a
// band those that wait for it follow the newest rank at once: in a ring, where a turn needs the neighbours' previous
// one, a slanted front of some kBand ranks goes round.
class Ready {
 public:
  Ready(Order order, int ranks) : order_(order), turns_(static_cast<size_t>(ranks)) {
    for (int rank = 0; rank < ranks; ++rank) queue_.push_back(rank);
  }
  void push(int rank) {
    if (order_ == Order::in_turn) {
      queue_.push_back(rank);
    } else {
      (turns_[static_cast<size_t>(rank)] < band_end_ ? following_ : next_band_).push_back(rank);
    }
  }
  // The rank to run now, or -1 when none can go on.
  int pop() {
    if (following_.empty() && queue_.empty()) {
      queue_.assign(next_band_.begin(), next_band_.end());
      next_band_.clear();
      band_end_ += kBand;
    }
    int rank = -1;
    if (!following_.empty()) {
      rank = following_.back();
      following_.pop_back();
    } else if (!queue_.empty()) {
      rank = queue_.front();
      queue_.pop_front();
    } else {
      return -1;
    }
    ++turns_[static_cast<size_t>(rank)];
    return rank;
  }

 private:
  static constexpr int64_t kBand = 32;  // so many ranks' state fits into the second cache of a core

  Order order_;
  int64_t band_end_ = kBand;
  std::vector<int64_t> turns_;  // had by each rank
  std::deque<int> queue_;
  std::vector<int> following_;  // newest last
  std::vector<int> next_band_;
};

// Lets every rank run until it blocks, matches what it sends and expects, and goes on with those that are free.
class Scheduler {
 public:
  Scheduler(const Schedule& schedule, const VerifyOptions& options, int max_problems, Order order, Trace* trace)
      : schedule_(schedule), options_(options), ready_(order, schedule.ranks()) {
    const auto note = [this, max_problems](Finding finding) {
      report_.problems.push_back(std::move(finding));
      if (static_cast<int>(report_.problems.size()) >= max_problems) throw TooMany{};
    };
    for (int rank = 0; rank < schedule.ranks(); ++rank)
      ranks_.push_back(std::make_unique<RankRun>(schedule, rank, pool_, note, trace));
  }

  Report run() {
    try {
      run_all();
    } catch (const TooMany&) {}
    for (const auto& rank : ranks_) {
      report_.ranks.push_back(rank->report());
      report_.instructions += rank->instructions();
    }
    return std::move(report_);
  }

 private:
  void run_all() {
    int finished = 0;
    uint64_t turn = 0;
    for (int next = ready_.pop(); next >= 0; next = ready_.pop()) {
      if (options_.stop && turn++ % 256 == 0) options_.stop->poll();
      RankRun& rank = *ranks_[static_cast<size_t>(next)];
      if (!rank.run()) {
        ++finished;
        if (options_.progress) options_.progress(static_cast<double>(finished) / schedule_.ranks());
        continue;
      }
      match(rank);
    }
    if (finished < schedule_.ranks()) report_deadlock();
  }

  // The message among `messages` to or from a peer that has not been matched, or null.
  static PendingMessage* find(std::vector<PendingMessage>& messages, int peer) {
    const auto found = std::lower_bound(messages.begin(), messages.end(), peer,
                                        [](const PendingMessage& message, int p) { return message.peer < p; });
    return found != messages.end() && found->peer == peer && !found->matched ? &*found : nullptr;
  }

  void match(RankRun& rank) {
    const auto settle = [&](RankRun& a, RankRun& b) {
      if (--b.unmatched == 0) ready_.push(b.rank());
      --a.unmatched;
    };
    for (PendingMessage& message : rank.outgoing()) {
      RankRun& peer = *ranks_[static_cast<size_t>(message.peer)];
      PendingMessage* other = peer.unmatched > 0 ? find(peer.incoming(), rank.rank()) : nullptr;
      if (!other) continue;
      message.matched = other->matched = true;
      peer.receive(rank, message.parts, other->parts);
      settle(rank, peer);
    }
    for (PendingMessage& message : rank.incoming()) {
      RankRun& peer = *ranks_[static_cast<size_t>(message.peer)];
      PendingMessage* other = peer.unmatched > 0 ? find(peer.outgoing(), rank.rank()) : nullptr;
      if (!other) continue;
      message.matched = other->matched = true;
      rank.receive(peer, other->parts, message.parts);
      settle(rank, peer);
    }
    if (rank.unmatched == 0) ready_.push(rank.rank());
  }

  // What a blocked rank waits for, in words.
  static std::string wish(RankRun& rank, int& peer) {
    for (auto* messages : {&rank.incoming(), &rank.outgoing()}) {
      for (const PendingMessage& message : *messages) {
        if (message.matched) continue;
        peer = message.peer;
        return (messages == &rank.incoming() ? "waits for a message from rank " : "waits to send to rank ") +
               std::to_string(message.peer);
      }
    }
    return "waits";
  }

  // Follows "waits for" from a blocked rank until it ends at a finished rank or closes a cycle.
  void report_deadlock() {
    int at = 0;
    while (ranks_[static_cast<size_t>(at)]->finished()) ++at;
    std::vector<int> seen;
    std::string text;
    while (std::find(seen.begin(), seen.end(), at) == seen.end()) {
      RankRun& rank = *ranks_[static_cast<size_t>(at)];
      seen.push_back(at);
      if (seen.size() > 1) text += ", ";
      if (rank.finished()) {
        text += "rank " + std::to_string(at) + " has finished";
        break;
      }
      int peer = at;
      const std::string waits = wish(rank, peer);
      if (seen.size() <= 8)
        text += "rank " + std::to_string(at) + " at instruction " + std::to_string(rank.instruction()) + " " + waits;
      at = peer;
    }
    RankRun& first = *ranks_[static_cast<size_t>(seen.front())];
    report_.problems.push_back({first.rank(), first.instruction(), "deadlock", "nothing can go on: " + text});
  }

  const Schedule& schedule_;
  const VerifyOptions& options_;
  SetPool pool_;  // outlives the ranks
  Report report_;
  Ready ready_;
  std::vector<std::unique_ptr<RankRun>> ranks_;
};

// Where the first missing contribution went, in words.
std::string story_of(const Trace& trace) {
  if (trace.events.empty()) return "it is computed nowhere";
  std::string text;
  const size_t shown = std::min<size_t>(trace.events.size(), 6);
  for (size_t i = 0; i < shown; ++i) {
    const Trace::Event& event = trace.events[i];
    text += (i ? ", then " : "") + event.text + " on rank " + std::to_string(event.rank) + " at instruction " +
            std::to_string(event.instruction);
  }
  return text + (shown < trace.events.size() ? ", ..." : "");
}

}  // namespace

Report verify(const Schedule& schedule, const VerifyOptions& options) {
  Report banded;
  if (schedule.ranks() > options.few_ranks) {  // the state of a few fits into the cache anyway
    banded = Scheduler(schedule, options, 1, Order::by_band, nullptr).run();
    if (banded.ok()) return banded;
  }
  // In the order that explains best what is wrong, if something is.
  Report report = Scheduler(schedule, options, options.max_problems, Order::in_turn, nullptr).run();
  if (report.ok() && !banded.ok()) return banded;  // the orders disagree: nothing is proved
  const auto lacking = std::find_if(report.problems.begin(), report.problems.end(), [](const Finding& finding) {
    return finding.kind == "coverage" && finding.text.find(" lacks ") != std::string::npos;
  });
  if (lacking == report.problems.end() || !options.explain) return report;
  // Once to learn which contribution is missing first, once to follow it. Both only happen for wrong schedules.
  Trace trace;
  Scheduler(schedule, options, options.max_problems, Order::in_turn, &trace).run();
  if (trace.fields.empty()) return report;
  trace.events.clear();
  Scheduler(schedule, options, options.max_problems, Order::in_turn, &trace).run();
  lacking->text += "; the first of them: " + story_of(trace);
  return report;
}

}  // namespace weft
