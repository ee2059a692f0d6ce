#include "weft/train/method_plan.h"

#include <ATen/core/Tensor.h>

#include <vector>

#include "weft/base/error.h"
#include "weft/methods/registry.h"
#include "weft/torch/attention.h"
#include "weft/transport/thread_transport.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

// Buffers of each rank, kept from plan to plan.
using Pools = std::vector<std::unique_ptr<BufferPool>>;

class MethodPlan final : public SequencePlan, public std::enable_shared_from_this<MethodPlan> {
 public:
  MethodPlan(Schedule schedule, std::shared_ptr<Pools> pools, Processes* processes)
      : schedule_(std::move(schedule)), pools_(std::move(pools)), processes_(processes) {
    if (!processes) threads_ = std::make_unique<ThreadTransport>(schedule_.ranks());
  }

  std::vector<int64_t> token_indices(int rank) const override {
    return schedule_.problem().query_layout.positions(rank);
  }

  AttentionFunction attention(int rank) override {
    // A rank that has let go of its function posts nothing more; others that wait for it shall know.
    struct Seat {
      std::shared_ptr<MethodPlan> plan;
      int rank;
      std::shared_ptr<Executor> executor;
      Seat(std::shared_ptr<MethodPlan> p, int r) : plan(std::move(p)), rank(r) {}
      Seat(const Seat&) = delete;
      Seat& operator=(const Seat&) = delete;
      ~Seat() {
        executor.reset();
        if (plan->threads_) plan->threads_->leave(rank);
      }
    };
    if (processes_) waited_before_ = endpoint(rank).waiting_seconds();
    auto seat = std::make_shared<Seat>(shared_from_this(), rank);
    seat->executor = std::make_shared<Executor>(schedule_, rank, endpoint(rank), kernels::cpu_kernels(),
                                                *(*pools_)[static_cast<size_t>(rank)]);
    return [seat](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
      // The graph keeps the seat, and with it the plan, until backward is over.
      return weft::attention(q, k, v, std::shared_ptr<Executor>(seat, seat->executor.get()));
    };
  }

  void abort() override { endpoint(0).fail(std::make_exception_ptr(Error(ErrorCode::stopped, "stopped"))); }

  double waiting_seconds(int rank) const override { return endpoint(rank).waiting_seconds() - waited_before_; }

 private:
  Endpoint& endpoint(int rank) const { return processes_ ? processes_->endpoint() : threads_->endpoint(rank); }

  Schedule schedule_;
  std::shared_ptr<Pools> pools_;
  Processes* processes_;
  std::unique_ptr<ThreadTransport> threads_;  // where there are no processes
  double waited_before_ = 0;                  // by the process, for anything
};

}  // namespace

PlanFactory method_plans(const MethodPlanOptions& options, Processes* processes) {
  find_method(options.method);
  auto pools = std::make_shared<Pools>();
  return [options, pools, processes](const SequenceShape& shape) -> std::shared_ptr<SequencePlan> {
    while (static_cast<int>(pools->size()) < shape.ranks) pools->push_back(std::make_unique<BufferPool>());
    Layout layout =
        choose_layout(options.layout, options.method, shape.document_lengths, shape.ranks, options.method_options);
    Problem problem = self_attention(Mask::documents(shape.document_lengths, {.causal = true}), std::move(layout),
                                     shape.heads, shape.kv_heads, shape.head_dim);
    problem.backward = shape.backward;
    problem.element = shape.dtype;
    problem.wire = problem.accumulator();
    Schedule schedule = make_schedule(options.method, std::move(problem), options.method_options);
    verify_or_throw(schedule);
    return std::make_shared<MethodPlan>(std::move(schedule), pools, processes);
  };
}

}  // namespace weft
