#include "weft/torch/torch_memory.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/Allocator.h>
#include <c10/core/DeviceGuard.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "weft/base/error.h"

namespace weft {
namespace {

// The widest integers that fit addresses and lengths.
at::ScalarType word_of(uint64_t all) { return all % 8 == 0 ? at::kLong : all % 4 == 0 ? at::kInt : at::kByte; }

class DeviceMemory final : public TorchMemory {
 public:
  explicit DeviceMemory(c10::Device device)
      : device_(device), name_("torch " + device.str()), allocator_(c10::GetAllocator(device.type())) {}

  c10::Device device() const override { return device_; }
  std::string_view name() const override { return name_; }
  bool on_host() const override { return device_.is_cpu(); }
  bool caches() const override { return !device_.is_cpu(); }

  std::byte* allocate(int64_t bytes) const override {
    const c10::OptionalDeviceGuard guard(device_);
    return static_cast<std::byte*>(allocator_->raw_allocate(static_cast<size_t>(bytes)));
  }
  void free(std::byte* data) const noexcept override { allocator_->raw_deallocate(data); }
  void set(std::byte* data, int64_t bytes, uint8_t value) const override {
    if (bytes > 0) words(data, 1, bytes, bytes, at::kByte).fill_(value);
  }
  void copy(std::span<const Region> from, std::span<const Region> to) const override {
    RegionCursor source(from), target(to);
    while (!source.at_end() && !target.at_end()) {
      const int64_t bytes = std::min(source.run(), target.run());
      const auto out = source.steps_of(bytes), in = target.steps_of(bytes);
      const int64_t rows = std::max<int64_t>(1, std::min(out.count, in.count));
      const auto word =
          word_of(reinterpret_cast<uintptr_t>(source.data()) | reinterpret_cast<uintptr_t>(target.data()) |
                  static_cast<uint64_t>(bytes | out.stride | in.stride));
      words(target.data(), rows, bytes, in.stride, word).copy_(words(source.data(), rows, bytes, out.stride, word));
      source.advance_steps(bytes, rows);
      target.advance_steps(bytes, rows);
    }
    WEFT_CHECK(source.at_end() && target.at_end());
  }
  void upload(std::byte* to, const void* from, int64_t bytes) const override {
    if (bytes > 0) words(to, 1, bytes, bytes, at::kByte).copy_(host_bytes(from, bytes));
  }
  void download(void* to, const std::byte* from, int64_t bytes) const override {
    if (bytes > 0) host_bytes(to, bytes).copy_(words(from, 1, bytes, bytes, at::kByte));
  }

 private:
  at::Tensor words(const std::byte* data, int64_t rows, int64_t bytes, int64_t stride, at::ScalarType word) const {
    const int64_t size = static_cast<int64_t>(c10::elementSize(word));
    return at::for_blob(const_cast<std::byte*>(data), {rows, bytes / size})
        .strides({stride / size, 1})
        .options(at::TensorOptions().dtype(word).device(device_))
        .target_device(device_)
        .make_tensor();
  }
  static at::Tensor host_bytes(const void* data, int64_t bytes) {
    return at::from_blob(const_cast<void*>(data), {1, bytes}, at::TensorOptions().dtype(at::kByte));
  }

  const c10::Device device_;
  const std::string name_;
  c10::Allocator* const allocator_;
};

}  // namespace

const TorchMemory& torch_memory(c10::Device device) {
  static std::mutex mutex;
  static auto& all = *new std::map<std::string, std::unique_ptr<DeviceMemory>>();  // buffers may outlive everything
  if (!device.is_cpu() && !device.has_index()) {
    throw Error(ErrorCode::usage, "device " + device.str() + " has no number; give one, as " + device.str() + ":0");
  }
  const std::lock_guard lock(mutex);
  auto& memory = all[device.str()];
  if (!memory) {
    try {
      memory = std::make_unique<DeviceMemory>(device);
    } catch (const std::exception&) {
      all.erase(device.str());
      throw Error(ErrorCode::unsupported, "this torch has no memory on " + device.str());
    }
  }
  return *memory;
}

c10::Device device_of(const Memory& memory) {
  const auto* of_torch = dynamic_cast<const TorchMemory*>(&memory);
  return of_torch ? of_torch->device() : c10::Device(c10::kCPU);
}

}  // namespace weft
