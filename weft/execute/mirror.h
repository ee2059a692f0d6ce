// Host tensors in the memory of kernels. Private to this folder.
#pragma once

#include <memory>

#include "weft/execute/buffer_pool.h"
#include "weft/execute/host_tensor.h"

namespace weft {

// A tensor as the kernels see it: itself, or a copy in their memory.
class Mirror {
 public:
  Mirror(BufferPool& pool, HostTensor& tensor) : memory_(pool.memory()), tensor_(tensor) {
    if (memory_.on_host() || tensor.empty()) return;
    copy_ = pool.take(bytes());
    memory_.upload(copy_.get(), tensor.data(), bytes());
  }
  void* data() const { return copy_ ? copy_.get() : tensor_.data(); }
  void download() const {  // what was computed there becomes the tensor
    if (copy_) memory_.download(tensor_.data(), copy_.get(), bytes());
  }

 private:
  int64_t bytes() const { return static_cast<int64_t>(tensor_.bytes.size()); }

  const Memory& memory_;
  HostTensor& tensor_;
  std::shared_ptr<std::byte> copy_;
};

}  // namespace weft
