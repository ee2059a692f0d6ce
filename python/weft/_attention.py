"""Attention over a plan."""

from __future__ import annotations

from typing import Literal, overload

import torch

from weft._plan import Plan

Layout = Literal["bthd", "bhtd", "thd"]
_attend = torch.ops.weft.attention.default  # looked up once: each look-up costs microseconds


@overload
def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan, *, scale: float | None = None,
              return_lse: Literal[False] = False, layout: Layout = "bthd") -> torch.Tensor: ...
@overload
def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan, *, scale: float | None = None,
              return_lse: Literal[True], layout: Layout = "bthd") -> tuple[torch.Tensor, torch.Tensor]: ...


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan, *, scale: float | None = None,
              return_lse: bool = False, layout: Layout = "bthd") -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Exact softmax attention of this rank's queries over the whole sequence, under the plan's mask. Differentiable.

    q [batch, local tokens, heads, head dim], k and v with kv heads; any strides; float64, float32, bfloat16 or float16.
    scale: of the scores; default 1 / sqrt(head dim).
    return_lse: also the natural logarithm of each row's sum of exponentials, [batch, local tokens, heads], float32 (float64
        for float64), differentiable too; -inf for rows that see no key.
    layout: order of the dimensions of q, k, v and the result: batch, heads, tokens, head dim ("bhtd"), or no batch ("thd").

    Every rank of the plan's group calls it, and its backward, equally often and in the same order, with the same dtype and
    batch, and with gradients wanted on all ranks or on none. Raises ValueError for tensors that are not the plan's;
    RuntimeError when a rank failed or was silent for longer than the plan's timeout.
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"weft.attention: plan is {type(plan).__name__}; make one with weft.plan")
    if plan.layer != "softmax":
        plan.refuse(f"weft.attention: the plan is for layer {plan.layer}; use weft.linear_attention, or a plan without layer")
    if layout not in ("bthd", "bhtd", "thd"):
        plan.refuse(f"weft.attention: layout {layout!r}; allowed are 'bthd', 'bhtd' and 'thd'")
    if scale is not None and not scale > 0:
        plan.refuse(f"weft.attention: scale {scale}; give a positive number")
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (t.to(torch.get_autocast_dtype(q.device.type)) for t in (q, k, v))
    if layout == "thd":
        q, k, v = (t.unsqueeze(0) for t in (q, k, v))
    elif layout == "bhtd":
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out, lse = _attend(q, k, v, plan.handle, 0.0 if scale is None else float(scale), return_lse)
    if layout == "thd":
        out, lse = out.squeeze(0), lse.squeeze(0)
    elif layout == "bhtd":
        out, lse = out.transpose(1, 2), lse.transpose(1, 2)
    return (out, lse) if return_lse else out
