#include "weft/transport/copy.h"

#include <algorithm>
#include <cstring>

#include "weft/base/error.h"

namespace weft {
namespace {

// Walks a list of regions in pieces of contiguous bytes.
class Cursor {
 public:
  explicit Cursor(std::span<const Region> regions) : regions_(regions) { settle(); }
  bool at_end() const { return regions_.empty(); }
  // Contiguous bytes from here.
  int64_t run() const { return end_ - offset_; }
  std::byte* data() const { return regions_[0].data + row_ * regions_[0].stride + offset_; }
  void advance(int64_t bytes) {
    offset_ += bytes;
    if (offset_ < end_) return;
    offset_ = 0;
    row_ += regions_[0].contiguous() ? regions_[0].rows : 1;
    if (row_ < regions_[0].rows) return;
    regions_ = regions_.subspan(1);
    settle();
  }

 private:
  // To the first byte of the next region that has one.
  void settle() {
    while (!regions_.empty() && regions_[0].bytes() == 0) regions_ = regions_.subspan(1);
    row_ = 0;
    offset_ = 0;
    end_ = regions_.empty() ? 0 : regions_[0].contiguous() ? regions_[0].bytes() : regions_[0].row_bytes;
  }

  std::span<const Region> regions_;
  int64_t row_ = 0;
  int64_t offset_ = 0;
  int64_t end_ = 0;
};

}  // namespace

void copy_regions(std::span<const Region> from, std::span<const Region> to) {
  Cursor source(from), target(to);
  while (!source.at_end() && !target.at_end()) {
    const int64_t bytes = std::min(source.run(), target.run());
    std::memcpy(target.data(), source.data(), static_cast<size_t>(bytes));
    source.advance(bytes);
    target.advance(bytes);
  }
  WEFT_CHECK(source.at_end() && target.at_end());
}

}  // namespace weft
