"""weft.plan(..., canonical=True): linear layers with the same bits for every number of processes, over Gloo."""

import unittest

import torch
import torch.distributed as dist
from linear_test import BATCH, DIM, DIM_V, HEADS, inputs, refusal
from ranks import run

import weft


def canonical(rank, ranks):
    """The same bits on one rank and on several, states included; without the mode they differ."""
    lengths = [300, 1, 500]
    t = inputs("gdn", lengths, False)
    t = {name: x.float() for name, x in t.items()}
    dout = torch.randn(BATCH, sum(lengths), HEADS, DIM_V)

    def results(group, same, **how):
        plan = weft.plan(group, documents=lengths, heads=HEADS, head_dim=DIM, value_dim=DIM_V, layer="gdn", canonical=same, **how)
        mine = {name: plan.shard(x).clone().requires_grad_() for name, x in t.items()}
        out, states = weft.linear_attention("gdn", plan=plan, return_final_state=True, **mine)
        ((out * plan.shard(dout)).sum() + states.sum()).backward()
        return plan, [out.detach(), *(x.grad for x in mine.values())], states.detach()

    alone, whole, finals = results([dist.new_group([r]) for r in range(ranks)][rank], True)
    assert alone.method == "all-scan" and alone.canonical and not alone.with_layer("gla", method="chain").window
    for how in ({}, {"layout": "zigzag"}, {"method": "chain", "layout": "zigzag"}, {"method": "head-exchange"}):
        plan, got, states = results(None, True, **how)
        for mine, everything in zip(got, whole):
            assert torch.equal(mine, plan.shard(everything)), how
        assert torch.equal(states, finals[:, plan.documents_ended()])
    plan, got, _ = results(None, False, method="all-gather-state")
    differ = torch.tensor(float(any(not torch.equal(mine, plan.shard(everything)) for mine, everything in zip(got, whole))))
    dist.all_reduce(differ)
    assert differ.item() > 0
    refusal(lambda: weft.plan(tokens=300, heads=2, head_dim=4, layer="gla", canonical=True, method="log-step"), ValueError,
            "for canonical results use chain, all-scan, head-exchange")
    refusal(lambda: weft.plan(tokens=300, heads=2, head_dim=4, canonical=True), ValueError, "canonical=True is for linear layers")
    cut = [range(rank * 100, rank * 100 + 100) for rank in range(3)]
    refusal(lambda: weft.plan(tokens=300, heads=2, head_dim=4, layer="gla", canonical=True, layout=cut), ValueError, "128")


class LinearCanonical(unittest.TestCase):
    def test_canonical(self):
        run(3, canonical)


if __name__ == "__main__":
    unittest.main()
