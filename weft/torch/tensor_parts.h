// Tensors as parts of messages. Private to this folder.
#pragma once

#include <ATen/core/Tensor.h>

#include <exception>
#include <memory>

#include "weft/transport/transport.h"

namespace weft::torch_internal {

inline Region region_of_tensor(const at::Tensor& t) {
  const auto bytes = static_cast<int64_t>(t.nbytes());
  return {static_cast<std::byte*>(t.data_ptr()), 1, bytes, bytes};
}

// Of a whole tensor, contiguous and in main memory, which the part keeps; outgoing ones do not change any more.
inline OutgoingPart outgoing_tensor(const at::Tensor& t, uint64_t label) {
  OutgoingPart part;
  part.regions = {region_of_tensor(t)};
  part.bytes = static_cast<int64_t>(t.nbytes());
  part.label = label;
  part.lending = Lending::lasting;
  part.owner = std::make_shared<at::Tensor>(t);
  return part;
}
inline IncomingPart incoming_tensor(const at::Tensor& t, uint64_t label) {
  IncomingPart part;
  part.regions = {region_of_tensor(t)};
  part.bytes = static_cast<int64_t>(t.nbytes());
  part.label = label;
  part.owner = std::make_shared<at::Tensor>(t);
  return part;
}

// Runs f; where it throws, all ranks stop.
template <typename F>
auto stopping_all(Endpoint& endpoint, F&& f) {
  try {
    return f();
  } catch (...) {
    endpoint.fail(std::current_exception());
    throw;
  }
}

}  // namespace weft::torch_internal
