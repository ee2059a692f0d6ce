#include "weft/torch/segment_run.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "weft/base/digest.h"
#include "weft/base/error.h"
#include "weft/torch/field_tensors.h"
#include "weft/torch/tensor_parts.h"

namespace weft {
namespace {

using torch::autograd::variable_list;

constexpr size_t kMemoryWeights = 4;  // of a rank's parameters, before the layers' own

variable_list parameters_of(const SegmentLayers& layers) {
  const MemoryWeights& m = layers.memory;
  variable_list all{m.query, m.key, m.value, m.write};
  all.insert(all.end(), layers.weights.begin(), layers.weights.end());
  return all;
}

// What each cell has, stacked.
template <typename Part>
at::Tensor stacked(const std::vector<SegmentCell>& cells, Part&& part_of) {
  variable_list list;
  for (const SegmentCell& cell : cells) list.push_back(part_of(cell));
  return at::stack(list);
}

// One rank's part of one call, and of its backward.
class SegmentRun {
 public:
  SegmentRun(const SegmentLayers& layers, std::shared_ptr<const CellSchedule> schedule, Endpoint& endpoint, bool keep)
      : layers_(layers),
        schedule_(std::move(schedule)),
        endpoint_(endpoint),
        keep_(keep),
        rank_(static_cast<size_t>(endpoint.rank())),
        block_(schedule_->blocks[rank_]),
        rows_(static_cast<size_t>(schedule_->segments)),
        row_(at::empty({layers.tokens, layers.memory.value.size(2)},
                       layers.memory.value.options().requires_grad(false))) {
    layers_.weights.clear(), layers_.memory = {};  // they come with the calls
  }

  Endpoint& endpoint() const { return endpoint_; }

  // Without a graph from the parameters to the result: that is of each step alone, and kept here.
  at::Tensor forward(const at::Tensor& x, const variable_list& parameters) {
    if (rank_ == 0) put_rows(x.detach());
    const SegmentMemory empty = empty_memory({parameters[0], parameters[1], parameters[2], parameters[3]}, layers_.nu);
    w_ = empty.w.unbind(), z_ = empty.z.unbind();
    for (const CellStep& step : steps()) {
      for (const CellHop& hop : step.receive) row(hop.segment) = receive(hop, kForward);
      if (!step.cells.empty()) run_group(step.cells, parameters);
      for (const CellHop& hop : step.send) send(hop, kForward);
    }
    w_.clear(), z_.clear();
    const at::Tensor out = last() ? at::stack(rows_) : no_rows();
    rows_.assign(rows_.size(), at::Tensor());
    return out;
  }

  struct Gradients {
    at::Tensor x;  // on the first rank
    variable_list parameters;
  };
  // dout of what forward gave; once.
  Gradients backward(const at::Tensor& dout) {
    if (tape_.empty()) {
      throw Error(ErrorCode::usage, "run_segments: backward ran already, and its graph is gone; run forward again");
    }
    if (last()) put_rows(dout);
    dparameters_.assign(parameters_, at::Tensor());
    w_.assign(static_cast<size_t>(block_.size()), at::Tensor()), z_ = w_;
    for (auto step = steps().rbegin(); step != steps().rend(); ++step) {
      for (auto hop = step->send.rbegin(); hop != step->send.rend(); ++hop) {
        row(hop->segment) = receive(*hop, kBackward);
      }
      if (!step->cells.empty()) {
        run_group_backward(step->cells, tape_.back());
        tape_.pop_back();
      }
      for (auto hop = step->receive.rbegin(); hop != step->receive.rend(); ++hop) send(*hop, kBackward);
    }
    w_.clear(), z_.clear();
    return {rank_ == 0 ? at::stack(rows_) : at::Tensor(), std::move(dparameters_)};
  }

 private:
  enum Phase : int { kForward, kBackward };
  // A group's inputs: x, w, z and the parameters of its layers; and its outputs: x, w, z.
  struct Group {
    variable_list inputs, outputs;
  };

  const std::vector<CellStep>& steps() const { return schedule_->ranks[rank_]; }
  bool last() const { return rank_ + 1 == schedule_->ranks.size(); }
  at::Tensor no_rows() const { return at::empty({0, row_.size(0), row_.size(1)}, row_.options()); }
  at::Tensor& row(int64_t segment) { return rows_[static_cast<size_t>(segment)]; }
  size_t own(const SegmentCell& cell) const { return static_cast<size_t>(cell.layer - block_.begin); }
  void put_rows(const at::Tensor& x) { rows_ = x.unbind(); }

  uint64_t label(const CellHop& hop, Phase phase) const {
    return Digest().add(static_cast<int>(phase)).add(hop.segment).add(row_.size(0)).add(row_.size(1)).value();
  }
  void send(const CellHop& hop, Phase phase) {
    Transfer transfer;
    const at::Tensor leaving = row(hop.segment).contiguous();
    transfer.send.push_back({.peer = hop.peer, .parts = {torch_internal::outgoing_tensor(leaving, label(hop, phase))}});
    endpoint_.post(std::move(transfer));  // what has been posted arrives; nobody waits for it here
    row(hop.segment) = at::Tensor();
  }
  at::Tensor receive(const CellHop& hop, Phase phase) {
    const at::Tensor arriving = at::empty_like(row_);
    Transfer transfer;
    transfer.receive.push_back(
        {.peer = hop.peer, .parts = {torch_internal::incoming_tensor(arriving, label(hop, phase))}});
    endpoint_.post(std::move(transfer))->wait(Until::usable);
    return arriving;
  }

  void run_group(const std::vector<SegmentCell>& cells, const variable_list& parameters) {
    Group group;
    group.inputs = {stacked(cells, [&](const SegmentCell& cell) { return row(cell.segment); }),
                    stacked(cells, [&](const SegmentCell& cell) { return w_[own(cell)]; }),
                    stacked(cells, [&](const SegmentCell& cell) { return z_[own(cell)]; })};
    const auto first = static_cast<int64_t>(own(cells[0])), count = static_cast<int64_t>(cells.size());
    for (const at::Tensor& t : parameters) group.inputs.push_back(t.detach().narrow(0, first, count));
    if (keep_) {
      for (size_t i = 0; i < group.inputs.size(); ++i) {
        group.inputs[i].requires_grad_(i < 3 || parameters[i - 3].requires_grad());
      }
    }
    {
      const at::AutoGradMode recording(keep_);
      group.outputs = cell_of(group.inputs);
    }
    for (size_t i = 0; i < cells.size(); ++i) {
      const auto at_cell = [&](size_t output) { return group.outputs[output].detach()[static_cast<int64_t>(i)]; };
      row(cells[i].segment) = at_cell(0), w_[own(cells[i])] = at_cell(1), z_[own(cells[i])] = at_cell(2);
    }
    if (keep_) parameters_ = parameters.size(), tape_.push_back(std::move(group));
  }

  variable_list cell_of(const variable_list& inputs) const {
    const MemoryWeights weights{inputs[3], inputs[4], inputs[5], inputs[6]};
    const SegmentMemory memory{inputs[1], inputs[2]};
    const at::Tensor x = layers_.run(read_memory(inputs[0], memory, weights, layers_.nu),
                                     {inputs.begin() + 3 + kMemoryWeights, inputs.end()});
    if (x.sizes() != inputs[0].sizes() || x.scalar_type() != inputs[0].scalar_type()) {
      throw Error(ErrorCode::usage, "run_segments: the layers made " + text_of(x.sizes()) + " of " +
                                        toString(x.scalar_type()) + " from " + text_of(inputs[0].sizes()) + " of " +
                                        toString(inputs[0].scalar_type()) + "; give back the shape and type of x");
    }
    const SegmentMemory after = write_memory(x.narrow(1, layers_.tokens - layers_.memory_tokens, layers_.memory_tokens),
                                             memory, weights, layers_.nu);
    return {x, after.w, after.z};
  }

  void run_group_backward(const std::vector<SegmentCell>& cells, const Group& group) {
    // Behind the last segment nobody reads a memory: its gradient is 0.
    const auto of_memory = [&](const variable_list& gradients, const at::Tensor& output) {
      return stacked(cells, [&](const SegmentCell& cell) {
        const at::Tensor& gradient = gradients[own(cell)];
        return gradient.defined() ? gradient : at::zeros_like(output[0]);
      });
    };
    const variable_list upstream{stacked(cells, [&](const SegmentCell& cell) { return row(cell.segment); }),
                                 of_memory(w_, group.outputs[1].detach()), of_memory(z_, group.outputs[2].detach())};
    variable_list asked;
    for (const at::Tensor& t : group.inputs) {
      if (t.requires_grad()) asked.push_back(t);
    }
    const variable_list gradients = torch::autograd::grad(group.outputs, asked, upstream, std::nullopt, false, true);
    const auto or_zeros = [&](size_t i) { return gradients[i].defined() ? gradients[i] : at::zeros_like(asked[i]); };
    const at::Tensor dx = or_zeros(0), dw = or_zeros(1), dz = or_zeros(2);
    for (size_t i = 0; i < cells.size(); ++i) {
      const auto n = static_cast<int64_t>(i);
      row(cells[i].segment) = dx[n], w_[own(cells[i])] = dw[n], z_[own(cells[i])] = dz[n];
    }
    for (size_t p = 0, i = 3; p < parameters_; ++p) {
      if (!group.inputs[p + 3].requires_grad()) continue;
      add_to_parameter(p, cells, gradients[i++]);
    }
  }

  void add_to_parameter(size_t p, const std::vector<SegmentCell>& cells, const at::Tensor& gradient) {
    if (!gradient.defined()) return;
    if (!dparameters_[p].defined()) {
      std::vector<int64_t> sizes = gradient.sizes().vec();
      sizes[0] = block_.size();
      dparameters_[p] = at::zeros(sizes, gradient.options());
    }
    dparameters_[p].narrow(0, static_cast<int64_t>(own(cells[0])), gradient.size(0)).add_(gradient);
  }

  SegmentLayers layers_;
  const std::shared_ptr<const CellSchedule> schedule_;
  Endpoint& endpoint_;
  const bool keep_;
  const size_t rank_;
  const Range block_;
  variable_list rows_;    // of each segment that is here: activations, in backward their gradients
  const at::Tensor row_;  // the form of one
  variable_list w_, z_;   // by layer of the rank: memories, in backward their gradients
  size_t parameters_ = 0;
  std::vector<Group> tape_;
  variable_list dparameters_;
};

class SegmentNode : public torch::autograd::Function<SegmentNode> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const std::optional<at::Tensor>& x,
                            at::TensorList parameters, const std::shared_ptr<SegmentRun>& run) {
    context->saved_data["run"] = c10::IValue::make_capsule(c10::make_intrusive<Kept>(run));
    return run->forward(x.value_or(at::Tensor()), parameters.vec());
  }
  static variable_list backward(torch::autograd::AutogradContext* context, variable_list grads) {
    const auto kept = c10::static_intrusive_pointer_cast<Kept>(context->saved_data["run"].toCapsule());
    SegmentRun& run = *kept->run;
    return torch_internal::stopping_all(run.endpoint(), [&] {
      if (at::GradMode::is_enabled()) {
        throw Error(ErrorCode::usage, "run_segments: gradients of gradients are not there; leave create_graph out");
      }
      SegmentRun::Gradients done = run.backward(grads[0]);
      variable_list all{done.x};
      all.insert(all.end(), done.parameters.begin(), done.parameters.end());
      all.emplace_back();  // of `run`
      return all;
    });
  }

 private:
  struct Kept : torch::CustomClassHolder {
    explicit Kept(std::shared_ptr<SegmentRun> r) : run(std::move(r)) {}
    std::shared_ptr<SegmentRun> run;
  };
};

[[noreturn]] void refuse_segments(const std::string& text) { throw Error(ErrorCode::usage, "run_segments: " + text); }

void require_tensor(const std::string& name, const at::Tensor& t, const at::Tensor& like,
                    const std::vector<int64_t>& sizes) {
  if (t.defined() && t.sizes() == at::IntArrayRef(sizes) && t.scalar_type() == like.scalar_type() &&
      t.device() == like.device()) {
    return;
  }
  const std::string given = t.defined() ? text_of(t.sizes()) + " of " + toString(t.scalar_type()) : "missing";
  refuse_segments(name + " is " + given + "; here it is " + text_of(sizes) + " of " + toString(like.scalar_type()));
}

void require_fit(const at::Tensor& x, const SegmentLayers& layers, const CellSchedule& schedule,
                 const Endpoint& endpoint) {
  if (static_cast<int>(schedule.ranks.size()) != endpoint.ranks()) {
    refuse_segments("a schedule of " + std::to_string(schedule.ranks.size()) + " ranks on " +
                    std::to_string(endpoint.ranks()) + "; make it for as many");
  }
  const MemoryWeights& m = layers.memory;
  const int64_t own = schedule.blocks[static_cast<size_t>(endpoint.rank())].size();
  const auto type = m.query.defined() ? m.query.scalar_type() : at::kByte;
  if (!m.query.defined() || m.query.dim() != 3 || (type != at::kFloat && type != at::kDouble) ||
      !m.query.device().is_cpu()) {
    refuse_segments("memory.query is no [layers, channels, key-dim] of float32 or float64 on the CPU");
  }
  const int64_t channels = m.query.size(1), key_dim = m.query.size(2);
  require_tensor("memory.query", m.query, m.query, {own, channels, key_dim});
  require_tensor("memory.key", m.key, m.query, {own, channels, key_dim});
  require_tensor("memory.value", m.value, m.query, {own, channels, channels});
  require_tensor("memory.write", m.write, m.query, {own, channels, 1});
  for (const at::Tensor& t : layers.weights) {
    if (t.defined() && t.dim() > 0 && t.size(0) == own && t.scalar_type() == type) continue;
    refuse_segments("weights are of this rank's " + std::to_string(own) + " layers, one each in dimension 0, and of " +
                    toString(type));
  }
  if (layers.memory_tokens < 1 || layers.tokens < layers.memory_tokens || layers.nu < 1 || !layers.run) {
    refuse_segments(std::to_string(layers.tokens) + " tokens, " + std::to_string(layers.memory_tokens) +
                    " memory tokens, nu " + std::to_string(layers.nu) +
                    "; give at least 1 memory token, as many tokens, nu of 1, and a function to run");
  }
  if (endpoint.rank() == 0) require_tensor("x", x, m.query, {schedule.segments, layers.tokens, channels});
  if (endpoint.rank() != 0 && x.defined()) refuse_segments("only the first rank gives x");
}

}  // namespace

at::Tensor run_segments(const at::Tensor& x, const SegmentLayers& layers,
                        const std::shared_ptr<const CellSchedule>& schedule, Endpoint& endpoint) {
  require_fit(x, layers, *schedule, endpoint);
  const variable_list parameters = parameters_of(layers);
  const bool differentiable =
      at::GradMode::is_enabled() &&
      ((x.defined() && x.requires_grad()) ||
       std::any_of(parameters.begin(), parameters.end(), [](const at::Tensor& t) { return t.requires_grad(); }));
  return torch_internal::stopping_all(endpoint, [&] {
    const auto run = std::make_shared<SegmentRun>(layers, schedule, endpoint, differentiable);
    if (!differentiable) return run->forward(x, parameters);
    return SegmentNode::apply(x.defined() ? std::optional<at::Tensor>(x) : std::nullopt, at::TensorList(parameters),
                              run);
  });
}

}  // namespace weft
