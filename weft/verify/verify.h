// Verify: a proof that a schedule is right, or the place where it is wrong.
//
// All programs run symbolically over sets of tokens. The proof covers: every allowed (query, key) pair is attended
// exactly once and every gradient contribution comes home exactly once; every message is received as it was sent; the
// schedule finishes even when every exchange blocks at its issue; nothing is used before it is defined or after it
// ended. The same run counts work, bytes and messages, and bounds the live bytes of each rank in program order.
// docs/schedule.md has the rules; the method is that of a small abstract interpreter whose domain is interval sets.
//
//   Report report = verify(make_schedule("zigzag", problem));
//   if (!report.ok()) std::cerr << report.problems[0].text;
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "weft/base/stop.h"
#include "weft/schedule/cost.h"
#include "weft/schedule/schedule.h"

namespace weft {

// What one rank does, summed over its program. Bytes as laid out in memory or on the wire; self-sends do not count.
struct RankReport {
  // Forward (query, key) pairs x query heads attended (or scored) here; of linear layers, tokens x heads scanned.
  int64_t work = 0;
  int64_t work_backward = 0;  // the same in backward
  int64_t bytes_sent = 0;
  int64_t bytes_backward = 0;  // those of them that are sent in backward
  int64_t messages = 0;        // sent: one per exchange and peer
  int64_t messages_backward = 0;
  int64_t largest_message = 0;  // bytes of the largest one sent
  // Received in exchanges between whose issue and completion this rank attends to nothing: no compute can hide them.
  int64_t exposed_bytes = 0;
  int64_t exposed_backward = 0;  // those of them in backward
  int64_t live_bytes = 0;        // largest sum of values, receive buffers and staging alive at one moment
  int64_t saved_bytes = 0;       // values that forward keeps for backward, without inputs and results
};

// One thing that is wrong, at the instruction where it shows.
struct Finding {
  int rank = 0;
  int64_t instruction = 0;  // index in the rank's program
  std::string kind;         // coverage, message, deadlock, lifetime, operand, result
  std::string text;
};

struct Report {
  std::vector<RankReport> ranks;
  std::vector<Finding> problems;  // empty: proved right
  int64_t instructions = 0;       // of all ranks
  // Steps of each phase in which some rank attends or something crosses: the rows of the picture.
  int64_t steps = 0;
  int64_t steps_backward = 0;
  bool ok() const { return problems.empty(); }
};

// The counts of all ranks together.
Cost cost_of(const Report& report);

struct VerifyOptions {
  static constexpr int kThreads = 16;
  int max_problems = 20;           // stop after so many
  bool explain = true;             // run again to say where missing contributions were lost
  int few_ranks = 64;              // with more, ranks run in an order that suits the cache: the same is proved
  int threads = 0;                 // for more than few_ranks ranks; 0: one for each processor, at most kThreads
  const StopFlag* stop = nullptr;  // polled now and then
  std::function<void(double)> progress = {};  // called now and then with the share of ranks that have finished
};

Report verify(const Schedule& schedule, const VerifyOptions& options = {});

// The same for a schedule that is about to run: throws Error(wrong) with the first problem.
Report verify_or_throw(const Schedule& schedule);

}  // namespace weft
