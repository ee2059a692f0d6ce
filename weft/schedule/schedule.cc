#include "weft/schedule/schedule.h"

#include "weft/base/error.h"
#include "weft/schedule/builder.h"

namespace weft {
namespace {

// A program that a coroutine writes as it is read.
class WrittenProgram final : public Program {
 public:
  WrittenProgram(std::shared_ptr<const Problem> problem, const Writer& writer, int rank, SetPool& pool)
      : problem_(std::move(problem)), builder_(*problem_, pool, rank), steps_(writer(rank, builder_)) {}

  bool next(Block& block) override {
    builder_.clear();
    while (more_) {
      more_ = steps_.write_step();
      block = builder_.take();
      if (!block.instructions.empty()) return true;
    }
    return false;
  }

 private:
  std::shared_ptr<const Problem> problem_;
  Builder builder_;
  Steps steps_;  // destroyed before the builder: its values write their drops into it
  bool more_ = true;
};

// A program read from store, step by step, with its sets interned in the reader's pool.
class ReplayedProgram final : public Program {
 public:
  ReplayedProgram(std::shared_ptr<const StoredSchedule> stored, int rank, SetPool& pool)
      : stored_(std::move(stored)), program_(stored_->programs[static_cast<size_t>(rank)]), pool_(pool) {}

  bool next(Block& block) override {
    const auto& all = program_.instructions;
    if (next_ == all.size()) return false;
    const size_t begin = next_;
    while (next_ < all.size() && all[next_].step == all[begin].step) ++next_;
    instructions_.assign(all.begin() + static_cast<int64_t>(begin), all.begin() + static_cast<int64_t>(next_));
    slices_.clear();
    parts_.clear();
    for (Instruction& instruction : instructions_) {
      if (instruction.op == Op::exchange) {
        const auto from = program_.parts.begin() + instruction.first;
        const uint32_t count = instruction.sources + instruction.targets;
        instruction.first = static_cast<uint32_t>(parts_.size());
        parts_.insert(parts_.end(), from, from + count);
      } else {
        const auto operands = program_.block().operands(instruction);
        instruction.first = static_cast<uint32_t>(slices_.size());
        slices_.insert(slices_.end(), operands.begin(), operands.end());
      }
    }
    for (Slice& slice : slices_) translate(slice);
    for (Part& part : parts_) translate(part.slice);
    block = {instructions_, slices_, parts_};
    return true;
  }

 private:
  void translate(Slice& slice) {
    slice.tokens = pool_.intern((*stored_->pool)[slice.tokens]);
    slice.heads = pool_.intern((*stored_->pool)[slice.heads]);
  }

  std::shared_ptr<const StoredSchedule> stored_;
  const StoredProgram& program_;
  SetPool& pool_;
  size_t next_ = 0;
  std::vector<Instruction> instructions_;
  std::vector<Slice> slices_;
  std::vector<Part> parts_;
};

}  // namespace

const char* name_of(Op op) {
  static constexpr const char* kNames[kOpCount] = {"create",         "input",           "drop",
                                                   "result",         "exchange",        "wait",
                                                   "attend",         "attend_backward", "prepare_backward",
                                                   "finish",         "merge",           "add",
                                                   "begin_backward", "score",           "normalise",
                                                   "weigh",          "weigh_backward",  "normalise_backward",
                                                   "score_backward", "summarise",       "compose",
                                                   "scan",           "apply_state",     "summarise_backward",
                                                   "scan_backward",  "apply_dstate"};
  return kNames[static_cast<int>(op)];
}

const char* name_of(Combine combine) {
  static constexpr const char* kNames[] = {"copy", "add", "merge"};
  return kNames[static_cast<int>(combine)];
}

bool Steps::write_step() {
  handle_.resume();
  if (handle_.promise().error) std::rethrow_exception(handle_.promise().error);
  return !handle_.done();
}

Schedule::Schedule(std::string method, std::shared_ptr<const Problem> problem, Writer writer)
    : method_(std::move(method)), problem_(std::move(problem)), writer_(std::move(writer)) {}

Schedule::Schedule(std::string method, std::shared_ptr<const Problem> problem,
                   std::shared_ptr<const StoredSchedule> stored)
    : method_(std::move(method)), problem_(std::move(problem)), stored_(std::move(stored)) {}

std::unique_ptr<Program> Schedule::open(int rank, SetPool& pool) const {
  if (stored_) return std::make_unique<ReplayedProgram>(stored_, rank, pool);
  return std::make_unique<WrittenProgram>(problem_, writer_, rank, pool);
}

StoredSchedule Schedule::store(int64_t limit) const {
  StoredSchedule stored{std::make_unique<SetPool>(), {}};
  int64_t total = 0;
  for (int rank = 0; rank < ranks(); ++rank) {
    StoredProgram& to = stored.programs.emplace_back();
    const auto program = open(rank, *stored.pool);
    for (Block block; program->next(block);) {
      total += static_cast<int64_t>(block.instructions.size());
      if (total > limit) {
        throw Error(ErrorCode::unsupported, "the schedule has more than " + std::to_string(limit) +
                                                " instructions; use fewer ranks, or raise the limit");
      }
      for (Instruction instruction : block.instructions) {
        instruction.first += static_cast<uint32_t>(instruction.op == Op::exchange ? to.parts.size() : to.slices.size());
        to.instructions.push_back(instruction);
      }
      to.slices.insert(to.slices.end(), block.slices.begin(), block.slices.end());
      to.parts.insert(to.parts.end(), block.parts.begin(), block.parts.end());
    }
  }
  return stored;
}

}  // namespace weft
