#include "weft/base/memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "weft/base/error.h"

namespace weft {

void RegionCursor::advance(int64_t bytes) {
  offset_ += bytes;
  if (offset_ < end_) return;
  offset_ = 0;
  row_ += regions_[0].contiguous() ? regions_[0].rows : 1;
  if (row_ < regions_[0].rows) return;
  regions_ = regions_.subspan(1);
  settle();
}

void RegionCursor::settle() {
  while (!regions_.empty() && regions_[0].bytes() == 0) regions_ = regions_.subspan(1);
  row_ = 0;
  offset_ = 0;
  end_ = regions_.empty() ? 0 : regions_[0].contiguous() ? regions_[0].bytes() : regions_[0].row_bytes;
}

RegionCursor::Steps RegionCursor::steps_of(int64_t bytes) const {
  const Region& region = regions_[0];
  if (region.contiguous()) return {run() / bytes, bytes};
  if (offset_ == 0 && region.row_bytes == bytes) return {region.rows - row_, region.stride};
  return {run() / bytes, bytes};
}

void RegionCursor::advance_steps(int64_t bytes, int64_t count) {
  const Region& region = regions_[0];
  if (region.contiguous() || offset_ != 0 || region.row_bytes != bytes) return advance(bytes * count);
  row_ += count - 1;
  advance(bytes);
}

void copy_regions(std::span<const Region> from, std::span<const Region> to) {
  RegionCursor source(from), target(to);
  while (!source.at_end() && !target.at_end()) {
    const int64_t bytes = std::min(source.run(), target.run());
    std::memcpy(target.data(), source.data(), static_cast<size_t>(bytes));
    source.advance(bytes);
    target.advance(bytes);
  }
  WEFT_CHECK(source.at_end() && target.at_end());
}

namespace {

class HostMemory final : public Memory {
 public:
  std::string_view name() const override { return "host"; }
  bool on_host() const override { return true; }
  bool caches() const override { return false; }
  std::byte* allocate(int64_t bytes) const override {
    constexpr size_t kAlignment = 64;
    const size_t size = std::max(kAlignment, (static_cast<size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment);
    auto* data = static_cast<std::byte*>(std::aligned_alloc(kAlignment, size));
    if (!data) throw std::bad_alloc();
    return data;
  }
  void free(std::byte* data) const noexcept override { std::free(data); }
  void set(std::byte* data, int64_t bytes, uint8_t value) const override {
    if (bytes > 0) std::memset(data, value, static_cast<size_t>(bytes));
  }
  void copy(std::span<const Region> from, std::span<const Region> to) const override { copy_regions(from, to); }
  void upload(std::byte* to, const void* from, int64_t bytes) const override {
    if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
  }
  void download(void* to, const std::byte* from, int64_t bytes) const override {
    if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
  }
};

}  // namespace

const Memory& host_memory() {
  static const HostMemory memory;
  return memory;
}

}  // namespace weft
