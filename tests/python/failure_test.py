"""A rank that dies, raises, is silent or differs: every other rank raises, soon, and says why."""

import os
import re
import time
import unittest

import torch
from ranks import run

import weft

SOON = 10  # seconds


def tensors(plan, tokens, dtype=torch.float32, dim=8):
    torch.manual_seed(1)
    return [plan.shard(torch.randn(1, tokens, 2, dim, dtype=dtype)) for _ in range(3)]


def error_of(call, kind=RuntimeError):
    begin = time.monotonic()
    try:
        call()
    except kind as error:
        assert time.monotonic() - begin < SOON, f"took {time.monotonic() - begin} s"
        return str(error)
    raise AssertionError("nothing was raised")


def dies(rank, ranks, method):
    plan = weft.plan(tokens=64, heads=2, head_dim=8, method=method)
    q, k, v = tensors(plan, 64)
    weft.attention(q, k, v, plan)
    if rank == 1:
        os._exit(1)
    text = error_of(lambda: [weft.attention(q, k, v, plan) for _ in range(3)])
    again = error_of(lambda: weft.attention(q, k, v, plan))
    assert "make a new one" in again, again
    return text


def silent(rank, ranks, method):
    plan = weft.plan(tokens=64, heads=2, head_dim=8, causal=False, method=method, timeout=3)
    q, k, v = tensors(plan, 64)
    weft.attention(q, k, v, plan)
    if rank == ranks - 1:
        time.sleep(8)
        return ""
    return error_of(lambda: weft.attention(q, k, v, plan))


def refuses(rank, ranks, late=0, argument=None):
    plan = weft.plan(tokens=64, heads=2, head_dim=8, method="zigzag")
    q, k, v = tensors(plan, 64)
    # All ranks alike: nothing is lost.
    text = error_of(lambda: weft.attention(q[:, 1:], k, v, plan), ValueError)
    assert "q is [1, " in text and "plan.shard" in text, text
    assert "type" in error_of(lambda: weft.attention(q, k.double(), v, plan), ValueError)
    weft.attention(q, k, v, plan)
    if rank == 0:
        mine, wrong = (v, argument) if argument else (v[..., :4], {})
        return error_of(lambda: weft.attention(q, k, mine, plan, **wrong), ValueError)
    time.sleep(late)
    return error_of(lambda: weft.attention(q, k, v, plan))


def differ_later(rank, ranks):
    plan = weft.plan(tokens=64, heads=2, head_dim=8, causal=False, method="ring", timeout=3)
    for dtype in (torch.float32, torch.bfloat16):
        weft.attention(*tensors(plan, 64, dtype), plan)
    return error_of(lambda: weft.attention(*tensors(plan, 64, torch.float32 if rank else torch.bfloat16), plan))


def differ_in_type(rank, ranks):
    plan = weft.plan(tokens=64, heads=2, head_dim=8, causal=False, method="ring", timeout=3)
    return error_of(lambda: weft.attention(*tensors(plan, 64, torch.float32 if rank else torch.bfloat16), plan))


def differ_in_gradients(rank, ranks, method, both_known):
    """The last rank calls without gradients, the others with: all raise, also who waits for nobody yet."""
    plan = weft.plan(tokens=64, heads=2, head_dim=8, method=method, timeout=20)
    q, k, v = (t.requires_grad_() for t in tensors(plan, 64))
    weft.attention(q, k, v, plan).sum().backward()
    if both_known:
        with torch.no_grad():
            weft.attention(q, k, v, plan)

    def step():
        with torch.set_grad_enabled(rank != ranks - 1):
            out = weft.attention(q, k, v, plan)
        if out.requires_grad:
            out.sum().backward()

    return error_of(lambda: [step() for _ in range(2)])


def plans_differ(rank, ranks):
    text = error_of(lambda: weft.plan(tokens=64 + (rank == 2), heads=2, head_dim=8))
    weft.plan(tokens=64, heads=2, head_dim=8)  # nothing was lost
    return text


def bad_arguments(rank, ranks):
    def refused(pattern, kind=ValueError, **arguments):
        given = {"tokens": 64, "heads": 4, "head_dim": 8, **arguments}
        text = error_of(lambda: weft.plan(**{key: value for key, value in given.items() if value != "none"}), kind)
        assert re.search(pattern, text) and "\n" not in text.strip(), repr(text)

    refused("zigzag", method="zigzak")
    refused("at least 1", tokens=0)
    refused("whole number", TypeError, tokens=3.5)
    refused("give tokens, or the documents", TypeError, tokens="none")
    refused("give at least one", tokens="none", documents=[])
    refused("give at least one", documents=[64, 0])
    refused("63 tokens together", documents=[60, 3])
    refused("give one of them", documents=[64], cu_seqlens=[0, 64])
    refused("begins with 0", tokens="none", cu_seqlens=[3, 64])
    refused("restart at 0", tokens="none", position_ids=[1, 2])
    refused("count up", tokens="none", position_ids=[0, 2])
    refused("divide", kv_heads=3)
    refused("ulysses", method="usp", options={"ulysses": 5})
    refused("name the method", options={"ulysses": 2})
    refused("tokens of 1 ranks; the group has 2", layout=[range(64)])
    refused("position", layout=[list(range(32)), list(range(31, 63))])
    refused("whole numbers", TypeError, layout=[[0.5], [1]])
    given = weft.plan(tokens=6, heads=2, head_dim=8, layout=[[5, 0, 2], torch.tensor([1, 4, 3])])
    assert [given.indices(r).tolist() for r in range(2)] == [[5, 0, 2], [1, 4, 3]] and given.method == "zigzag"
    assert given.with_window(2).window == 2 and given.with_window(None).window is None
    error_of(lambda: given.with_window(0), ValueError)
    plan = weft.plan(cu_seqlens=torch.tensor([0, 10, 30]), heads=2, head_dim=8)
    assert plan.documents == [10, 20]
    same = weft.plan(position_ids=list(range(10)) + list(range(20)), heads=2, head_dim=8)
    assert same.documents == [10, 20] and same.positions().max() <= 19
    error_of(lambda: plan.shard(torch.zeros(1, 31)), ValueError)
    error_of(lambda: plan.unshard(torch.zeros(1, 31)), ValueError)
    error_of(lambda: weft.attention(*[torch.zeros(1)] * 3, None), TypeError)
    error_of(lambda: weft.attention(*tensors(plan, 30), plan, scale=-1.0), ValueError)
    error_of(lambda: weft.attention(*tensors(plan, 30), plan, layout="hbtd"), ValueError)
    error_of(lambda: weft.attention(*(t.long() for t in tensors(plan, 30)), plan), ValueError)


class Failure(unittest.TestCase):
    def test_a_rank_dies(self):
        # In a ring of four, rank 3 waits for rank 2 only.
        for method in ("ring", "ulysses"):
            for text in run(4, dies, method, missing=(1,)):
                self.assertRegex(text, "rank")

    def test_a_rank_is_silent(self):
        for method in ("ring", "all-gather"):
            texts = run(3, silent, method)[:2]
            # Who waited for it names itself, the instruction and the peer; the others repeat it.
            for text in texts:
                self.assertRegex(text, r"rank \d, instruction \d+ .*rank 2")

    def test_a_rank_refuses(self):
        for late in (0, 0.5):  # then the one that refused has ended, and its connections are closed
            self.check_refusal("v is [1, ", *run(3, refuses, late))
        self.check_refusal("layout 'tbhd'", *run(3, refuses, 0, {"layout": "tbhd"}))
        self.check_refusal("scale -1.0", *run(3, refuses, 0, {"scale": -1.0}))

    def check_refusal(self, why, mine, *others):
        self.assertIn(why, mine)
        for text in others:
            self.assertIn("rank 0 did not go through with the call", text)

    def test_ranks_differ_in_type(self):
        for text in run(2, differ_in_type):
            self.assertRegex(text, r"rank \d calls with (fp32|bf16), batch 1")
        # Both kinds have been called before: what arrives is not what is expected.
        for text in run(2, differ_later):
            self.assertRegex(text, "ranks differ in plan, tensors")

    def test_ranks_differ_in_gradients(self):
        for method in ("ring", "zigzag", "ulysses"):
            for text in run(3, differ_in_gradients, method, False):
                self.assertRegex(text, "rank 2 calls with fp32, batch 1, scale .*, others with what they called with before")
            for text in run(3, differ_in_gradients, method, True):
                self.assertRegex(text, "ranks differ in plan, tensors")

    def test_plans_differ(self):
        for text in run(3, plans_differ):
            self.assertRegex(text, r"differ in documents: rank 0 has \[64\], rank 2 has \[65\]")

    def test_bad_arguments(self):
        run(2, bad_arguments)


if __name__ == "__main__":
    unittest.main()
