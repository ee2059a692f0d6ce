#include "weft/transport/thread_transport.h"

#include <algorithm>
#include <chrono>

#include "weft/base/error.h"
#include "weft/transport/thread_hub.h"

namespace weft::transport_internal {
namespace {

std::string number(int64_t n) { return std::to_string(n); }

std::string text_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "unknown error";
  }
}

// Whether the part may be received as the sender's memory, and lies there in one region.
bool can_lend(const OutgoingPart& part) { return part.lending != Lending::none && part.regions.size() == 1; }

}  // namespace

Hub::Hub(int ranks) : states_(static_cast<size_t>(ranks)), running_(ranks) {}

void Hub::check_running(const Lock&) const {
  if (!error_) return;
  throw Error(ErrorCode::stopped, "stopped, since rank " + number(failed_rank_) + " failed: " + error_text_);
}

void Hub::wake(State& s) {
  if (s.blocked) {
    s.blocked = false;
    ++running_;
  }
  s.changed.notify_all();
}

// ---- sending

void Hub::post(ThreadPending& pending, int rank) {
  Transfer& transfer = pending.transfer_;
  const auto check_peer = [&](int peer) {
    if (peer >= 0 && peer < ranks()) return;
    throw Error(ErrorCode::wrong, "peer " + number(peer) + " does not exist; ranks are 0 to " + number(ranks() - 1));
  };
  for (const OutgoingMessage& message : transfer.send) check_peer(message.peer);
  for (const IncomingMessage& message : transfer.receive) check_peer(message.peer);

  Lock lock(mutex_);
  check_running(lock);
  State& me = state(rank);
  pending.missing_ = transfer.receive.size();
  for (size_t i = 0; i < transfer.receive.size(); ++i) {
    Inbox& inbox = me.inboxes[transfer.receive[i].peer];
    inbox.expected.push_back({&pending, i, inbox.wanted++});
  }
  for (OutgoingMessage& message : transfer.send) {
    State& receiver = state(message.peer);
    Inbox& inbox = receiver.inboxes[rank];
    auto mail = std::make_shared<Mail>();
    *mail = {.from = rank,
             .to = message.peer,
             .number = inbox.sent++,
             .origin = transfer.origin,
             .phase = me.phase,
             .memory = transfer.memory,
             .parts = std::move(message.parts)};
    if (receiver.left || receiver.phase > me.phase) {
      lock.unlock();  // the mail's owners are released on the way out
      throw Error(ErrorCode::wrong, "message " + number(mail->number) + " to rank " + number(message.peer) +
                                        " is never received: that rank has " +
                                        (receiver.left ? "ended" : "ended this phase"));
    }
    bool must_wait = false;
    for (const OutgoingPart& part : mail->parts) {
      must_wait |= part.lending == Lending::none;
      mail->callers |= part.owner == nullptr;
    }
    if (mail->callers) ++me.uses_of_callers;
    pending.sent_.push_back(mail);
    pending.must_wait_.push_back(must_wait);
    inbox.mail.push_back(std::move(mail));
    if (message.peer != rank) wake(receiver);
  }
  while (take_one(lock, rank)) {}
}

// ---- receiving

bool Hub::take_one(Lock& lock, int rank) {
  for (auto& [from, inbox] : state(rank).inboxes) {
    if (inbox.mail.empty() || inbox.expected.empty()) continue;
    const MailPtr mail = std::move(inbox.mail.front());
    inbox.mail.pop_front();
    const Expected expected = inbox.expected.front();
    inbox.expected.pop_front();
    const auto taken = [&] {
      mail->taken = true;
      State& sender = state(mail->from);
      if (mail->callers) --sender.uses_of_callers;
      if (mail->from != rank) wake(sender);
    };
    try {
      deliver(lock, *mail, expected);
    } catch (...) {
      if (!lock.owns_lock()) lock.lock();
      taken();
      throw;
    }
    taken();
    --expected.pending->missing_;
    return true;
  }
  return false;
}

void Hub::deliver(Lock& lock, Mail& mail, const Expected& expected) {
  IncomingMessage& message = expected.pending->transfer_.receive[expected.message];
  const auto refuse = [&](const std::string& why) {
    lock.unlock();  // owners are released without the lock, here on the way out
    throw Error(ErrorCode::wrong, "message " + number(mail.number) + " of rank " + number(mail.from) +
                                      " (its instruction " + number(mail.origin) + ") is not what instruction " +
                                      number(expected.pending->transfer_.origin) + " expects: " + why);
  };
  const uint64_t phase = state(mail.to).phase;
  std::vector<OutgoingPart> parts = std::move(mail.parts);
  std::vector<bool> copied(parts.size(), false);
  if (mail.phase != phase) refuse("it was sent in another phase");
  const Memory& memory = *expected.pending->transfer_.memory;
  if (mail.memory != &memory) {
    refuse("it lies in memory " + std::string(mail.memory->name()) + ", not in " + std::string(memory.name()));
  }
  if (parts.size() != message.parts.size()) {
    refuse(number(static_cast<int64_t>(parts.size())) + " parts instead of " +
           number(static_cast<int64_t>(message.parts.size())));
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    const OutgoingPart& from = parts[i];
    IncomingPart& to = message.parts[i];
    if (from.bytes != to.bytes) {
      refuse("part " + number(static_cast<int64_t>(i)) + " has " + number(from.bytes) + " bytes instead of " +
             number(to.bytes));
    }
    if (from.label != to.label) {
      refuse("part " + number(static_cast<int64_t>(i)) + " has another lane, field, tokens, heads or type");
    }
    if (to.may_borrow && can_lend(from)) {
      const Region& region = from.regions[0];
      to.loan = {region.data, region.stride, from.lending, from.owner ? from.owner : lend(mail.from)};
    } else {
      copied[i] = true;
    }
  }
  lock.unlock();
  for (size_t i = 0; i < parts.size(); ++i) {
    if (copied[i]) memory.copy(parts[i].regions, message.parts[i].regions);
  }
  parts.clear();
  lock.lock();
}

std::shared_ptr<const void> Hub::lend(int rank) {
  ++state(rank).uses_of_callers;
  // The address only has to be something.
  return {static_cast<const void*>(this), [hub = shared_from_this(), rank](const void*) { hub->give_back(rank); }};
}

void Hub::give_back(int rank) noexcept {
  const Lock lock(mutex_);
  --state(rank).uses_of_callers;
  wake(state(rank));
}

// ---- waiting

bool ThreadPending::done(Until until) const {
  if (missing_ > 0) return false;
  for (size_t i = 0; i < sent_.size(); ++i) {
    if (!sent_[i]->taken && (until == Until::matched || must_wait_[i])) return false;
  }
  return true;
}

template <typename Done>
void Hub::block_until(Lock& lock, int rank, ThreadPending* pending, Until until, Done&& done) {
  State& me = state(rank);
  while (true) {
    check_running(lock);
    if (take_one(lock, rank)) continue;
    if (done()) return;
    me.waits_for = pending;
    me.until = until;
    me.blocked = true;
    if (--running_ == 0) {
      const std::string text = describe_deadlock();
      wake(me);
      throw Error(ErrorCode::wrong, text);
    }
    const auto begin = std::chrono::steady_clock::now();
    me.changed.wait(lock, [&] { return !me.blocked; });
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - begin;
    me.waiting_seconds += waited.count();
  }
}

void Hub::wait(ThreadPending& pending, Until until) {
  Lock lock(mutex_);
  block_until(lock, pending.rank_, &pending, until, [&] { return pending.done(until); });
}

void Hub::forget(ThreadPending& pending) noexcept {
  const Lock lock(mutex_);
  if (pending.missing_ == 0) return;
  for (auto& [from, inbox] : state(pending.rank_).inboxes) {
    std::erase_if(inbox.expected, [&](const Expected& e) { return e.pending == &pending; });
  }
}

void Hub::end_phase(int rank) {
  Lock lock(mutex_);
  check_running(lock);
  State& me = state(rank);
  for (const auto& [from, inbox] : me.inboxes) {
    if (inbox.mail.empty() || inbox.mail.front()->phase > me.phase) continue;
    const Mail& mail = *inbox.mail.front();
    throw Error(ErrorCode::wrong, "message " + number(mail.number) + " of rank " + number(from) + " (its instruction " +
                                      number(mail.origin) + ") is never received");
  }
  ++me.phase;  // from here on, sending to this rank what belongs to the phase is an error
  block_until(lock, rank, nullptr, {}, [&] { return me.uses_of_callers == 0; });
}

void Hub::recall(int rank) noexcept {
  Lock lock(mutex_);
  State& me = state(rank);
  me.changed.wait(lock, [&] { return me.uses_of_callers == 0; });
}

void Hub::leave(int rank) {
  Lock lock(mutex_);
  State& me = state(rank);
  if (me.left) return;
  me.left = true;
  if (--running_ > 0 || error_) return;
  for (int other = 0; other < ranks(); ++other) {
    if (!state(other).blocked) continue;
    const std::string text = describe_deadlock();
    lock.unlock();
    return fail(other, std::make_exception_ptr(Error(ErrorCode::wrong, text)));
  }
}

// ---- failing

void Hub::fail(int rank, std::exception_ptr error) noexcept {
  std::vector<MailPtr> undelivered;  // their owners are released without the lock
  const Lock lock(mutex_);
  if (error_) return;
  error_ = std::move(error);
  error_text_ = text_of(error_);
  failed_rank_ = rank;
  stop_.raise();
  for (State& s : states_) {
    for (auto& [from, inbox] : s.inboxes) {
      for (MailPtr& mail : inbox.mail) {
        if (mail->callers) --state(from).uses_of_callers;
        undelivered.push_back(std::move(mail));
      }
      inbox.mail.clear();
    }
  }
  for (State& s : states_) wake(s);
}

std::exception_ptr Hub::error() const {
  const Lock lock(mutex_);
  return error_;
}

int Hub::failed_rank() const {
  const Lock lock(mutex_);
  return failed_rank_;
}

double Hub::waiting_seconds(int rank) const {
  const Lock lock(mutex_);
  return states_[static_cast<size_t>(rank)].waiting_seconds;
}

// ---- explaining

std::string Hub::describe_wait(int rank, int& peer) {
  const State& s = state(rank);
  const std::string who = "rank " + number(rank);
  peer = -1;
  if (s.left) return who + " has ended";
  if (!s.blocked) return who + " works elsewhere";
  if (!s.waits_for) return who + " waits for those who borrowed its memory";
  const std::string at = who + " at instruction " + number(s.waits_for->transfer_.origin);
  for (const auto& [from, inbox] : s.inboxes) {
    for (const Expected& expected : inbox.expected) {
      if (expected.pending != s.waits_for) continue;
      peer = from;
      return at + " waits for message " + number(expected.number) + " of rank " + number(from);
    }
  }
  for (size_t i = 0; i < s.waits_for->sent_.size(); ++i) {
    const Mail& mail = *s.waits_for->sent_[i];
    if (mail.taken || (s.until == Until::usable && !s.waits_for->must_wait_[i])) continue;
    peer = mail.to;
    return at + " waits until rank " + number(mail.to) + " takes message " + number(mail.number);
  }
  return at + " waits";
}

std::string Hub::describe_deadlock() {
  std::string text = "deadlock: nobody can go on: ";
  std::vector<int> told;
  int rank = 0;
  while (rank < ranks() && !state(rank).blocked) ++rank;
  for (int shown = 0; rank >= 0 && shown < 8; ++shown) {
    if (std::find(told.begin(), told.end(), rank) != told.end()) break;
    told.push_back(rank);
    int peer = -1;
    text += (shown > 0 ? "; " : "") + describe_wait(rank, peer);
    rank = peer;
  }
  return text;
}

}  // namespace weft::transport_internal

namespace weft {

ThreadTransport::ThreadTransport(int ranks) {
  if (ranks < 1) {
    throw Error(ErrorCode::usage, "ranks is " + std::to_string(ranks) + "; use at least 1");
  }
  hub_ = std::make_shared<transport_internal::Hub>(ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    endpoints_.push_back(std::make_unique<transport_internal::RankEndpoint>(hub_, rank));
  }
}

ThreadTransport::~ThreadTransport() = default;

int ThreadTransport::ranks() const { return hub_->ranks(); }
Endpoint& ThreadTransport::endpoint(int rank) { return *endpoints_[static_cast<size_t>(rank)]; }
void ThreadTransport::leave(int rank) { hub_->leave(rank); }
void ThreadTransport::fail(int rank, std::exception_ptr error) noexcept { hub_->fail(rank, std::move(error)); }
std::exception_ptr ThreadTransport::error() const { return hub_->error(); }
int ThreadTransport::failed_rank() const { return hub_->failed_rank(); }

}  // namespace weft
