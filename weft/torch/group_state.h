// What all endpoints of a process group share: whether it has failed, and a thread that watches for the failure of others.
// Private to this folder.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "weft/base/stop.h"

namespace c10d {
class ProcessGroup;
class Store;
class Work;
}  // namespace c10d

namespace weft::torch_internal {

class GroupState {
 public:
  // The state of the group of this name; a group that was made anew under the name has a new one.
  static std::shared_ptr<GroupState> find(const std::string& name);
  ~GroupState();
  GroupState(const GroupState&) = delete;
  GroupState& operator=(const GroupState&) = delete;

  // The group, which nobody here keeps alive. Throws Error(stopped) after a failure, Error(usage) when it was destroyed.
  c10::intrusive_ptr<c10d::ProcessGroup> group() const;
  int rank() const { return rank_; }
  int ranks() const { return ranks_; }

  // Waits for one operation. `what` says for errors what it was; `timeout` in milliseconds, below 0: the group's own.
  void wait(c10d::Work& work, const std::string& what, int64_t timeout);
  // Throws why `what` did not come through: what a rank that is gone has left in a note, or else `trouble`.
  [[noreturn]] void give_up(const std::string& what, const std::string& trouble);
  // The first failure is kept, here and, in a note, by all ranks.
  void fail(const std::string& text) noexcept;
  // What all ranks, each with its own text, give for a key.
  std::vector<std::string> exchange(const std::string& key, const std::string& mine, int64_t timeout);
  // A number that is the same on all ranks, if they ask in the same order.
  int64_t next_endpoint() { return endpoints_++; }
  // Whoever waits also watches for notes under the keys of the call that it is in; empty: none.
  void set_call(const std::string& key, const std::string& other_key);
  void leave_note(const std::string& key, const std::string& text) noexcept;
  const StopFlag& stop_flag() const { return stop_; }

 private:
  GroupState(std::string name, const c10::intrusive_ptr<c10d::ProcessGroup>& group);
  void watch();
  // Fails when some rank has left a note, for all or for the call that this rank is in.
  void look_for_note();
  void record(const std::string& text) noexcept;
  void throw_if_failed() const;
  [[noreturn]] void throw_failure() const;  // of failure_, which is there; under the lock

  std::string name_;
  int64_t id_;
  int rank_, ranks_;
  std::atomic<int64_t> endpoints_ = 0;
  c10::intrusive_ptr<c10d::Store> store_;  // a connection of its own where the store has such
  StopFlag stop_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::set<c10d::Work*> waited_for_;
  std::string failure_;
  std::array<std::string, 2> call_;
  bool over_ = false;
  std::thread watcher_;
};

}  // namespace weft::torch_internal
