#include "weft/kernels/scratch.h"

#include <new>

namespace weft::kernels {

float* ScratchBuffer::get(int64_t count) {
  if (count > capacity_) {
    constexpr int64_t kLine = 64;  // also the room that packing may overwrite past the end: one widest vector
    const int64_t bytes = (count * static_cast<int64_t>(sizeof(float)) + kLine - 1) / kLine * kLine + kLine;
    data_.reset();
    data_.reset(static_cast<float*>(std::aligned_alloc(kLine, bytes)));
    capacity_ = data_ ? count : 0;
    if (!data_) throw std::bad_alloc();
  }
  return data_.get();
}

Scratch& thread_scratch() {
  thread_local Scratch scratch;
  return scratch;
}

}  // namespace weft::kernels
