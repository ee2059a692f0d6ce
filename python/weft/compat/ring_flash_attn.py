"""Functions of ring-flash-attention (zhuzilin/ring-flash-attention, 0.1 and its main branch of 2025), computed by Weft.

Names, arguments and layouts are its own; each docstring says which tokens a rank holds. What differs: any float type, also
float32 and float64, on CPU tensors; windows are those of the whole sequence; zigzag and stripe also without causal; results
are the same bits in every run, so `deterministic` needs nothing. dropout_p > 0 and alibi_slopes are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from weft.compat._common import (contiguous, deal_documents, plan_for, refuse_what_is_missing, require_rank, run, stripe,
                                 window_of, zigzag)

_LAYOUTS = {
    "ring": (contiguous, "ring", "rank r holds the r-th of as many equal pieces as there are ranks"),
    "zigzag_ring": (zigzag, "zigzag", "of 2 x ranks equal pieces, rank r holds pieces r and 2 x ranks - 1 - r"),
    "stripe": (stripe, "striped", "rank r holds tokens r, r + ranks, r + 2 x ranks and so on"),
}
_REST = """dropout_p, alibi_slopes: 0 and None, else ValueError. softmax_scale: default 1 / sqrt(head dim).
    window_size: (left, right) tokens of the whole sequence, -1: all. group: default all ranks.
    return_attn_probs: returns (out, lse, None)"""


def _shape_of(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> dict[str, int]:
    return {"heads": q.size(-2), "kv_heads": k.size(-2), "head_dim": q.size(-1), "value_dim": v.size(-1)}


def _dense(kind: str) -> Callable[..., Any]:
    deal, method, holds = _LAYOUTS[kind]
    name = f"{kind}_flash_attn_func"

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None,
                 causal: bool = False, window_size: tuple[int, int] = (-1, -1), alibi_slopes: Any = None,
                 deterministic: bool = False, return_attn_probs: bool = False,
                 group: dist.ProcessGroup | None = None) -> Any:
        refuse_what_is_missing(name, dropout_p, alibi_slopes)
        require_rank(name, 4, q=q, k=k, v=v)
        ranks = dist.get_world_size(group)
        tokens = q.size(1) * ranks
        if kind == "zigzag_ring" and q.size(1) % 2:
            raise ValueError(f"{name}: {q.size(1)} tokens here; a rank holds two equal pieces")
        plan = plan_for(group, (tokens,), method, lambda ranks: deal(tokens, ranks), tokens=tokens, causal=causal,
                        window=window_of(name, window_size, causal), **_shape_of(q, k, v))
        return run(q, k, v, plan, softmax_scale, return_attn_probs)

    function.__doc__ = f"""q, k, v [batch, local tokens, heads, head dim] of one sequence:
    {holds}.

    {_REST}, lse [batch, heads, local tokens].
    """
    return _named(function, name)


def _varlen(kind: str) -> Callable[..., Any]:
    deal, method, holds = _LAYOUTS[kind]
    name = f"{kind}_flash_attn_varlen_func"

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int,
                 dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
                 window_size: tuple[int, int] = (-1, -1), alibi_slopes: Any = None, deterministic: bool = False,
                 return_attn_probs: bool = False, group: dist.ProcessGroup | None = None) -> Any:
        refuse_what_is_missing(name, dropout_p, alibi_slopes)
        require_rank(name, 3, q=q, k=k, v=v)
        ranks = dist.get_world_size(group)
        here = cu_seqlens.diff().tolist()
        if not here or cu_seqlens[0] != 0 or sum(here) != q.size(0) or min(here) < 1:
            raise ValueError(f"{name}: cu_seqlens {cu_seqlens.tolist()} with {q.size(0)} tokens here; it begins with 0, rises, "
                             "ends with the tokens here, and is that of the whole sequences divided by the ranks")
        if max(here) != max_seqlen:
            raise ValueError(f"{name}: max_seqlen {max_seqlen}, and the longest sequence has {max(here)} tokens here")
        if kind == "zigzag_ring" and any(length % 2 for length in here):
            raise ValueError(f"{name}: sequences of {here} tokens here; a rank holds two equal pieces of each")
        lengths = [length * ranks for length in here]
        plan = plan_for(group, tuple(lengths), method, lambda ranks: deal_documents(deal, lengths, ranks),
                        cu_seqlens=tuple([0, *torch.tensor(lengths).cumsum(0).tolist()]), causal=causal,
                        window=window_of(name, window_size, causal), **_shape_of(q, k, v))
        return run(q, k, v, plan, softmax_scale, return_attn_probs)

    function.__doc__ = f"""q, k, v [local tokens, heads, head dim] of packed sequences. Each is dealt by itself:
    {holds}. Then come a rank's pieces of the next sequence.

    cu_seqlens: borders of the sequences in this rank's tokens, 0 first: those of the whole sequences divided by the ranks.
    max_seqlen: the longest of them.
    {_REST}, lse [heads, local tokens].
    """
    return _named(function, name)


def llama3_flash_attn_prepare_cu_seqlens(cu_seqlens: torch.Tensor, causal: bool, rank: int,
                                         world_size: int) -> tuple[torch.Tensor, torch.Tensor, int, int, slice]:
    """cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k and local_k_slice, as llama3_flash_attn_varlen_func takes them.

    cu_seqlens: of all packed sequences, whose total divides by world_size; rank r holds the r-th of equal pieces.
    """
    total = int(cu_seqlens[-1])
    if total % world_size:
        raise ValueError(f"llama3_flash_attn_prepare_cu_seqlens: {total} tokens do not divide by {world_size} ranks; pad them")
    begin, end = rank * total // world_size, (rank + 1) * total // world_size
    first = int(torch.searchsorted(cu_seqlens, begin, right=True)) - 1  # the sequences that this rank has queries of
    last = int(torch.searchsorted(cu_seqlens, end))
    keys_begin = int(cu_seqlens[first])
    keys_end = end if causal else int(cu_seqlens[last])
    touched = cu_seqlens[first:last + 1]
    of_q = touched.clamp(begin, end) - begin
    of_k = touched.clamp(max=keys_end) - keys_begin
    return of_q, of_k, int(of_q.diff().max()), int(of_k.diff().max()), slice(keys_begin, keys_end)


def _llama3() -> Callable[..., Any]:
    name = "llama3_flash_attn_varlen_func"

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens_q: torch.Tensor, cu_seqlens_k: torch.Tensor,
                 max_seqlen_q: int, max_seqlen_k: int, heads_k_stride: int, local_k_slice: slice, dropout_p: float = 0.0,
                 softmax_scale: float | None = None, causal: bool = False, window_size: tuple[int, int] = (-1, -1),
                 alibi_slopes: Any = None, deterministic: bool = False, return_attn_probs: bool = False,
                 group: dist.ProcessGroup | None = None) -> Any:
        """q, k, v [local tokens, heads, head dim] of packed sequences; rank r holds the r-th of equal pieces of them all.

        cu_seqlens_q ... local_k_slice: of llama3_flash_attn_prepare_cu_seqlens, with the same causal. The ranks put their
        borders together in each call. heads_k_stride: kv heads that are fetched at a time.
        """
        refuse_what_is_missing(name, dropout_p, alibi_slopes)
        require_rank(name, 3, q=q, k=k, v=v)
        ranks, here = dist.get_world_size(group), q.size(0)
        parts: list[Any] = [None] * ranks
        dist.all_gather_object(parts, (cu_seqlens_q.tolist(), local_k_slice.start, here, causal), group=group)
        borders = {0, here * ranks}
        for rank, (mine, keys_begin, size, rank_causal) in enumerate(parts):
            if size != here or rank_causal != causal or mine[0] != 0 or mine[-1] != here or not keys_begin <= rank * here:
                raise ValueError(f"{name}: rank {rank} has {size} tokens and borders {mine}, causal={rank_causal}; give every rank "
                                 f"as many tokens ({here} here) and what llama3_flash_attn_prepare_cu_seqlens returned for it")
            borders |= {border + rank * here for border in mine[1:-1]} | {keys_begin}
        # The keys of a rank begin where the sequence of its first token does: so borders between ranks are found too.
        cu_seqlens = tuple(sorted(borders))
        plan = plan_for(group, cu_seqlens, "llama3", lambda ranks: contiguous(here * ranks, ranks),
                        {"stride": heads_k_stride}, cu_seqlens=cu_seqlens, causal=causal,
                        window=window_of(name, window_size, causal), **_shape_of(q, k, v))
        return run(q, k, v, plan, softmax_scale, return_attn_probs)

    return _named(function, name)


def _packed(of: Callable[..., Any], which: str) -> Callable[..., Any]:
    """The same with k and v, or q, k and v, stacked in the dimension before heads."""
    if which == "qkv":
        def function(qkv: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            return of(*qkv.unbind(-3), *args, **kwargs)
    else:
        def function(q: torch.Tensor, kv: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            return of(q, *kv.unbind(-3), *args, **kwargs)
    shape = "qkv [..., 3, heads, head dim]" if which == "qkv" else "q and kv [..., 2, kv heads, head dim]"
    function.__doc__ = f"{of.__name__} with {shape} in place of q, k, v; the other arguments are the same."
    return _named(function, of.__name__.removesuffix("func") + which + "packed_func")


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    function.__module__ = __name__
    return function


ring_flash_attn_func = _dense("ring")
ring_flash_attn_varlen_func = _varlen("ring")
zigzag_ring_flash_attn_func = _dense("zigzag_ring")
zigzag_ring_flash_attn_varlen_func = _varlen("zigzag_ring")
stripe_flash_attn_func = _dense("stripe")
stripe_flash_attn_varlen_func = _varlen("stripe")
llama3_flash_attn_varlen_func = _llama3()
ring_flash_attn_kvpacked_func = _packed(ring_flash_attn_func, "kv")
ring_flash_attn_qkvpacked_func = _packed(ring_flash_attn_func, "qkv")
ring_flash_attn_varlen_kvpacked_func = _packed(ring_flash_attn_varlen_func, "kv")
ring_flash_attn_varlen_qkvpacked_func = _packed(ring_flash_attn_varlen_func, "qkv")
zigzag_ring_flash_attn_kvpacked_func = _packed(zigzag_ring_flash_attn_func, "kv")
zigzag_ring_flash_attn_qkvpacked_func = _packed(zigzag_ring_flash_attn_func, "qkv")
zigzag_ring_flash_attn_varlen_kvpacked_func = _packed(zigzag_ring_flash_attn_varlen_func, "kv")
zigzag_ring_flash_attn_varlen_qkvpacked_func = _packed(zigzag_ring_flash_attn_varlen_func, "qkv")
stripe_flash_attn_kvpacked_func = _packed(stripe_flash_attn_func, "kv")
stripe_flash_attn_qkvpacked_func = _packed(stripe_flash_attn_func, "qkv")
stripe_flash_attn_varlen_kvpacked_func = _packed(stripe_flash_attn_varlen_func, "kv")
stripe_flash_attn_varlen_qkvpacked_func = _packed(stripe_flash_attn_varlen_func, "qkv")
llama3_flash_attn_varlen_kvpacked_func = _packed(llama3_flash_attn_varlen_func, "kv")
llama3_flash_attn_varlen_qkvpacked_func = _packed(llama3_flash_attn_varlen_func, "qkv")
