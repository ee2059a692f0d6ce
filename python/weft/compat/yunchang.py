"""Names of yunchang (feifeibear/long-context-attention, 0.6), computed by Weft's usp and ulysses methods.

    set_seq_parallel_pg(ulysses_degree, ring_degree, rank, world_size)
    local = EXTRACT_FUNC_DICT["zigzag"](tensor, rank, world_size, rd=ring_degree, ud=ulysses_degree)
    out = LongContextAttention(ring_impl_type="zigzag")(q, k, v, causal=True)

Tokens lie as EXTRACT_FUNC_DICT of the same ring_impl_type puts them. What differs: any number of heads and kv heads, any
float type on CPU tensors, windows of the whole sequence, all three kinds without causal. dropout_p > 0, alibi_slopes and
softcap are refused, and so is attn_processor; attn_type, use_sync and use_pack_qkv choose among kernels of yunchang and mean
nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from weft.compat._common import contiguous, plan_for, refuse_what_is_missing, require_rank, run, stripe, window_of, zigzag


class ProcessGroups:
    """What set_seq_parallel_pg made on this rank."""

    SEQUENCE_PG: dist.ProcessGroup | None = None  # the ranks that hold one sequence
    ulysses_degree = 1
    ring_degree = 1
    ulysses_low = True  # ranks that trade heads are neighbours


PROCESS_GROUP = ProcessGroups()


def set_seq_parallel_pg(sp_ulysses_degree: int, sp_ring_degree: int, rank: int, world_size: int,
                        use_ulysses_low: bool = True) -> None:
    """Groups of ulysses x ring neighbouring ranks hold one sequence each. Every rank of the job calls it.

    use_ulysses_low: the ranks that trade heads are neighbours, else those of a ring are.
    """
    degree = sp_ulysses_degree * sp_ring_degree
    if degree < 1 or world_size % degree:
        raise ValueError(f"set_seq_parallel_pg: {sp_ulysses_degree} x {sp_ring_degree} ranks a sequence; {world_size} ranks do not "
                         "divide into such groups")
    for begin in range(0, world_size, degree):
        group = dist.new_group(list(range(begin, begin + degree)))
        if begin <= rank < begin + degree:
            PROCESS_GROUP.SEQUENCE_PG = group
    PROCESS_GROUP.ulysses_degree, PROCESS_GROUP.ring_degree = sp_ulysses_degree, sp_ring_degree
    PROCESS_GROUP.ulysses_low = use_ulysses_low


_DEALS = {"basic": contiguous, "zigzag": zigzag, "strip": stripe}


def _tokens_of_ranks(kind: str, tokens: int, ring: int, ulysses: int, ulysses_low: bool = True) -> list[torch.Tensor]:
    """Dealt to the places of a ring; each place's tokens, in its order, cut in equal pieces for the ranks that trade heads."""
    pieces = [place.tensor_split(ulysses) for place in _DEALS[kind](tokens, ring)]
    if ulysses_low:
        return [piece for place in pieces for piece in place]
    return [place[member] for member in range(ulysses) for place in pieces]


def _extract(kind: str) -> Callable[..., torch.Tensor]:
    def extract(value: torch.Tensor, rank: int, world_size: int, rd: int = 0, ud: int = 0, *args: Any,
                **kwargs: Any) -> torch.Tensor:
        ring, ulysses = (world_size, 1) if kind == "basic" else (rd, ud)
        if ring * ulysses != world_size:
            raise ValueError(f"{kind}_extract_local: rd {rd} x ud {ud} is not world_size {world_size}")
        if value.size(1) % (world_size * (2 if kind == "zigzag" else 1)):
            raise ValueError(f"{kind}_extract_local: {value.size(1)} tokens do not divide into equal pieces for {world_size} ranks")
        return value.index_select(1, _tokens_of_ranks(kind, value.size(1), ring, ulysses)[rank])

    extract.__name__ = extract.__qualname__ = {"strip": "stripe"}.get(kind, kind) + "_extract_local"
    extract.__doc__ = "This rank's tokens of a tensor [batch, tokens, ...]; rd, ud: degrees of the ring and of ulysses."
    return extract


EXTRACT_FUNC_DICT = {kind: _extract(kind) for kind in _DEALS}


class LongContextAttention(torch.nn.Module):
    """Attention over the group of set_seq_parallel_pg: all-to-all of heads inside, rings across.

    ring_impl_type: "basic", "zigzag" or "strip": where tokens lie, as EXTRACT_FUNC_DICT puts them.
    """

    def __init__(self, scatter_idx: int = 2, gather_idx: int = 1, ring_impl_type: str = "basic", use_pack_qkv: bool = False,
                 use_sync: bool = False, attn_type: Any = None, attn_processor: Any = None) -> None:
        super().__init__()
        name = type(self).__name__
        if PROCESS_GROUP.SEQUENCE_PG is None:
            raise RuntimeError(f"{name}: no group yet; call set_seq_parallel_pg first")
        if ring_impl_type not in _DEALS:
            raise ValueError(f"{name}: ring_impl_type {ring_impl_type!r}; allowed are {', '.join(map(repr, _DEALS))}")
        if attn_processor is not None:
            raise ValueError(f"{name}: attn_processor is for kernels that Weft does not have; leave it out")
        if gather_idx != 1:
            raise ValueError(f"{name}: gather_idx {gather_idx}; tokens are dimension 1")
        self.kind = ring_impl_type
        self.groups = (PROCESS_GROUP.SEQUENCE_PG, PROCESS_GROUP.ring_degree, PROCESS_GROUP.ulysses_degree,
                       PROCESS_GROUP.ulysses_low)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout_p: float = 0.0,
                softmax_scale: float | None = None, causal: bool = False, window_size: tuple[int, int] = (-1, -1),
                softcap: float = 0.0, alibi_slopes: Any = None, deterministic: bool = False, return_attn_probs: bool = False,
                *args: Any) -> torch.Tensor:
        """query, key, value [batch, local tokens, heads, head dim] to the output of the same shape.

        return_attn_probs changes nothing, as in yunchang: the output alone is returned.
        """
        name = type(self).__name__
        refuse_what_is_missing(name, dropout_p, alibi_slopes, softcap)
        require_rank(name, 4, query=query, key=key, value=value)
        group, ring, ulysses, low = self.groups
        tokens = query.size(1) * ring * ulysses
        if self.kind == "zigzag" and tokens % (2 * ring):
            raise ValueError(f"{name}: {query.size(1)} tokens a rank do not make two equal pieces for each of {ring} places")
        plan = plan_for(group, (self.kind, tokens, low), "usp",
                        lambda ranks: _tokens_of_ranks(self.kind, tokens, ring, ulysses, low),
                        {"ulysses": ulysses, "placement": "inner" if low else "outer"}, tokens=tokens, causal=causal,
                        window=window_of(name, window_size, causal), heads=query.size(2), kv_heads=key.size(2),
                        head_dim=query.size(3), value_dim=value.size(3))
        return run(query, key, value, plan, softmax_scale, False)


class LongContextAttentionQKVPacked(LongContextAttention):
    """The same with qkv [batch, local tokens, 3, heads, head dim]."""

    def __init__(self, scatter_idx: int = 3, gather_idx: int = 1, ring_impl_type: str = "basic", use_sync: bool = False,
                 attn_type: Any = None) -> None:
        super().__init__(scatter_idx, gather_idx, ring_impl_type)

    def forward(self, qkv: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        """As LongContextAttention with q, k and v unpacked."""
        if qkv.dim() != 5 or qkv.size(2) != 3:
            raise ValueError(f"LongContextAttentionQKVPacked: qkv is {list(qkv.shape)}; it is [batch, tokens, 3, heads, head dim]")
        return super().forward(*qkv.unbind(2), *args, **kwargs)


class UlyssesAttention(torch.nn.Module):
    """All-to-all of heads over one group; rank r holds the r-th of equal pieces of the sequence."""

    def __init__(self, sequence_process_group: dist.ProcessGroup | None = None, scatter_idx: int = 2, gather_idx: int = 1,
                 use_sync: bool = False, attn_type: Any = None) -> None:
        super().__init__()
        self.group = sequence_process_group

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout_p: float = 0.0,
                softmax_scale: float | None = None, causal: bool = False, window_size: tuple[int, int] = (-1, -1),
                softcap: float = 0.0, alibi_slopes: Any = None, deterministic: bool = False, return_attn_probs: bool = False,
                *args: Any) -> torch.Tensor:
        """query, key, value [batch, local tokens, heads, head dim] to the output of the same shape."""
        refuse_what_is_missing("UlyssesAttention", dropout_p, alibi_slopes, softcap)
        require_rank("UlyssesAttention", 4, query=query, key=key, value=value)
        tokens = query.size(1) * dist.get_world_size(self.group)
        plan = plan_for(self.group, (tokens,), "ulysses", lambda ranks: contiguous(tokens, ranks), tokens=tokens, causal=causal,
                        window=window_of("UlyssesAttention", window_size, causal), heads=query.size(2), kv_heads=key.size(2),
                        head_dim=query.size(3), value_dim=value.size(3))
        return run(query, key, value, plan, softmax_scale, False)
