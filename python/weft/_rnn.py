"""Nonlinear recurrent networks over a plan."""

from __future__ import annotations

from typing import Literal, overload

import torch

from weft._plan import Plan


@overload
def para_rnn(cell: Literal["gru", "lstm"], x: torch.Tensor, a: torch.Tensor, plan: Plan, *, peephole: torch.Tensor | None = None,
             initial_state: torch.Tensor | None = None, return_final_state: Literal[False] = False, tolerance: float | None = None,
             iterations: int = 64) -> torch.Tensor: ...
@overload
def para_rnn(cell: Literal["gru", "lstm"], x: torch.Tensor, a: torch.Tensor, plan: Plan, *, peephole: torch.Tensor | None = None,
             initial_state: torch.Tensor | None = None, return_final_state: Literal[True], tolerance: float | None = None,
             iterations: int = 64) -> tuple[torch.Tensor, torch.Tensor]: ...


def para_rnn(cell: Literal["gru", "lstm"], x: torch.Tensor, a: torch.Tensor, plan: Plan, *, peephole: torch.Tensor | None = None,
             initial_state: torch.Tensor | None = None, return_final_state: bool = False, tolerance: float | None = None,
             iterations: int = 64) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """A GRU or LSTM with diagonal hidden matrices over the whole sequence at once (ParaRNN): h of this rank's tokens, as if one process
    went through each document token by token. Differentiable in every tensor.

    With x the gates' inputs, B x + bias as the caller's projection gives it, and every product elementwise:
    gru:  z = sigmoid(a[0] h + x[0]), r = sigmoid(a[1] h + x[1]), n = tanh(a[2] (r h) + x[2]), h = z n + (1 - z) h.
    lstm: f = sigmoid(a[0] h + peephole[0] c + x[0]), g = tanh(a[2] h + x[2]), c = f c + (1 - f) g,
        o = sigmoid(a[1] h + peephole[1] c + x[1]) of the new c, h = o tanh(c).
    All tokens' equations are solved together by Newton's method: each iteration is a linear layer over the ranks.

    x: [batch, local tokens, 3, channels], or without the batch; float64, float32, bfloat16 or float16, in main memory.
    a: [3, channels]; peephole: [2, channels], of lstm only. The same on all ranks; their gradients are this rank's share, to be summed
        over the ranks.
    plan: of layer "elementwise" for gru and "pairwise" for lstm, head_dim 1, and heads * value_dim = channels, or 2 * channels for lstm:
        heads are groups of channels, for methods that cut by heads. As plan.with_layer("elementwise", heads=1, head_dim=1, value_dim=channels).
    initial_state [batch, documents that begin here, rows, channels]: instead of 0, for plan.documents_begun(); rows are h, of lstm c and h.
        All ranks give one or none does.
    return_final_state: also the states after the last tokens of plan.documents_ended(), of the same form.
    tolerance: of |f(h, x) - h| before the last iteration; by default 1e-5, 1e-11 for float64. iterations: at most; as many as the longest
        document has tokens are always enough.

    Computed in float32 (float64 for float64). Every rank of the plan's group calls it, and its backward, equally often and in the same
    order. Raises ValueError for tensors that do not fit, RuntimeError, on all ranks, when it does not converge, or when a rank failed.
    A compiled model calls it as it is.
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"weft.para_rnn: plan is {type(plan).__name__}; make one with weft.plan(...)")
    if x.dim() not in (3, 4):
        plan.refuse(f"weft.para_rnn: x is {list(x.shape)}; give [batch, local tokens, 3, channels] or [local tokens, 3, channels]")
    batched = x.dim() == 4
    if not batched:
        x, initial_state = x.unsqueeze(0), None if initial_state is None else initial_state.unsqueeze(0)
    if tolerance is not None and not tolerance > 0:
        plan.refuse(f"weft.para_rnn: tolerance {tolerance}; give a positive number")
    solve = torch.ops.weft.para_rnn
    if torch.compiler.is_compiling():  # else not imported: the compiler takes seconds
        from weft._uncompiled import solve
    out, state, _ = solve(cell, x, a, peephole, initial_state, plan.handle, tolerance or 0.0, iterations)
    if not batched:
        out, state = out.squeeze(0), state.squeeze(0)
    return (out, state) if return_final_state else out
