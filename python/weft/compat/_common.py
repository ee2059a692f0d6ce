"""What the packages have in common: their arguments, their layouts, plans that are kept between calls."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from weft._attention import attention
from weft._plan import Plan
from weft._plan import plan as make_plan

# (length of a sequence, ranks) -> for each rank the tokens that it holds, in its order
Deal = Callable[[int, int], list[torch.Tensor]]
MOST_PLANS = 64
_plans: collections.OrderedDict[Any, Plan] = collections.OrderedDict()


def contiguous(tokens: int, ranks: int) -> list[torch.Tensor]:
    """Rank r holds the r-th of equal pieces."""
    return list(torch.arange(tokens).view(ranks, -1))


def zigzag(tokens: int, ranks: int) -> list[torch.Tensor]:
    """2 x ranks equal pieces; rank r holds pieces r and 2 x ranks - 1 - r."""
    pieces = torch.arange(tokens).tensor_split(2 * ranks)
    return [torch.cat([pieces[rank], pieces[2 * ranks - 1 - rank]]) for rank in range(ranks)]


def stripe(tokens: int, ranks: int) -> list[torch.Tensor]:
    """Rank r holds tokens r, r + ranks, r + 2 ranks, ..."""
    return [torch.arange(rank, tokens, ranks) for rank in range(ranks)]


def deal_documents(deal: Deal, lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Each packed document dealt to all ranks; a rank holds its pieces of one document after the other."""
    mine: list[list[int]] = [[] for _ in range(ranks)]
    begin = 0
    for length in lengths:
        for rank, tokens in enumerate(deal(length, ranks)):
            mine[rank] += (tokens + begin).tolist()
        begin += length
    return mine


def window_of(name: str, window_size: tuple[int, int], causal: bool) -> int | None:
    """flash_attn's (left, right), -1 for all, as a window of weft.plan."""
    left, right = window_size
    if left < 0 and (right < 0 or causal):
        return None
    if left >= 0 and (causal or left == right):
        return left + 1
    raise ValueError(f"{name}: window_size {tuple(window_size)} without causal; Weft has the same window on both sides, "
                     "(n, n) or (-1, -1)")


def refuse_what_is_missing(name: str, dropout_p: float, alibi_slopes: Any, softcap: float = 0.0) -> None:
    for what, given, instead in (("dropout_p", dropout_p, "0.0"), ("alibi_slopes", alibi_slopes, "None"),
                                 ("softcap", softcap, "0.0")):
        if given is not None and (isinstance(given, torch.Tensor) or given != 0):
            raise ValueError(f"{name}: {what} is {given}; Weft computes plain softmax attention, give {instead}")


def plan_for(group: dist.ProcessGroup | None, key: tuple[Any, ...], method: str, layout: Callable[[int], Any],
             options: Mapping[str, Any] | None = None, **arguments: Any) -> Plan:
    """The plan for a key, made on first use by all ranks together. layout(ranks): for each rank its tokens."""
    group = dist.group.WORLD if group is None else group
    full_key = (id(group), method, key, tuple((options or {}).items()), tuple(arguments.items()))  # the plan keeps the group
    found = _plans.get(full_key)
    if found is None:
        found = make_plan(group, method=method, layout=layout(dist.get_world_size(group)), options=options, **arguments)
        _plans[full_key] = found
        if len(_plans) > MOST_PLANS:
            _plans.popitem(last=False)
    _plans.move_to_end(full_key)
    return found


def require_rank(name: str, dimensions: int, **tensors: torch.Tensor) -> None:
    for what, tensor in tensors.items():
        if tensor.dim() != dimensions:
            kind = "[batch, tokens, heads, head dim]" if dimensions == 4 else "[tokens, heads, head dim]"
            raise ValueError(f"{name}: {what} is {list(tensor.shape)}; it is {kind}")


def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan, scale: float | None, with_lse: bool) -> Any:
    """out, or (out, lse, None) as flash_attn returns: lse [batch, heads, tokens], or [heads, tokens] without a batch."""
    layout = "bthd" if q.dim() == 4 else "thd"
    if not with_lse:
        return attention(q, k, v, plan, scale=scale, layout=layout)
    out, lse = attention(q, k, v, plan, scale=scale, layout=layout, return_lse=True)
    return out, lse.transpose(-1, -2), None
