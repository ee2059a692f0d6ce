#include "weft/verify/scheduler.h"

#include <algorithm>
#include <thread>

namespace weft::verify_internal {
namespace {

constexpr int kLooks = 4096;  // some microseconds
constexpr int kMany = 64;     // messages of one exchange
constexpr int kTile = 32;     // ranks whose messages with as many others stay in the cache

// The message among `messages` to or from a peer that has not been matched, or null.
PendingMessage* find(std::vector<PendingMessage>& messages, int peer) {
  auto found = messages.begin();
  const int64_t guess = messages.empty() ? 0 : int64_t{peer} - messages.front().peer;  // there, if none is left out
  if (guess >= 0 && guess < static_cast<int64_t>(messages.size()) &&
      messages[static_cast<size_t>(guess)].peer == peer) {
    found += guess;
  } else {
    found = std::lower_bound(messages.begin(), messages.end(), peer,
                             [](const PendingMessage& message, int p) { return message.peer < p; });
  }
  return found != messages.end() && found->peer == peer && !found->matched ? &*found : nullptr;
}

// What a blocked rank waits for, in words.
std::string wish(RankRun& rank, int& peer) {
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

}  // namespace

// The locks of two ranks, or none with one thread.
class Scheduler::PairLock {
 public:
  PairLock(bool needed, Shared& a, Shared& b) {
    if (!needed) return;
    first_ = std::unique_lock((&a < &b ? a : b).lock);  // always the lower one first
    second_ = std::unique_lock((&a < &b ? b : a).lock);
  }

 private:
  std::unique_lock<std::mutex> first_, second_;
};

Scheduler::Scheduler(const Schedule& schedule, const VerifyOptions& options, const Running& running)
    : schedule_(schedule),
      options_(options),
      max_problems_(running.max_problems),
      pieces_(schedule.problem()),
      shared_(static_cast<size_t>(schedule.ranks())) {
  const auto table = std::make_shared<SetTable>();
  for (int i = 0; i < running.threads; ++i) {
    workers_.push_back(std::make_unique<Worker>(table, running.order, schedule.ranks()));
  }
  for (int rank = 0; rank < schedule.ranks(); ++rank) {
    Worker& worker = worker_of(rank);
    ranks_.push_back(std::make_unique<RankRun>(
        schedule, rank, pieces_, worker.sets, [this](Finding finding) { note(std::move(finding)); }, running.trace));
    worker.ready.begin(rank);
  }
}

void Scheduler::note(Finding finding) {
  const std::lock_guard lock(noting_);
  report_.problems.push_back(std::move(finding));
  if (static_cast<int>(report_.problems.size()) >= max_problems_) throw TooMany{};
}

Report Scheduler::run() {
  try {
    run_all();
  } catch (const TooMany&) {}
  IntervalSet steps[2];
  for (const auto& rank : ranks_) {
    report_.ranks.push_back(rank->report());
    report_.instructions += rank->instructions();
    for (bool backward : {false, true}) steps[backward].unite(rank->steps(backward));
  }
  report_.steps = steps[false].size();
  report_.steps_backward = steps[true].size();
  return std::move(report_);
}

void Scheduler::run_all() {
  const auto guarded = [this](Worker& worker) {
    try {
      work(worker);
    } catch (...) {
      const std::lock_guard lock(sleeping_);
      if (!error_) error_ = std::current_exception();
    }
    stop();  // at the end there is nothing left to do for the others either
  };
  {
    std::vector<std::jthread> others;
    for (size_t i = 1; i < workers_.size(); ++i) others.emplace_back(guarded, std::ref(*workers_[i]));
    guarded(*workers_[0]);
  }
  if (error_) std::rethrow_exception(error_);
  if (finished_ < schedule_.ranks()) report_deadlock();
}

void Scheduler::stop() {
  const std::lock_guard lock(sleeping_);
  stopping_ = true;
  for (const auto& worker : workers_) worker->wake.notify_one();
}

void Scheduler::work(Worker& me) {
  const bool reports = &me == workers_[0].get();  // the caller's own thread
  uint64_t turn = 0;
  for (int rank = next(me); rank >= 0; rank = next(me)) {
    if (reports && options_.stop && turn++ % 256 == 0) options_.stop->poll();
    if (run_of(rank).run()) {
      me.ready.ended(run_of(rank).unmatched);
      meet(run_of(rank), me);
      continue;
    }
    ++finished_;
    if (reports && options_.progress) options_.progress(static_cast<double>(finished_) / schedule_.ranks());
  }
}

int Scheduler::next(Worker& me) {
  if (stopping_.load(std::memory_order_relaxed)) return -1;
  open_mail(me);
  while (true) {
    if (const int rank = me.ready.pop(); rank >= 0) return rank;
    if (!me.gathering.empty()) {
      match_gathering(me);
      continue;
    }
    if (threads() == 1) return -1;
    bool found = false;
    for (int i = 0; i < kLooks && !found; ++i) found = open_mail(me);  // most mail comes soon
    if (!found && !sleep(me)) return -1;
  }
}

bool Scheduler::open_mail(Worker& me) {
  if (!me.has_mail.load(std::memory_order_relaxed)) return false;
  const std::lock_guard lock(me.mail);
  for (int rank : me.freed) me.ready.push(rank);
  me.freed.clear();
  me.has_mail = false;
  return true;
}

bool Scheduler::sleep(Worker& me) {
  std::unique_lock lock(sleeping_);
  // Who sends mail looks at `asleep` after `has_mail`, here it is the other way round: at least one sees the other.
  me.asleep = true;
  ++asleep_;
  if (me.has_mail) {
    me.asleep = false;
    --asleep_;
  } else if (asleep_ == threads()) {
    return false;  // nobody is left who could free a rank
  }
  me.wake.wait(lock, [&] { return !me.asleep || stopping_; });
  return !stopping_;
}

void Scheduler::meet(RankRun& rank, Worker& me) {
  const bool many = rank.unmatched > kMany;
  // From here on others may match with it. The order of this store and of the look at the peer makes sure that of two
  // ranks that block at the same time at least one sees the other.
  shared_[static_cast<size_t>(rank.rank())].blocked = true;
  if (many) {
    me.gathering.push_back(rank.rank());
    return;
  }
  for (PendingMessage& message : rank.outgoing()) match(rank, message, true, me);
  for (PendingMessage& message : rank.incoming()) match(rank, message, false, me);
}

// Ranks that all wait for thousands of others touch all that these wait with. A few ranks with a few others at a time find it
// in the cache.
void Scheduler::match_gathering(Worker& me) {
  std::vector<int> ranks;
  ranks.swap(me.gathering);
  std::sort(ranks.begin(), ranks.end());
  std::vector<bool> among(static_cast<size_t>(schedule_.ranks()));
  for (const int rank : ranks) among[static_cast<size_t>(rank)] = true;
  struct Places {
    size_t out = 0, in = 0;  // next to look at
  };
  const auto up_to = [&](RankRun& rank, bool sends, int end, size_t& next) {
    std::vector<PendingMessage>& messages = sends ? rank.outgoing() : rank.incoming();
    for (; next < messages.size() && messages[next].peer < end; ++next) {
      // What one of these ranks sends another is met as it is sent.
      if (sends || !among[static_cast<size_t>(messages[next].peer)]) match(rank, messages[next], sends, me);
    }
  };
  for (size_t first = 0; first < ranks.size(); first += kTile) {
    const std::span<const int> some(ranks.data() + first, std::min<size_t>(kTile, ranks.size() - first));
    std::vector<Places> next(some.size());
    for (int end = kTile; end < schedule_.ranks() + kTile; end += kTile) {
      for (size_t n = 0; n < some.size(); ++n) {
        up_to(run_of(some[n]), true, end, next[n].out);
        up_to(run_of(some[n]), false, end, next[n].in);
      }
    }
  }
}

void Scheduler::match(RankRun& rank, PendingMessage& message, bool sends, Worker& me) {
  Shared& there = shared_[static_cast<size_t>(message.peer)];
  if (!there.blocked) return;
  const PairLock lock(threads() > 1, shared_[static_cast<size_t>(rank.rank())], there);
  if (message.matched || !there.blocked) return;
  RankRun& peer = run_of(message.peer);
  PendingMessage* other = find(sends ? peer.incoming() : peer.outgoing(), rank.rank());
  if (!other) return;
  message.matched = other->matched = true;
  if (sends) {
    peer.receive(rank, rank.parts_of(message), peer.parts_of(*other), me.sets);
  } else {
    rank.receive(peer, peer.parts_of(*other), rank.parts_of(message), me.sets);
  }
  settle(peer, me);
  settle(rank, me);
}

void Scheduler::settle(RankRun& rank, Worker& me) {
  if (--rank.unmatched > 0) return;
  shared_[static_cast<size_t>(rank.rank())].blocked = false;
  Worker& owner = worker_of(rank.rank());
  if (&owner == &me) return me.ready.push(rank.rank());
  {
    const std::lock_guard lock(owner.mail);
    owner.freed.push_back(rank.rank());
    owner.has_mail = true;
  }
  if (!owner.asleep) return;
  const std::lock_guard lock(sleeping_);
  if (!owner.asleep) return;
  owner.asleep = false;
  --asleep_;
  owner.wake.notify_one();
}

// Follows "waits for" from a blocked rank until it ends at a finished rank or closes a cycle.
void Scheduler::report_deadlock() {
  int at = 0;
  while (run_of(at).finished()) ++at;
  std::vector<int> seen;
  std::string text;
  while (std::find(seen.begin(), seen.end(), at) == seen.end()) {
    RankRun& rank = run_of(at);
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
  RankRun& first = run_of(seen.front());
  report_.problems.push_back({first.rank(), first.instruction(), "deadlock", "nothing can go on: " + text});
}

}  // namespace weft::verify_internal
