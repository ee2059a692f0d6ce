// Short causal convolution and token shift of this rank's tokens, over the whole sequence and inside each document:
// differentiable torch operations that exchange a halo of rows (weft/layout/halo.h).
//
//   auto halo = std::make_shared<HaloExchange>(verified, rank, endpoint);     // on every rank
//   at::Tensor y = short_convolution(x, weight, bias, halo);                  // [tokens, channels]
//   at::Tensor before = token_shift(x, halo_of_width_2);                      // row t is x of token t - 1, or 0
//
// y_t = bias + sum over j < width of weight[:, j] x_{t - width + 1 + j}, and 0 stands for tokens before the document: torch's
// conv1d with groups = channels and width - 1 zeros on the left. Activations are the caller's: token by token, no halo.
//
// Forward sends the rows that others read before it computes any, and computes the tokens that read none of them
// meanwhile; backward sends the gradients of borrowed rows home first. Sums are fp32 (fp64 for fp64), and so are gradients on the
// wire; rows travel in the type of x.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "weft/torch/halo_exchange.h"

namespace weft {

// The parts of both operations, for those who keep what backward needs themselves. Without a weight: token shift.
struct Convolved {
  at::Tensor out, halo;  // halo: the rows of others that were read, for backward
};
Convolved convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const HaloExchange& halo);
struct ConvolutionGradients {
  at::Tensor x, weight, bias;  // of the parameters: this rank's share, to be summed over the ranks with other weights
};
ConvolutionGradients convolve_backward(const at::Tensor& dout, const at::Tensor& x, const at::Tensor& rows_of_halo,
                                       const at::Tensor& weight, const HaloExchange& halo);

// x [local tokens, channels], weight [channels, width], bias [channels] or undefined; floating types on the CPU, any
// strides. Every rank calls it, and its backward, equally often and in the same order. Throws Error(usage) for other shapes.
at::Tensor short_convolution(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                             const std::shared_ptr<HaloExchange>& halo);

// `halo` is of width 2.
at::Tensor token_shift(const at::Tensor& x, const std::shared_ptr<HaloExchange>& halo);

}  // namespace weft
