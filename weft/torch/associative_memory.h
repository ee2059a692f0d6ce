// Gated associative memory (GAM, Acharya 2025) over any layout: what a token reads of its neighbours, by a short causal convolution
// inside its document, and what it finds in a learned memory of some slots, each through a gate of its own.
//
//   at::Tensor y = gated_associative_memory(n, gates, {.taps = w, .bias = b, .memory = m}, halo);     // [tokens, channels]
//
//   y = sigmoid(gates_local) * convolution(n) + sigmoid(gates_global) * softmax(n M^T) V
//
// n is the block's input behind its norm and gates a product of it; the sum with the input and the feed-forward part are the
// caller's. Only the convolution's halo travels (weft/torch/short_convolution.h); all else is of one token.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "weft/torch/halo_exchange.h"

namespace weft {

struct AssociativeWeights {
  at::Tensor taps;         // [channels, width], of the halo's width
  at::Tensor bias = {};    // [channels], or undefined
  at::Tensor memory;       // M: [slots, channels]
  at::Tensor values = {};  // V: [slots, channels]; undefined: M
};

// x [local tokens, channels], gates [local tokens, 2 channels], local ones first; one floating type, on the CPU. Differentiable in
// all; gradients of the weights are this rank's share. Calls as of short_convolution. Throws Error(usage) for other shapes.
at::Tensor gated_associative_memory(const at::Tensor& x, const at::Tensor& gates, const AssociativeWeights& weights,
                                    const std::shared_ptr<HaloExchange>& halo);

// The part of one token, from what the convolution gave; x, local [.., channels], gates [.., 2 channels]. `who` begins messages.
at::Tensor retrieve_and_gate(const char* who, const at::Tensor& local, const at::Tensor& x, const at::Tensor& gates,
                             const at::Tensor& memory, const at::Tensor& values);

}  // namespace weft
