"""Tokens moved from the layout of one plan to that of another."""

from __future__ import annotations

import math

import torch

from weft._plan import Plan


def relayout(x: torch.Tensor, from_plan: Plan, to_plan: Plan, dim: int = 1) -> torch.Tensor:
    """This rank's tokens of `to_plan`, of what all ranks have of `from_plan`: for a layer that wants its tokens elsewhere than the layer
    before. Bit for bit, differentiable: gradients go the other way.

    x: `from_plan`'s local tokens along `dim`; any strides; float64, float32, bfloat16 or float16, in main memory.
    from_plan, to_plan: of the same group and number of tokens; of any layers, methods and layouts.

    Each rank sends the rows that others have in the new layout, one message to each, and nothing where both layouts are the same. Every
    rank of the group calls it, and its backward, equally often and in the same order, with the same dtype and sizes beside the tokens.
    Raises ValueError for tensors that are not the plan's, RuntimeError when a rank failed.
    """
    for name, plan in (("from_plan", from_plan), ("to_plan", to_plan)):
        if not isinstance(plan, Plan):
            raise TypeError(f"weft.relayout: {name} is {type(plan).__name__}; make one with weft.plan(...)")
    if not -x.dim() <= dim < x.dim():
        from_plan.refuse(f"weft.relayout: x is {list(x.shape)}, which has no dimension {dim}")
    rows = x.movedim(dim, 0)
    out = torch.ops.weft.relayout(rows.reshape(rows.size(0), math.prod(rows.shape[1:])), from_plan.handle, to_plan.handle)
    return out.view(out.size(0), *rows.shape[1:]).movedim(0, dim)
