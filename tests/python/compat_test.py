"""weft.compat against dense attention: every function, forward and gradients, over processes of a Gloo group."""

import re
import unittest

import torch
import torch.distributed as dist
from attention_test import allowed, dense
from ranks import run

from weft.compat import ring_flash_attn as rfa
from weft.compat import yunchang


def reference(lengths, causal, left, heads=4, kv_heads=2, batch=1):
    """Whole q, k, v and dout, and out, lse and gradients of dense attention."""
    torch.manual_seed(4)
    tokens = sum(lengths)
    q, k, v, dout = (torch.randn(batch, tokens, h, 8, dtype=torch.float64) for h in (heads, kv_heads, kv_heads, heads))
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    mask = allowed(lengths, causal, None if left < 0 else left + 1)
    out, lse = dense(*leaves, mask)
    out.backward(dout)
    return (q, k, v, dout), (out.detach(), lse.detach()), [t.grad for t in leaves]


def compare(mine, whole, call, varlen, with_lse=True, packed=None):
    """call(q, k, v) or packed forms over this rank's tokens `mine`, against dense attention of all."""
    (q, k, v, dout), (out, lse), grads = whole
    cut = (lambda t: t[0, mine]) if varlen else (lambda t: t[:, mine])
    leaves = [cut(t).clone().requires_grad_() for t in (q, k, v)]
    if packed == "qkv":
        given = (torch.stack(leaves, -3),)
    elif packed == "kv":
        given = (leaves[0], torch.stack(leaves[1:], -3))
    else:
        given = leaves
    got = call(*given)
    if with_lse:
        got, got_lse, nothing = got
        assert nothing is None
        torch.testing.assert_close(got_lse, cut(lse).transpose(-1, -2))
    bounds = {"rtol": 1e-5, "atol": 1e-5} if got.dtype == torch.float32 else {}
    torch.testing.assert_close(got.double(), cut(out), **bounds)
    got.backward(cut(dout).to(got.dtype))
    for leaf, grad in zip(leaves, grads):
        torch.testing.assert_close(leaf.grad, cut(grad), **bounds)


def layouts(kind, lengths, rank, ranks):
    """Written out, as the package's README draws them."""
    mine, begin = [], 0
    for length in lengths:
        n = length // ranks
        if kind == "ring":
            local = range(rank * n, (rank + 1) * n)
        elif kind == "stripe":
            local = range(rank, length, ranks)
        else:
            half = n // 2
            last = 2 * ranks - 1 - rank
            local = [*range(rank * half, (rank + 1) * half), *range(last * half, (last + 1) * half)]
        mine += [begin + i for i in local]
        begin += length
    return torch.tensor(mine)


def rings(rank, ranks):
    for kind, name in (("ring", "ring"), ("zigzag", "zigzag_ring"), ("stripe", "stripe")):
        dense_of = getattr(rfa, f"{name}_flash_attn_func")
        for causal, left in ((True, -1), (False, -1), (True, 5)):
            whole = reference([24 * ranks], causal, left, batch=2)
            options = {"causal": causal, "window_size": (left, -1), "return_attn_probs": True}
            compare(layouts(kind, [24 * ranks], rank, ranks), whole, lambda q, k, v: dense_of(q, k, v, **options), False)
        varlen = getattr(rfa, f"{name}_flash_attn_varlen_func")
        lengths = [4 * ranks, 12 * ranks, 2 * ranks]
        borders = torch.tensor([0, 4, 16, 18], dtype=torch.int32)
        whole = reference(lengths, True, -1)
        mine = layouts(kind, lengths, rank, ranks)
        compare(mine, whole, lambda q, k, v: varlen(q, k, v, borders, 12, causal=True, return_attn_probs=True), True)
        again = varlen(*(t[0, mine] for t in whole[0][:3]), borders, 12, 0.0, None, True)  # in order, as many call it
        assert torch.equal(again, varlen(*(t[0, mine] for t in whole[0][:3]), borders, 12, causal=True, deterministic=True))
        # Packed forms; qkv needs as many kv heads.
        compare(mine, whole, lambda q, kv: getattr(rfa, f"{name}_flash_attn_varlen_kvpacked_func")(q, kv, borders, 12, causal=True),
                True, False, "kv")
        # fp32, where sums must not be overwritten while they travel.
        whole = reference([16 * ranks], True, -1)
        compare(layouts(kind, [16 * ranks], rank, ranks), whole, lambda *t: dense_of(*(x.float() for x in t), causal=True), False, False)
        whole = reference([24 * ranks], True, -1, kv_heads=4)
        compare(layouts(kind, [24 * ranks], rank, ranks), whole,
                lambda qkv: getattr(rfa, f"{name}_flash_attn_qkvpacked_func")(qkv, causal=True), False, False, "qkv")


def llama3(rank, ranks):
    for lengths in ([12 * ranks], [5, 8 * ranks - 5, 1, 4 * ranks - 1], [2 * ranks, 10 * ranks], [12] * ranks, [1] * 12 * ranks):
        borders = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        mine = torch.arange(12 * rank, 12 * rank + 12)
        for causal in (True, False):
            whole = reference(lengths, causal, -1)
            given = rfa.llama3_flash_attn_prepare_cu_seqlens(borders, causal, rank, ranks)
            cu_q, cu_k, most_q, most_k, keys = given
            assert cu_q[-1] == 12 and cu_k[-1] == keys.stop - keys.start >= 12 >= most_q and most_k >= most_q
            compare(mine, whole, lambda q, k, v: rfa.llama3_flash_attn_varlen_func(
                q, k, v, cu_q, cu_k, most_q, most_k, 1, keys, causal=causal, return_attn_probs=True), True)
            compare(mine, whole, lambda q, kv: rfa.llama3_flash_attn_varlen_kvpacked_func(
                q, kv, *given[:4], 2, keys, causal=causal), True, False, "kv")


def hybrids(rank, ranks, ulysses, ring, low):
    yunchang.set_seq_parallel_pg(ulysses, ring, rank, ranks, use_ulysses_low=low)
    degree = ulysses * ring
    at = rank % degree
    for kind in ("basic", "zigzag", "strip"):
        for causal in (True, False):
            tokens = 12 * degree
            whole = reference([tokens], causal, -1, batch=2)
            extract = yunchang.EXTRACT_FUNC_DICT[kind]
            if low:
                mine = extract(torch.arange(tokens)[None, :, None, None], at, degree, rd=ring, ud=ulysses).flatten()
            elif kind == "basic":
                place, member = at % ring, at // ring
                mine = torch.arange(tokens).view(ring, ulysses, -1)[place, member]
            else:
                continue
            attention = yunchang.LongContextAttention(ring_impl_type=kind)
            compare(mine, whole, lambda q, k, v: attention(q, k, v, causal=causal), False, False)
    whole = reference([tokens], True, -1, kv_heads=4)
    packed = yunchang.LongContextAttentionQKVPacked(ring_impl_type="basic")
    if low:
        mine = torch.arange(at * 12, at * 12 + 12)
        compare(mine, whole, lambda qkv: packed(qkv, causal=True), False, False, "qkv")
    alone = yunchang.UlyssesAttention(dist.group.WORLD)
    whole = reference([12 * ranks], True, 7)
    compare(torch.arange(rank * 12, rank * 12 + 12), whole, lambda q, k, v: alone(q, k, v, causal=True, window_size=(7, 0)),
            False, False)


def refusals(rank, ranks):
    q = torch.randn(1, 8, 2, 8)

    def refused(pattern, call, kind=ValueError):
        try:
            call()
        except kind as error:
            assert re.search(pattern, str(error)), error
        else:
            raise AssertionError(pattern)

    refused("use_ulysses|set_seq_parallel_pg", lambda: yunchang.LongContextAttention(), RuntimeError)
    refused("divide", lambda: yunchang.set_seq_parallel_pg(3, 1, rank, ranks))
    yunchang.set_seq_parallel_pg(1, 2, rank, ranks)
    refused("'strip'", lambda: yunchang.LongContextAttention(ring_impl_type="stripe"))
    refused("softcap is 5", lambda: yunchang.LongContextAttention()(q, q, q, softcap=5.0))
    refused("dropout_p is 0.1", lambda: rfa.ring_flash_attn_func(q, q, q, dropout_p=0.1))
    refused("alibi_slopes", lambda: rfa.zigzag_ring_flash_attn_func(q, q, q, alibi_slopes=torch.ones(2), causal=True))
    refused("same window on both sides", lambda: rfa.stripe_flash_attn_func(q, q, q, window_size=(3, 0)))
    refused("two equal pieces", lambda: rfa.zigzag_ring_flash_attn_func(q[:, :7], q[:, :7], q[:, :7], causal=True))
    refused(r"\[tokens, heads, head dim\]", lambda: rfa.ring_flash_attn_varlen_func(q, q, q, torch.tensor([0, 8]), 8))
    refused("cu_seqlens", lambda: rfa.ring_flash_attn_varlen_func(q[0], q[0], q[0], torch.tensor([0, 16]), 16))
    refused("max_seqlen 7", lambda: rfa.ring_flash_attn_varlen_func(q[0], q[0], q[0], torch.tensor([0, 8]), 7))
    refused("pad", lambda: rfa.llama3_flash_attn_prepare_cu_seqlens(torch.tensor([0, 5]), True, rank, ranks))
    half = torch.tensor([0, 4])
    refused("borders", lambda: rfa.llama3_flash_attn_varlen_func(q[0], q[0], q[0], half, half, 4, 4, 1, slice(0, 4)))


class Compat(unittest.TestCase):
    def test_rings(self):
        for ranks in (2, 3):
            with self.subTest(ranks=ranks):
                run(ranks, rings)

    def test_llama3(self):
        for ranks in (2, 3):
            with self.subTest(ranks=ranks):
                run(ranks, llama3)

    def test_hybrids(self):
        for ranks, ulysses, ring, low in ((2, 2, 1, True), (3, 1, 3, True), (4, 2, 2, True), (4, 2, 2, False), (4, 1, 2, True)):
            with self.subTest(ranks=ranks, ulysses=ulysses, ring=ring, low=low):
                run(ranks, hybrids, ulysses, ring, low)

    def test_refusals(self):
        run(2, refusals)


if __name__ == "__main__":
    unittest.main()
