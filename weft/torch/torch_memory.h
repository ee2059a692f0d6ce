// Memory of a torch device, by torch's allocators and copies.
#pragma once

#include <c10/core/Device.h>

#include "weft/base/memory.h"

namespace weft {

class TorchMemory : public Memory {
 public:
  virtual c10::Device device() const = 0;
};

// One object per device, for ever. Throws Error(unsupported) when this torch, or this machine, has no such device.
const TorchMemory& torch_memory(c10::Device device);

// The device in which a memory lies: main memory for all that is not torch's.
c10::Device device_of(const Memory& memory);

}  // namespace weft
