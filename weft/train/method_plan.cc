#include "weft/train/method_plan.h"

#include <ATen/core/Tensor.h>

#include <optional>
#include <utility>
#include <vector>

#include "weft/base/error.h"
#include "weft/methods/registry.h"
#include "weft/torch/attention.h"
#include "weft/torch/short_convolution.h"
#include "weft/transport/thread_transport.h"
#include "weft/verify/verify.h"

namespace weft {
namespace {

// Buffers of each rank, kept from plan to plan.
using Pools = std::vector<std::unique_ptr<BufferPool>>;

class MethodPlan final : public SequencePlan, public std::enable_shared_from_this<MethodPlan> {
 public:
  MethodPlan(Schedule schedule, std::optional<Schedule> linear, std::optional<Halo> halo, std::shared_ptr<Pools> pools,
             Processes* processes)
      : schedule_(std::move(schedule)),
        linear_(std::move(linear)),
        halo_(std::move(halo)),
        pools_(std::move(pools)),
        processes_(processes),
        seats_(static_cast<size_t>(schedule_.ranks())) {
    if (!processes) threads_ = std::make_unique<ThreadTransport>(schedule_.ranks());
  }

  std::vector<int64_t> token_indices(int rank) const override {
    return schedule_.problem().query_layout.positions(rank);
  }

  // The graph keeps the seat, and with it the plan, until backward is over.
  AttentionFunction attention(int rank) override {
    return [seat = seat_of(rank)](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
      return weft::attention(q, k, v, std::shared_ptr<Executor>(seat, seat->attention.get()));
    };
  }
  LinearFunction linear_attention(int rank) override {
    if (!linear_) return SequencePlan::linear_attention(rank);
    return [seat = seat_of(rank)](const LinearInputs& inputs) {
      return weft::linear_attention(inputs, std::shared_ptr<Executor>(seat, seat->linear.get())).out;
    };
  }

  ConvolutionFunction convolution(int rank) override {
    if (!halo_) return SequencePlan::convolution(rank);
    return [seat = seat_of(rank)](const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
      return short_convolution(x, weight, bias, std::shared_ptr<HaloExchange>(seat, seat->halo.get()));
    };
  }

  void abort() override { endpoint(0).fail(std::make_exception_ptr(Error(ErrorCode::stopped, "stopped"))); }

  double waiting_seconds(int rank) const override { return endpoint(rank).waiting_seconds() - waited_before_; }

 private:
  Endpoint& endpoint(int rank) const { return processes_ ? processes_->endpoint() : threads_->endpoint(rank); }

  // A rank that has let go of its functions posts nothing more; others that wait for it shall know.
  struct Seat {
    std::shared_ptr<MethodPlan> plan;
    int rank;
    std::unique_ptr<Executor> attention, linear;
    std::unique_ptr<HaloExchange> halo;
    Seat(std::shared_ptr<MethodPlan> p, int r) : plan(std::move(p)), rank(r) {}
    Seat(const Seat&) = delete;
    Seat& operator=(const Seat&) = delete;
    ~Seat() {
      attention.reset(), linear.reset();
      if (plan->threads_) plan->threads_->leave(rank);
    }
  };

  // Of the rank's thread.
  std::shared_ptr<Seat> seat_of(int rank) {
    std::weak_ptr<Seat>& kept = seats_[static_cast<size_t>(rank)];
    std::shared_ptr<Seat> seat = kept.lock();
    if (seat) return seat;
    if (processes_) waited_before_ = endpoint(rank).waiting_seconds();
    seat = std::make_shared<Seat>(shared_from_this(), rank);
    const auto executor = [&](const Schedule& schedule) {
      return std::make_unique<Executor>(schedule, rank, endpoint(rank), kernels::cpu_kernels(),
                                        *(*pools_)[static_cast<size_t>(rank)]);
    };
    seat->attention = executor(schedule_);
    if (linear_) seat->linear = executor(*linear_);
    if (halo_) seat->halo = std::make_unique<HaloExchange>(*halo_, rank, endpoint(rank));
    kept = seat;
    return seat;
  }

  Schedule schedule_;
  std::optional<Schedule> linear_;
  std::optional<Halo> halo_;  // of the short convolutions in linear layers
  std::shared_ptr<Pools> pools_;
  Processes* processes_;
  std::unique_ptr<ThreadTransport> threads_;  // where there are no processes
  double waited_before_ = 0;                  // by the process, for anything
  std::vector<std::weak_ptr<Seat>> seats_;    // of ranks
};

std::string linear_method_of(const MethodPlanOptions& options) {
  return options.linear_method.empty() ? "all-scan" : options.linear_method;
}

}  // namespace

Schedule layer_schedule(const MethodPlanOptions& options, const SequenceShape& shape, bool linear) {
  Layout layout =
      choose_layout(options.layout, options.method, shape.document_lengths, shape.ranks, options.method_options);
  Problem problem = self_attention(Mask::documents(shape.document_lengths, {.causal = true}), std::move(layout),
                                   shape.heads, shape.kv_heads, shape.head_dim);
  problem.backward = shape.backward;
  problem.element = shape.dtype;
  problem.wire = problem.accumulator();
  if (!linear) return make_schedule(options.method, std::move(problem), options.method_options);
  problem.layer = shape.linear->layer;
  problem.heads = problem.kv_heads = shape.linear->num_heads;
  problem.key_heads = shape.linear->num_key_heads;
  problem.dim = shape.linear->key_head_dim, problem.dim_v = shape.linear->value_head_dim;
  return make_schedule(linear_method_of(options), std::move(problem), options.linear_options);
}

void require_layers_of(const ModelConfig& model, const std::string& linear_method) {
  if (linear_method.empty() || model.linear_layer_count() > 0) return;
  throw Error(ErrorCode::usage, "--linear-method " + linear_method +
                                    ": the model has no linear layers; leave it out, or give a model that has some "
                                    "(docs/linear.md, hybrid models)");
}

PlanFactory method_plans(const MethodPlanOptions& options, Processes* processes) {
  find_method(options.method), find_method(linear_method_of(options));
  auto pools = std::make_shared<Pools>();
  return [options, pools, processes](const SequenceShape& shape) -> std::shared_ptr<SequencePlan> {
    while (static_cast<int>(pools->size()) < shape.ranks) pools->push_back(std::make_unique<BufferPool>());
    Schedule schedule = layer_schedule(options, shape, false);
    verify_or_throw(schedule);
    std::optional<Schedule> linear;
    std::optional<Halo> halo;
    if (shape.linear) verify_or_throw(linear.emplace(layer_schedule(options, shape, true)));
    if (shape.linear && shape.linear->conv_width > 1) {
      verify_halo(
          halo.emplace(make_halo(shape.document_lengths, schedule.problem().query_layout, shape.linear->conv_width)));
    }
    return std::make_shared<MethodPlan>(std::move(schedule), std::move(linear), std::move(halo), pools, processes);
  };
}

}  // namespace weft
