#include "weft/torch/group_state.h"

#include <chrono>
#include <map>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include "weft/base/error.h"

namespace weft::torch_internal {
namespace {

constexpr const char* kNote = "weft/failure";
constexpr auto kBetweenLooks = std::chrono::milliseconds(200);

c10::intrusive_ptr<c10d::ProcessGroup> resolve(const std::string& name) {
  try {
    return c10d::resolve_process_group(name);
  } catch (const std::exception&) {
    throw Error(ErrorCode::usage, "there is no process group '" + name +
                                      "', or it was destroyed; give one that torch.distributed made, and make the plan "
                                      "anew after the group");
  }
}

std::string first_line(const char* text) {
  const std::string all(text);
  return all.substr(0, all.find('\n'));
}

}  // namespace

std::shared_ptr<GroupState> GroupState::find(const std::string& name) {
  static std::mutex mutex;
  static auto& states = *new std::map<std::string, std::shared_ptr<GroupState>>();  // alive until the process ends
  const auto group = resolve(name);
  const std::lock_guard lock(mutex);
  std::shared_ptr<GroupState>& state = states[name];
  if (!state || state->id_ != group->getID()) state = std::shared_ptr<GroupState>(new GroupState(name, group));
  return state;
}

GroupState::GroupState(std::string name, const c10::intrusive_ptr<c10d::ProcessGroup>& group)
    : name_(std::move(name)), id_(group->getID()), rank_(group->getRank()), ranks_(group->getSize()) {
  store_ = group->getStore();
  try {
    store_ = store_->clone();
  } catch (const std::exception&) {}  // a store without connections
  watcher_ = std::thread([this] { watch(); });
}

GroupState::~GroupState() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  watcher_.join();
}

c10::intrusive_ptr<c10d::ProcessGroup> GroupState::group() const {
  throw_if_failed();
  auto group = resolve(name_);
  if (group->getID() != id_) {
    throw Error(ErrorCode::usage, "process group '" + name_ + "' was made anew; make the plan anew too");
  }
  return group;
}

void GroupState::throw_if_failed() const {
  const std::lock_guard lock(mutex_);
  if (!failure_.empty()) throw_failure();
}

void GroupState::throw_failure() const {
  throw Error(ErrorCode::stopped, "process group '" + name_ + "' has failed: " + failure_ +
                                      "; destroy it, make a new one on the ranks that are left, and a new plan");
}

void GroupState::wait(c10d::Work& work, const std::string& what, int64_t timeout) {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) throw_failure();
    waited_for_.insert(&work);
  }
  changed_.notify_all();
  bool done = false;
  std::string trouble;
  try {
    done = work.wait(timeout < 0 ? kNoTimeout : std::chrono::milliseconds(timeout));
  } catch (const std::exception& error) {
    trouble = error.what();
  }
  {
    const std::lock_guard lock(mutex_);
    waited_for_.erase(&work);
  }
  if (!done) give_up(what, trouble);
}

void GroupState::give_up(const std::string& what, const std::string& trouble) {
  throw_if_failed();
  look_for_note();  // who is gone may have said why
  throw_if_failed();
  throw Error(ErrorCode::io,
              what + " did not come through: " + (trouble.empty() ? "aborted" : first_line(trouble.c_str())));
}

void GroupState::record(const std::string& text) noexcept {
  const std::lock_guard lock(mutex_);
  if (failure_.empty()) failure_ = text.empty() ? "unknown" : text;
  stop_.raise();
  for (c10d::Work* work : waited_for_) {
    try {
      work->abort();
    } catch (const std::exception&) {}  // has ended meanwhile
  }
}

void GroupState::fail(const std::string& text) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) return;
  }
  record(text);
  leave_note(kNote, text);
}

std::vector<std::string> GroupState::exchange(const std::string& key, const std::string& mine, int64_t timeout) {
  const auto begin = std::chrono::steady_clock::now();
  const auto limit = timeout < 0 ? store_->getTimeout() : std::chrono::milliseconds(timeout);
  std::vector<std::string> all;
  auto pause = std::chrono::milliseconds(1);
  try {
    store_->set(key + std::to_string(rank_), mine);
    while (static_cast<int>(all.size()) < ranks_) {
      const std::string next = key + std::to_string(all.size());
      if (store_->check({next})) {
        all.push_back(store_->get_to_str(next));
        continue;
      }
      look_for_note();
      group();  // throws after a failure
      if (std::chrono::steady_clock::now() - begin > limit) {
        throw Error(ErrorCode::io, "rank " + std::to_string(all.size()) + " did not come to the same call within " +
                                       std::to_string(limit.count()) + " ms");
      }
      std::this_thread::sleep_for(pause);
      pause = std::min(2 * pause, std::chrono::milliseconds(50));
    }
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(ErrorCode::io, "the store of process group '" + name_ + "': " + first_line(error.what()));
  }
  return all;
}

void GroupState::set_call(const std::string& key, const std::string& other_key) {
  const std::lock_guard lock(mutex_);
  call_ = {key, other_key};
}

void GroupState::leave_note(const std::string& key, const std::string& text) noexcept {
  try {
    store_->set(key, text);
  } catch (const std::exception&) {}  // others find the connection closed
}

void GroupState::look_for_note() {
  std::array<std::string, 2> call;
  {
    const std::lock_guard lock(mutex_);
    call = call_;
  }
  try {
    for (const std::string& key : {std::string(kNote), call[0], call[1]}) {
      if (!key.empty() && store_->check({key})) return fail(store_->get_to_str(key));
    }
  } catch (const std::exception&) {
    fail("its store cannot be reached any more: the rank that keeps it has ended");
  }
}

void GroupState::watch() {
  std::unique_lock lock(mutex_);
  while (!over_ && failure_.empty()) {
    // A short wait is not looked after.
    changed_.wait(lock, [&] { return over_ || !waited_for_.empty(); });
    if (changed_.wait_for(lock, kBetweenLooks, [&] { return over_ || waited_for_.empty(); })) continue;
    lock.unlock();
    look_for_note();
    lock.lock();
  }
}

}  // namespace weft::torch_internal
