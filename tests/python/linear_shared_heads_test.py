"""weft.linear_attention with fewer heads of q and k than heads, against the recurrence with q and k repeated."""

import unittest

import torch
from linear_test import BATCH, DIM, DIM_V, HEADS, compare_gradients, inputs, local, recurrence, refusal
from ranks import run

import weft


def shared_heads(rank, ranks):
    """Two heads of q and k for four of v, against q and k repeated; blocks and ranks cut the groups."""
    lengths, times = [9, 1, 22, 5], 2
    for layer in ("mamba2", "gdn", "kda"):
        few = inputs(layer, lengths, False)
        given = {name: t if name in ("q", "k") else torch.cat([t, t.flip(2)], 2) for name, t in few.items()}
        given["initial_state"] = torch.randn(BATCH, len(lengths), times * HEADS, DIM, DIM_V, dtype=torch.float64)
        torch.distributed.broadcast(given["initial_state"], 0)
        whole = {name: t.clone().requires_grad_() for name, t in given.items()}
        apart = {name: t.repeat_interleave(times, 2) if name in ("q", "k") else t for name, t in whole.items()}
        out, final = recurrence(layer, apart, lengths)
        dout = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        ((out * dout).sum() + final.sum()).backward()
        for method in ("auto", *weft.methods(layer)):
            plan = weft.plan(documents=lengths, heads=times * HEADS, key_heads=HEADS, head_dim=DIM, value_dim=DIM_V, layer=layer, method=method)
            assert plan.key_heads == HEADS
            mine = {name: local(plan, name, t).clone().requires_grad_() for name, t in given.items()}
            got, state = weft.linear_attention(layer, plan=plan, return_final_state=True, **mine)
            torch.testing.assert_close(got, plan.shard(out.detach()), rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(state, final[:, plan.documents_ended()].detach(), rtol=1e-10, atol=1e-10)
            ((got * plan.shard(dout)).sum() + state.sum()).backward()
            compare_gradients(plan, mine, whole)
            if method != "all-scan":
                continue
            model = torch.compile(lambda q: weft.linear_attention(layer, plan=plan, return_final_state=True, **{**mine, "q": q})[1].sin(),
                                  backend="aot_eager")
            torch.testing.assert_close(model(mine["q"]), state.sin())
            again = weft.plan(documents=lengths, heads=4, head_dim=8, method="ulysses").with_layer(
                layer, heads=times * HEADS, key_heads=HEADS, head_dim=DIM, value_dim=DIM_V, method="chain")
            torch.testing.assert_close(again.unshard(weft.linear_attention(layer, plan=again, **{
                name: local(again, name, t) for name, t in given.items()})), out.detach(), rtol=1e-10, atol=1e-10)
            wrong = mine["k"].detach().repeat_interleave(times, 2)
            refusal(lambda: weft.linear_attention(layer, plan=plan, **{**mine, "k": wrong}), ValueError, "k is [")
    for key_heads, text in ((3, "key-heads 3 does not divide heads 4"), (8, "key-heads 8 does not divide heads 4"), (0, "key_heads is 0")):
        refusal(lambda: weft.plan(tokens=12, heads=4, key_heads=key_heads, head_dim=4, layer="gla"), ValueError, text)
    refusal(lambda: weft.plan(tokens=12, heads=4, key_heads=2, head_dim=4), ValueError, "goes with a linear layer")


class SharedHeads(unittest.TestCase):
    def test_shared_heads(self):
        for ranks in (1, 3):
            with self.subTest(ranks=ranks):
                run(ranks, shared_heads)


if __name__ == "__main__":
    unittest.main()
