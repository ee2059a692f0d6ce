// Memory: where values lie, the host's or a device's, and the few things that are done to bytes there.
//
//   const Memory& memory = host_memory();
//   std::byte* data = memory.allocate(bytes);
//   memory.copy(regions_here, regions_there);
//
// Everything that an executor does to values goes through its kernels (kernels/kernels.h) and through their memory; so
// the same executor runs on a device once there are both for it (torch/torch_kernels.h). On a device, work is queued: a
// call returns before it is done, and is done after what was queued before it, by whichever thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace weft {

// `rows` pieces of row_bytes each, `stride` bytes from one to the next.
struct Region {
  std::byte* data = nullptr;
  int64_t rows = 0;
  int64_t row_bytes = 0;
  int64_t stride = 0;

  int64_t bytes() const { return rows * row_bytes; }
  bool contiguous() const { return rows <= 1 || stride == row_bytes; }
};

// Stateless to its users, and safe to use from several threads at once.
class Memory {
 public:
  virtual ~Memory() = default;
  // "host", "cuda:0", ...
  virtual std::string_view name() const = 0;
  // Whether the processor can read and write it in place.
  virtual bool on_host() const = 0;
  // Whether it remembers what was freed by itself, so that a pool above it should not.
  virtual bool caches() const = 0;

  // At least `bytes` bytes aligned to 64, contents undefined. Throws std::bad_alloc.
  virtual std::byte* allocate(int64_t bytes) const = 0;
  virtual void free(std::byte* data) const noexcept = 0;
  // Every byte becomes `value`.
  virtual void set(std::byte* data, int64_t bytes, uint8_t value) const = 0;
  // Bytes in order of regions; both lists have equally many, and lie here.
  virtual void copy(std::span<const Region> from, std::span<const Region> to) const = 0;
  // From and to the host's memory; done when the call returns.
  virtual void upload(std::byte* to, const void* from, int64_t bytes) const = 0;
  virtual void download(void* to, const std::byte* from, int64_t bytes) const = 0;
};

const Memory& host_memory();

// What Memory::copy does, for the host.
void copy_regions(std::span<const Region> from, std::span<const Region> to);

// Walks a list of regions in pieces of contiguous bytes.
class RegionCursor {
 public:
  explicit RegionCursor(std::span<const Region> regions) : regions_(regions) { settle(); }
  bool at_end() const { return regions_.empty(); }
  // Contiguous bytes from here.
  int64_t run() const { return end_ - offset_; }
  std::byte* data() const { return regions_[0].data + row_ * regions_[0].stride + offset_; }
  void advance(int64_t bytes);

  // Equal steps from here: so many whole pieces of `bytes` each, `stride` apart. A run that is long enough counts as such
  // pieces, too; 0 when this place is not at the beginning of one.
  struct Steps {
    int64_t count = 0;
    int64_t stride = 0;
  };
  Steps steps_of(int64_t bytes) const;
  // Over that many of them.
  void advance_steps(int64_t bytes, int64_t count);

 private:
  // To the first byte of the next region that has one.
  void settle();

  std::span<const Region> regions_;
  int64_t row_ = 0;
  int64_t offset_ = 0;
  int64_t end_ = 0;
};

}  // namespace weft
