"""Short causal convolution and token shift over a plan."""

from __future__ import annotations

import torch

from weft._plan import Plan


def short_convolution(x: torch.Tensor, weight: torch.Tensor, plan: Plan, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A depthwise causal convolution of this rank's tokens, over the whole sequence: as if one process had it, document by document.
    Differentiable in every tensor.

    out[t] = bias + sum over j < width of weight[:, j] * x[t - width + 1 + j], with 0 for tokens before the document: torch's conv1d with
    groups = channels and width - 1 zeros on the left of each document. An activation goes outside.
    x: [batch, local tokens, channels], or without the batch; any strides; float64, float32, bfloat16 or float16, in main memory.
    weight: [channels, width], or [channels, 1, width] as torch.nn.Conv1d has it; bias: [channels]. The same on all ranks; their gradients
        are this rank's share, to be summed over the ranks.
    plan: of any layer and layout. Only rows that tokens of another rank read are sent, and nothing where no document crosses.

    Sums are float32 (float64 for float64). Every rank of the plan's group calls it, and its backward, equally often and in the same
    order, with the same width, dtype, batch and channels. Raises ValueError for tensors that are not the plan's, RuntimeError when a
    rank failed.
    """
    _require_plan("short_convolution", plan)
    if weight.dim() == 3 and weight.size(1) == 1:
        weight = weight.squeeze(1)
    if weight.dim() != 2:
        plan.refuse(f"weft.short_convolution: weight is {list(weight.shape)}; give [channels, width] or [channels, 1, width]")
    return _convolve("short_convolution", x, weight, bias, plan)


def token_shift(x: torch.Tensor, plan: Plan) -> torch.Tensor:
    """Row t is x of the token before t in its document, and 0 for the first: the token shift of RWKV. Bit for bit, differentiable; x, plan
    and calls as of weft.short_convolution."""
    _require_plan("token_shift", plan)
    return _convolve("token_shift", x, None, None, plan)


def gated_associative_memory(x: torch.Tensor, gates: torch.Tensor, weight: torch.Tensor, memory: torch.Tensor, plan: Plan,
                             bias: torch.Tensor | None = None, values: torch.Tensor | None = None) -> torch.Tensor:
    """Gated associative memory (GAM) of this rank's tokens: what a token reads of its neighbours and what it finds in a learned memory,
    each through a gate. Differentiable in every tensor.

    out = sigmoid(gates[..., :channels]) * short_convolution(x, weight, plan, bias)
        + sigmoid(gates[..., channels:]) * softmax(x memory^T) values
    x: a block's input behind its norm, [batch, local tokens, channels] or without the batch; gates: a product of it, [..., 2 * channels].
    weight, bias, plan, calls and errors: as of weft.short_convolution; only its rows travel.
    memory, values: [slots, channels], values by default the memory itself; of the type of x. The same on all ranks, as weight is.
    """
    _require_plan("gated_associative_memory", plan)
    if gates.shape != (*x.shape[:-1], 2 * x.size(-1)):
        plan.refuse(f"weft.gated_associative_memory: gates are {list(gates.shape)}; for this x they are {[*x.shape[:-1], 2 * x.size(-1)]}, "
                    "local ones first")
    local = short_convolution(x, weight, plan, bias)
    return torch.ops.weft.retrieve_and_gate(local, x, gates, memory, memory if values is None else values)


def _convolve(who: str, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, plan: Plan) -> torch.Tensor:
    if x.dim() not in (2, 3):
        plan.refuse(f"weft.{who}: x is {list(x.shape)}; give [batch, local tokens, channels] or [local tokens, channels]")
    out = torch.ops.weft.short_convolution(x if x.dim() == 3 else x.unsqueeze(0), weight, bias, plan.handle)
    return out if x.dim() == 3 else out.squeeze(0)


def _require_plan(who: str, plan: Plan) -> None:
    if not isinstance(plan, Plan):
        raise TypeError(f"weft.{who}: plan is {type(plan).__name__}; make one with weft.plan(...)")
