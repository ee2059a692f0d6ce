// What the endpoints of one ThreadTransport share. Private to this folder.
//
// One mutex guards all of it: a transfer holds it for well under a microsecond, and nothing is
// copied and no owner released under it.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <string>

#include "weft/transport/thread_transport.h"

namespace weft::transport_internal {

class ThreadPending;

class Hub : public std::enable_shared_from_this<Hub> {
 public:
  // A message on its way.
  struct Mail {
    int from = 0;
    int to = 0;
    int64_t number = 0;  // how many went from `from` to `to` before it
    int64_t origin = 0;
    uint64_t phase = 0;
    const Memory* memory = nullptr;
    std::vector<OutgoingPart> parts;  // moved out by the receiver
    bool callers = false;             // some part has no owner
    bool taken = false;
  };
  using MailPtr = std::shared_ptr<Mail>;

  explicit Hub(int ranks);
  int ranks() const { return static_cast<int>(states_.size()); }

  void post(ThreadPending& pending, int rank);
  void wait(ThreadPending& pending, Until until);
  void forget(ThreadPending& pending) noexcept;
  void end_phase(int rank);
  void recall(int rank) noexcept;
  void leave(int rank);
  void fail(int rank, std::exception_ptr error) noexcept;

  std::exception_ptr error() const;
  int failed_rank() const;
  const StopFlag& stop_flag() const { return stop_; }
  double waiting_seconds(int rank) const;

 private:
  using Lock = std::unique_lock<std::mutex>;

  // Something that a pending transfer expects.
  struct Expected {
    ThreadPending* pending;
    size_t message;
    int64_t number;
  };
  // Messages from one rank, and what is expected of it. At most one side waits for the other.
  struct Inbox {
    std::deque<MailPtr> mail;
    std::deque<Expected> expected;
    int64_t sent = 0;
    int64_t wanted = 0;
  };
  struct State {
    std::condition_variable changed;
    bool blocked = false;
    bool left = false;
    uint64_t phase = 0;
    int64_t uses_of_callers = 0;         // mail, copies under way and loans of memory without an owner
    std::map<int, Inbox> inboxes;        // by sender
    ThreadPending* waits_for = nullptr;  // while blocked; null: for borrowers
    Until until{};
    double waiting_seconds = 0;
  };

  State& state(int rank) { return states_[static_cast<size_t>(rank)]; }
  void check_running(const Lock&) const;
  // Takes one message that has arrived for `rank`. False when there is none.
  bool take_one(Lock& lock, int rank);
  void deliver(Lock& lock, Mail& mail, const Expected& expected);
  std::shared_ptr<const void> lend(int rank);
  void give_back(int rank) noexcept;
  // Until done() holds: takes what arrives, and sleeps when there is nothing to do.
  template <typename Done>
  void block_until(Lock& lock, int rank, ThreadPending* pending, Until until, Done&& done);
  void wake(State& state);
  // Who waits for whom, following one chain.
  std::string describe_deadlock();
  std::string describe_wait(int rank, int& peer);

  mutable std::mutex mutex_;
  std::deque<State> states_;
  int running_ = 0;  // ranks that are neither blocked nor gone
  StopFlag stop_;
  std::exception_ptr error_;
  std::string error_text_;
  int failed_rank_ = -1;
};

class ThreadPending final : public Pending {
 public:
  ThreadPending(std::shared_ptr<Hub> hub, int rank, Transfer transfer)
      : hub_(std::move(hub)), rank_(rank), transfer_(std::move(transfer)) {}
  ~ThreadPending() override { hub_->forget(*this); }
  void wait(Until until) override { hub_->wait(*this, until); }
  void let_go(size_t message) override { must_wait_[message] = false; }
  std::vector<IncomingMessage>& received() override { return transfer_.receive; }

 private:
  friend class Hub;
  bool done(Until until) const;

  std::shared_ptr<Hub> hub_;
  int rank_;
  Transfer transfer_;  // its outgoing parts live in the mails
  std::vector<Hub::MailPtr> sent_;
  std::vector<bool> must_wait_;  // by message sent: the sender may change its memory
  size_t missing_ = 0;           // messages not received yet
};

class RankEndpoint final : public Endpoint {
 public:
  RankEndpoint(std::shared_ptr<Hub> hub, int rank) : hub_(std::move(hub)), rank_(rank) {}
  int rank() const override { return rank_; }
  int ranks() const override { return hub_->ranks(); }
  std::unique_ptr<Pending> post(Transfer transfer) override {
    auto pending = std::make_unique<ThreadPending>(hub_, rank_, std::move(transfer));
    hub_->post(*pending, rank_);
    return pending;
  }
  void end_phase() override { hub_->end_phase(rank_); }
  void fail(std::exception_ptr error) noexcept override { hub_->fail(rank_, std::move(error)); }
  void recall() noexcept override { hub_->recall(rank_); }
  const StopFlag& stop_flag() const override { return hub_->stop_flag(); }
  double waiting_seconds() const override { return hub_->waiting_seconds(rank_); }

 private:
  std::shared_ptr<Hub> hub_;
  int rank_;
};

}  // namespace weft::transport_internal
