#include "weft/torch/torch_kernels.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/maximum.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "weft/base/error.h"
#include "weft/torch/packed_pieces.h"
#include "weft/torch/torch_memory.h"
#include "weft/torch/types.h"

namespace weft {
namespace {

using kernels::AttendArgs;
using kernels::AttendBackwardArgs;
using kernels::ConstView;
using kernels::Shape;
using kernels::View;
using namespace torch_internal;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Operators compute as they are called: on this device, without autograd, and in the types given, whatever autocast says.
class Plainly {
 public:
  explicit Plainly(c10::Device device) : device_(device) {}

 private:
  const c10::OptionalDeviceGuard device_;
  const at::AutoDispatchBelowAutograd no_autograd_;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast_{c10::autocast_dispatch_keyset};
};

// Query heads [begin, end) of a call, equally many for each of consecutive kv heads.
struct HeadGroup {
  int64_t begin = 0, end = 0;
  int64_t kv_begin = 0, kv_end = 0;
};

// All heads in one group where they divide evenly, else one group for each kv head.
std::vector<HeadGroup> head_groups(std::span<const int32_t> kv_head) {
  std::vector<HeadGroup> groups;
  const int64_t heads = static_cast<int64_t>(kv_head.size());
  for (int64_t h = 0; h < heads; ++h) {
    if (h > 0 && kv_head[static_cast<size_t>(h)] == groups.back().kv_begin) {
      ++groups.back().end;
    } else {
      groups.push_back({h, h + 1, kv_head[static_cast<size_t>(h)], kv_head[static_cast<size_t>(h)] + 1});
    }
  }
  for (size_t i = 1; i < groups.size(); ++i) {
    const bool even = groups[i].end - groups[i].begin == groups[0].end - groups[0].begin &&
                      groups[i].kv_begin == groups[i - 1].kv_begin + 1;
    if (!even) return groups;
  }
  if (groups.empty()) return groups;
  return {{0, heads, groups.front().kv_begin, groups.back().kv_end}};
}

class TorchKernels final : public kernels::KernelSet {
 public:
  TorchKernels(c10::Device device, TorchAttention attention)
      : device_(device),
        memory_(torch_memory(device)),
        attention_(attention),
        name_((attention == TorchAttention::flash ? "torch " : "torch-dense ") + device.str()) {}

  std::string_view name() const override { return name_; }
  bool supports(DType) const override { return true; }
  const Memory& memory() const override { return memory_; }
  DType partial(DType element) const override {
    return attention_ == TorchAttention::flash && size_of(element) == 2 ? element : KernelSet::partial(element);
  }

  void attend(const AttendArgs& a) const override {
    const Plainly plainly(device_);
    const std::vector<PieceCall> calls = piece_calls(a.blocks, device_, false);
    const BlockAttention& attention = attention_for(a.q.type, a.dim, a.dim_v);
    for (const HeadGroup& heads : head_groups(a.kv_head)) {
      const int64_t count = heads.end - heads.begin;
      for (const PieceCall& call : calls) {
        if (a.stop) a.stop->poll();
        const PackedResult result = attention.forward(packed_call(a, call, heads));
        const at::Tensor o = tensor(a.o, call.out.end, heads.begin, count, a.dim_v);
        const at::Tensor lse = tensor(a.lse, call.out.end, heads.begin, count, 1);
        const at::Tensor mine_o = call.out.select(o), mine_lse = call.out.select(lse);
        merge_into(mine_o, mine_lse, result.out, result.lse.unsqueeze(-1));
        call.out.put(o, mine_o);
        call.out.put(lse, mine_lse);
      }
    }
  }

  void attend_backward(const AttendBackwardArgs& a) const override {
    const Plainly plainly(device_);
    const std::vector<PieceCall> calls = piece_calls(a.blocks, device_, true);
    const BlockAttention& attention = attention_for(a.q.type, a.dim, a.dim_v);
    for (const HeadGroup& heads : head_groups(a.kv_head)) {
      const int64_t count = heads.end - heads.begin, kv_count = heads.kv_end - heads.kv_begin;
      for (const PieceCall& call : calls) {
        if (a.stop) a.stop->poll();
        const auto of_row = [&](const ConstView& view) {
          return call.bundle.select(tensor(view, call.bundle.end, heads.begin, count, 1)).squeeze(-1);
        };
        const PackedGradients grads =
            attention.backward(packed_call(a, call, heads),
                               call.bundle.select(tensor(a.dout, call.bundle.end, heads.begin, count, a.dim_v)),
                               of_row(a.lse), of_row(a.delta));
        const auto sum = [](const PackedRows& rows, const at::Tensor& all, const at::Tensor& more) {
          const at::Tensor mine = rows.select(all);
          rows.put(all, mine.add_(more));
        };
        if (a.dq.data) sum(call.out, tensor(a.dq, call.out.end, heads.begin, count, a.dim), grads.q);
        if (a.dk.data) sum(call.grad, tensor(a.dk, call.grad.end, heads.kv_begin, kv_count, a.dim), grads.k);
        if (a.dv.data) sum(call.grad, tensor(a.dv, call.grad.end, heads.kv_begin, kv_count, a.dim_v), grads.v);
      }
    }
  }

  void prepare_backward(View delta, ConstView out, ConstView dout, ConstView dlse, Shape s) const override {
    const Plainly plainly(device_);
    const at::ScalarType type = torch_type(delta.type);
    at::Tensor sum = (tensor(out, s).to(type) * tensor(dout, s).to(type)).sum(-1, true);
    const Shape one{s.rows, s.heads, 1};
    if (dlse.data) sum = sum - tensor(dlse, one);
    tensor(delta, one).copy_(sum);
  }
  void merge(View o, View lse, ConstView from_o, ConstView from_lse, Shape s) const override {
    const Plainly plainly(device_);
    const Shape one{s.rows, s.heads, 1};
    merge_into(tensor(o, s), tensor(lse, one), tensor(from_o, s), tensor(from_lse, one));
  }
  void add(View to, ConstView from, Shape s) const override {
    const Plainly plainly(device_);
    tensor(to, s).add_(tensor(from, s));
  }
  void convert(View to, ConstView from, Shape s) const override {
    const Plainly plainly(device_);
    tensor(to, s).copy_(tensor(from, s));
  }
  void fill(View to, double value, int64_t elements) const override {
    const Plainly plainly(device_);
    if (elements == 0) return;
    tensor({to.data, to.type, 1, 1}, {elements, 1, 1}).fill_(value);
  }

 private:
  at::Tensor tensor(const ConstView& view, Shape s) const {
    const auto options = at::TensorOptions().dtype(torch_type(view.type)).device(device_);
    if (s.rows * s.heads * s.columns == 0) return at::empty({s.rows, s.heads, s.columns}, options);
    return at::for_blob(const_cast<void*>(view.data), {s.rows, s.heads, s.columns})
        .strides({view.row_stride, view.head_stride, 1})
        .options(options)
        .target_device(device_)
        .make_tensor();
  }
  // Rows up to `end`, some heads.
  at::Tensor tensor(const ConstView& view, int64_t end, int64_t head, int64_t heads, int64_t columns) const {
    ConstView from = view;
    from.data = static_cast<const std::byte*>(view.data) + head * view.head_stride * size_of(view.type);
    return tensor(from, {end, heads, columns});
  }

  // What both directions take, for some heads of the pieces.
  template <typename Args>
  PackedCall packed_call(const Args& a, const PieceCall& call, const HeadGroup& heads) const {
    const int64_t count = heads.end - heads.begin, kv_count = heads.kv_end - heads.kv_begin;
    return {.q = call.q.select(tensor(a.q, call.q.end, heads.begin, count, a.dim)),
            .k = call.k.select(tensor(a.k, call.k.end, heads.kv_begin, kv_count, a.dim)),
            .v = call.k.select(tensor(a.v, call.k.end, heads.kv_begin, kv_count, a.dim_v)),
            .q_ends = call.q.ends,
            .k_ends = call.k.ends,
            .causal = call.triangles,
            .scale = a.scale,
            .stop = a.stop};
  }

  // All [rows, heads, columns], lse with one column; the first two are written.
  static void merge_into(const at::Tensor& o, const at::Tensor& lse, const at::Tensor& from_o,
                         const at::Tensor& from_lse) {
    const at::Tensor larger = at::maximum(lse, from_lse);
    const at::Tensor base = larger.masked_fill(larger == -kInfinity, 0);
    const at::Tensor ours = (lse - base).exp(), theirs = (from_lse - base).exp(), sum = ours + theirs;
    const at::Tensor whole = sum.masked_fill(sum == 0, 1);
    o.mul_(ours / whole).add_(from_o.to(o.scalar_type()) * (theirs / whole));
    lse.copy_(base + sum.log());
  }

  const BlockAttention& attention_for(DType element, int64_t dim, int64_t dim_v) const {
    const bool fits = device_.is_cpu() ? true : size_of(element) == 2 && dim <= 256;
    if (attention_ == TorchAttention::dense || dim != dim_v || !fits) return dense_attention_blocks();
    return device_.is_cpu() ? flash_cpu_blocks() : flash_gpu_blocks();
  }

  const c10::Device device_;
  const TorchMemory& memory_;
  const TorchAttention attention_;
  const std::string name_;
};

}  // namespace

const kernels::KernelSet& torch_kernels(c10::Device device, TorchAttention attention) {
  static std::mutex mutex;
  static auto& all = *new std::map<std::pair<std::string, TorchAttention>, std::unique_ptr<TorchKernels>>();
  torch_memory(device);  // refuses devices that are not there
  const std::lock_guard lock(mutex);
  auto& set = all[{device.str(), attention}];
  if (!set) set = std::make_unique<TorchKernels>(device, attention);
  return *set;
}

const kernels::KernelSet& kernels_for(c10::Device device, DType element, bool plain) {
  const char* variable = std::getenv("WEFT_KERNEL");
  const std::string_view forced = variable ? variable : "";
  if (forced == "torch-dense") return torch_kernels(device, TorchAttention::dense);
  if (forced == "torch" || !device.is_cpu()) return torch_kernels(device);
  return plain || element == DType::fp64 ? kernels::reference_kernels() : kernels::cpu_kernels();
}

}  // namespace weft
