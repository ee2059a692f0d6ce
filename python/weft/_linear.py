"""Linear layers over a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch

from weft._attention import Layout
from weft._plan import Layer, Plan

_NUMBERS = ("mamba2", "gdn")  # g is a number for each token and head
_COLUMNS = ("elementwise", "pairwise")  # a multiplies the state
_attend = torch.ops.weft.linear_attention.default  # looked up once, as in _attention


@overload
def linear_attention(layer: Layer, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan, *,
                     g: torch.Tensor | None = None, beta: torch.Tensor | None = None, a: torch.Tensor | None = None,
                     b: torch.Tensor | None = None, u: torch.Tensor | None = None, scale: float | None = None,
                     initial_state: torch.Tensor | None = None, return_final_state: Literal[False] = False,
                     state_positions: None = None, layout: Layout = "bthd") -> torch.Tensor: ...
@overload
def linear_attention(layer: Layer, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan, *,
                     g: torch.Tensor | None = None, beta: torch.Tensor | None = None, a: torch.Tensor | None = None,
                     b: torch.Tensor | None = None, u: torch.Tensor | None = None, scale: float | None = None,
                     initial_state: torch.Tensor | None = None, return_final_state: Literal[True],
                     state_positions: None = None, layout: Layout = "bthd") -> tuple[torch.Tensor, torch.Tensor]: ...
@overload
def linear_attention(layer: Layer, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan, *,
                     g: torch.Tensor | None = None, beta: torch.Tensor | None = None, a: torch.Tensor | None = None,
                     b: torch.Tensor | None = None, u: torch.Tensor | None = None, scale: float | None = None,
                     initial_state: torch.Tensor | None = None, return_final_state: Literal[False] = False,
                     state_positions: Sequence[int], layout: Layout = "bthd") -> tuple[torch.Tensor, torch.Tensor]: ...
@overload
def linear_attention(layer: Layer, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan, *,
                     g: torch.Tensor | None = None, beta: torch.Tensor | None = None, a: torch.Tensor | None = None,
                     b: torch.Tensor | None = None, u: torch.Tensor | None = None, scale: float | None = None,
                     initial_state: torch.Tensor | None = None, return_final_state: Literal[True],
                     state_positions: Sequence[int], layout: Layout = "bthd") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]: ...


def linear_attention(layer: Layer, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan, *,
                     g: torch.Tensor | None = None, beta: torch.Tensor | None = None, a: torch.Tensor | None = None,
                     b: torch.Tensor | None = None, u: torch.Tensor | None = None, scale: float | None = None,
                     initial_state: torch.Tensor | None = None, return_final_state: bool = False,
                     state_positions: Sequence[int] | None = None, layout: Layout = "bthd") -> torch.Tensor | tuple[torch.Tensor, ...]:
    """A linear layer of this rank's tokens, over the whole sequence: as if one process had it, document by document. Differentiable
    in every tensor.

    With a state R [key dim, value dim] per head, 0 where a document begins: R_t = F_t R_{t-1} + k_t v_t^T, out_t = scale R_t^T q_t.
    layer: that of the plan, "linear", "retnet", "mamba2", "gla", "deltanet", "gdn", "kda", "rwkv6", "rwkv7", "elementwise" or
        "pairwise"; docs/linear.md has the formula of each. No convolution, feature map, normalisation or output gate is inside: k of the delta rule is given
        with length 1.
    q, k [batch, local tokens, heads, key dim], or with the plan's key_heads in place of heads; v [batch, local tokens, heads, value dim];
        any strides; float64, float32, bfloat16 or float16. a and b of rwkv7: [batch, local tokens, heads, key dim].
    a of elementwise and pairwise: what columns of the state are multiplied by, [batch, local tokens, heads, value dim] and
        [..., 2 * value dim].
    g: natural logarithm of the decay, at most 0: [batch, local tokens, heads] for mamba2 and gdn, [..., key dim] for gla, kda,
        rwkv6 and rwkv7. beta [batch, local tokens, heads], as it multiplies: deltanet, gdn, kda.
    k, v, beta of a plan with householders=n > 1: [batch, local tokens, (key) heads, n, columns], beta [..., heads, n]; a token decays once
        and writes its n keys one after the other.
    u [heads, key dim]: the bonus of rwkv6, the same on all ranks; its gradient is this rank's share, to be summed over the ranks.
    scale: of out; default 1 / sqrt(key dim), and 1 for mamba2, rwkv6, rwkv7, elementwise and pairwise.
    initial_state [batch, documents that begin here, heads, key dim, value dim]: instead of 0, for plan.documents_begun(). All ranks
        give one or none does.
    return_final_state: also the states after the last tokens of plan.documents_ended(), of the same form, differentiable too.
    state_positions: also the states after these tokens of the whole sequence, the last result: those of plan.tokens_here(state_positions),
        of the same form, differentiable too. All ranks give the same.
    layout: as of weft.attention; "thd" has no batch in initial_state and the states, either.

    States, g, beta, u and an a that multiplies columns are computed with in float32 (float64 for float64) and may be given in any of
    the four types. Every rank of
    the plan's group calls it, and its backward, equally often and in the same order, with the same dtype and batch, and with
    gradients wanted on all ranks or on none. Raises ValueError for tensors that are not the plan's, that the layer has not, or
    that it lacks, and for a g above 0; RuntimeError when a rank failed or was silent for longer than the plan's timeout. Tensors
    in main memory only.
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"weft.linear_attention: plan is {type(plan).__name__}; make one with weft.plan(..., layer={layer!r})")
    if layer != plan.layer:
        plan.refuse(f"weft.linear_attention: layer is {layer!r}, and the plan is for {plan.layer!r}; make one with "
                    f"weft.plan(..., layer={layer!r}), or plan.with_layer({layer!r})")
    if layer == "softmax":
        plan.refuse("weft.linear_attention: layer softmax is attention; use weft.attention")
    if layout not in ("bthd", "bhtd", "thd"):
        plan.refuse(f"weft.linear_attention: layout {layout!r}; allowed are 'bthd', 'bhtd' and 'thd'")
    if scale is not None and not scale > 0:
        plan.refuse(f"weft.linear_attention: scale {scale}; give a positive number")
    if state_positions is not None and len(state_positions) == 0:
        plan.refuse("weft.linear_attention: state_positions is empty; name tokens, or leave it out")
    if torch.is_autocast_enabled(q.device.type):
        lower = torch.get_autocast_dtype(q.device.type)
        q, k, v = (t.to(lower) for t in (q, k, v))
        b = None if b is None else b.to(lower)
        a = a if a is None or layer in _COLUMNS else a.to(lower)
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    g, beta, u, initial_state = (None if t is None else t.to(wide) for t in (g, beta, u, initial_state))
    if a is not None and layer in _COLUMNS:
        a = a.to(wide)

    def by_token(t: torch.Tensor | None) -> torch.Tensor | None:
        if t is None:
            return None
        if layout == "thd":
            return t.unsqueeze(0)
        return t.transpose(1, 2) if layout == "bhtd" and t.dim() > 2 else t

    q, k, v, g, beta, a, b = (by_token(t) for t in (q, k, v, g, beta, a, b))
    if g is not None and layer in _NUMBERS:
        g = g.unsqueeze(-1)
    many = plan.householders
    if many > 1:
        for name, t in (("k", k), ("v", v)):
            if t.dim() != 5 or t.size(3) != many:
                plan.refuse(f"weft.linear_attention: {name} is {list(t.shape)}; with householders={many} it is [batch, local tokens, heads, "
                            f"{many}, columns]")
        k, v = k.flatten(3), v.flatten(3)
    elif beta is not None:
        beta = beta.unsqueeze(-1)
    if initial_state is not None and layout == "thd":
        initial_state = initial_state.unsqueeze(0)
    positions = [] if state_positions is None else [int(position) for position in state_positions]
    out, states = _attend(q, k, v, g, beta, a, b, u, initial_state, plan.handle, 0.0 if scale is None else float(scale),
                          return_final_state, positions)
    if layout == "thd":
        out = out.squeeze(0)
    elif layout == "bhtd":
        out = out.transpose(1, 2)
    asked = [states] if return_final_state or state_positions is not None else []
    if return_final_state and state_positions is not None:
        here, ends = plan.tokens_here(positions), plan.ends_here()
        asked = [_rows(states, ends, here), _rows(states, here, ends)]
    if not asked:
        return out
    return out, *(state.squeeze(0) if layout == "thd" else state for state in asked)


def _rows(states: torch.Tensor, tokens: list[int], others: list[int]) -> torch.Tensor:
    """The states after some of all the tokens that there are states after, in their order."""
    rows = sorted({*tokens, *others})
    return states.index_select(1, torch.tensor([rows.index(token) for token in tokens], dtype=torch.long))
