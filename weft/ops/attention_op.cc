#include "weft/ops/attention_op.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>

#include <string>
#include <vector>

#include "weft/base/error.h"
#include "weft/ops/run_board.h"
#include "weft/torch/types.h"

namespace weft {
namespace {

// The name under which users know the call.
const char* caller(Layer layer) { return layer == Layer::softmax ? "weft.attention" : "weft.linear_attention"; }

[[noreturn]] void refuse(Layer layer, const std::string& text) {
  throw Error(ErrorCode::usage, caller(layer) + (": " + text));
}

bool is_parameter(Field field) { return field == Field::u || field == Field::du; }

CallKind kind_of(const AttentionPlan& plan, const FieldTensors& given, const CallOptions& options) {
  const at::Tensor& q = given.of(Field::q);
  const auto element = dtype_of(q.scalar_type());
  if (!element) {
    refuse(plan.spec().layer, std::string("q is of ") + toString(q.scalar_type()) +
                                  "; allowed are float64, float32, bfloat16 and float16");
  }
  return {.element = *element,
          .batch = q.dim() == 4 ? q.size(0) : 1,
          .scale = options.scale,
          .backward = options.keep,
          .lse = options.lse,
          .initial_states = given.has(Field::initial_state),
          .final_states = options.final_state,
          .state_positions = options.state_positions,
          .device = q.device().type(),
          .device_index = q.device().index()};
}

std::vector<int64_t> sizes_of(const AttentionPlan& plan, const AttentionShape& shape, Field field, int64_t batch) {
  if (is_parameter(field)) return {shape.heads, shape.dim};
  const int64_t rows = plan.local_rows(field, shape), heads = shape.heads_of(field);
  if (kDocumentFields.has(field)) return {batch, rows, heads, shape.dim, shape.dim_v};
  return {batch, rows, heads, shape.columns_of(field)};
}

void require_fitting(const AttentionPlan& plan, const FieldTensors& given, const CallKind& kind) {
  const AttentionShape shape = plan.shape(kind);
  const at::Tensor& q = given.of(Field::q);
  const Fields needed = fields_given(shape, false);
  (needed | given.fields()).for_each([&](Field field) {
    const std::string name = name_of(field);
    const at::Tensor& t = given.of(field);
    if (!needed.has(field)) {
      refuse(shape.layer, "layer " + std::string(name_of(shape.layer)) + " has no " + name + "; leave it out");
    }
    if (!t.defined()) {
      refuse(shape.layer, "layer " + std::string(name_of(shape.layer)) + " needs " + name + "; give it");
    }
    if (t.device() != q.device()) {
      refuse(shape.layer,
             name + " is on " + t.device().str() + " and q on " + q.device().str() + "; give q, k and v on one device");
    }
    const at::ScalarType type = torch_type(shape.type_of(field, Form::whole));
    if (t.scalar_type() != type) {
      refuse(shape.layer, type == q.scalar_type() ? name + " is of " + toString(t.scalar_type()) + " and q of " +
                                                        toString(q.scalar_type()) + "; give q, k and v of one type"
                                                  : name + " is of " + toString(t.scalar_type()) + "; for q of " +
                                                        toString(q.scalar_type()) + " it is of " + toString(type));
    }
    const std::vector<int64_t> sizes = sizes_of(plan, shape, field, kind.batch);
    if (t.sizes() == at::IntArrayRef(sizes)) return;
    const char* meaning = is_parameter(field)          ? "heads, columns"
                          : kDocumentFields.has(field) ? "batch, documents that begin here, heads, key dim, value dim"
                                                       : "batch, local tokens, heads, columns";
    refuse(shape.layer, name + " is " + text_of(t.sizes()) + "; this rank's part of the plan is " + text_of(sizes) +
                            " (" + meaning + "); shard it with plan.shard");
  });
  if (kind.batch == 0) refuse(shape.layer, "a batch of 0 sequences; give at least one");
  if (given.has(Field::g)) require_decays(caller(shape.layer), given.of(Field::g));
}

// [batch, rows, heads, ...] as rows of [batch x heads, ...], one for each token or document; a copy only where needed.
at::Tensor rows_of(Field field, const at::Tensor& t, int64_t batch) {
  if (!is_parameter(field)) return with_whole_rows(t.transpose(0, 1));
  return t.unsqueeze(0).expand({batch, t.size(0), t.size(1)}).contiguous().unsqueeze(0);
}

FieldTensors rows_of(const FieldTensors& given, Fields fields, int64_t batch) {
  FieldTensors rows;
  fields.for_each([&](Field field) { rows.set(field, rows_of(field, given.of(field), batch)); });
  return rows;
}

FieldTensors room_for(const AttentionPlan& plan, const CallKind& kind, const at::Tensor& q, bool backward) {
  const AttentionShape shape = plan.shape(kind);
  FieldTensors room;
  fields_gotten(shape, backward).for_each([&](Field field) {
    std::vector<int64_t> sizes = sizes_of(plan, shape, field, kind.batch);
    if (is_parameter(field)) {
      sizes.insert(sizes.begin(), {1, kind.batch});
    } else {
      std::swap(sizes[0], sizes[1]);
    }
    const auto type = torch_type(shape.type_of(field, Form::whole));
    room.set(field, at::empty(sizes, q.options().requires_grad(false).dtype(type)));
  });
  return room;
}

// Back to [batch, rows, heads, ...].
FieldTensors batches_of(const FieldTensors& rows) {
  FieldTensors batches;
  rows.fields().for_each([&](Field field) {
    const at::Tensor& t = rows.of(field);
    const at::Tensor batch = is_parameter(field) ? t[0].sum(0) : t.transpose(0, 1);
    batches.set(field, field == Field::lse ? batch.squeeze(3) : batch);
  });
  return batches;
}

// Throws for tensors that are not of the plan.
Executor& executor_for(AttentionPlan& plan, const FieldTensors& given, const CallOptions& options) {
  const CallKind kind = kind_of(plan, given, options);
  require_fitting(plan, given, kind);
  return plan.executor(kind);
}

}  // namespace

CallResult attend(const std::shared_ptr<AttentionPlan>& plan, const FieldTensors& given, const CallOptions& options) {
  const at::Tensor& q = given.of(Field::q);
  const c10::OptionalDeviceGuard on_device(q.device());
  plan->endpoint().begin_call();
  Executor* executor = nullptr;
  try {
    executor = &executor_for(*plan, given, options);
  } catch (const Error& error) {
    plan->endpoint().refuse_call(error.what());
    throw;
  }
  const CallKind kind = kind_of(*plan, given, options);
  const FieldTensors rows = rows_of(given, given.fields(), kind.batch), results = room_for(*plan, kind, q, false);
  std::unique_ptr<Execution> run = executor->start();
  run->forward(rows.inputs(), results.destinations());
  return {batches_of(results), options.keep ? pin_run(std::move(run), plan, q.device()) : no_run(q.device())};
}

FieldTensors attend_backward(const std::shared_ptr<AttentionPlan>& plan, const FieldTensors& tensors,
                             const std::optional<at::Tensor>& dlse, const at::Tensor& token,
                             const CallOptions& options) {
  const at::Tensor& q = tensors.of(Field::q);
  const c10::OptionalDeviceGuard on_device(q.device());
  CallOptions kept = options;
  kept.keep = true;
  const CallKind kind = kind_of(*plan, tensors, kept);
  const AttentionShape shape = plan->shape(kind);
  std::unique_ptr<Execution> run = take_run(token);
  if (!run) {
    FieldTensors given;
    fields_given(shape, false).for_each([&](Field field) { given.set(field, tensors.of(field)); });
    run = take_run(attend(plan, given, kept).run);
  }
  plan->executor(kind);  // its messages are of this kind of call
  FieldTensors read = tensors;
  if (read.has(Field::lse)) read.set(Field::lse, read.of(Field::lse).unsqueeze(3));
  const FieldTensors rows = rows_of(read, fields_given(shape, true), kind.batch),
                     results = room_for(*plan, kind, q, true);
  Inputs inputs = rows.inputs();
  const at::Tensor rows_dlse = dlse ? rows_of(Field::lse, dlse->unsqueeze(3), kind.batch) : at::Tensor();
  if (dlse && rows_dlse.numel() > 0) inputs.dlse = {rows_dlse.const_data_ptr(), rows_dlse.stride(0)};
  run->backward(inputs, results.destinations());
  return batches_of(results);
}

}  // namespace weft
