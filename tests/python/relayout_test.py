"""weft.relayout over processes of a Gloo group: every token where the other plan has it, and its gradient back."""

import unittest

import torch
from ranks import run

import weft

LENGTHS = [9, 1, 1, 14, 3]


def plan_of(layout, **more):
    return weft.plan(documents=LENGTHS, heads=1, head_dim=4, layout=layout, **({"method": "ulysses"} | more))


def moves(rank, ranks, first, second):
    one, other = plan_of(first), plan_of(second)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x, dy = (torch.randn(2, sum(LENGTHS), 3, 2, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (0, 1))
        mine = one.shard(x).requires_grad_()
        out = weft.relayout(mine, one, other)
        assert torch.equal(out, other.shard(x))
        out.backward(other.shard(dy))
        assert torch.equal(mine.grad, one.shard(dy))
        assert torch.equal(weft.relayout(out.detach(), other, one), one.shard(x))
    row = torch.arange(sum(LENGTHS), dtype=torch.float32)
    assert torch.equal(weft.relayout(one.shard(row, 0), one, other, dim=0), other.shard(row, 0))
    assert weft.relayout(one.shard(x)[..., :0], one, other).shape == (2, other.local_tokens, 3, 0)


def between_layers(rank, ranks):
    """Attention on zigzag, a linear layer on contiguous shards: as both on one rank's layout."""
    attention = plan_of("zigzag", method="ring")
    linear = plan_of("contiguous", method="all-scan", layer="linear")
    torch.manual_seed(0)
    whole = torch.randn(1, sum(LENGTHS), 1, 4, dtype=torch.float64)

    def two_layers(first, second, change):
        x = first.shard(whole).requires_grad_()
        y = change(weft.attention(x, x, x, first))
        out = weft.linear_attention("linear", y, y, y, second)
        out.square().sum().backward()
        return second.unshard(out.detach()), first.unshard(x.grad)

    got = two_layers(attention, linear, lambda y: weft.relayout(y, attention, linear))
    want = two_layers(attention, attention.with_layer("linear", method="all-scan"), lambda y: y)
    for g, w in zip(got, want):
        torch.testing.assert_close(g, w, rtol=0, atol=1e-11)


def refuses(rank, ranks):
    one = plan_of("zigzag")
    shorter = weft.plan(tokens=7, heads=1, head_dim=4, method="ulysses", layout="zigzag")
    x = torch.zeros(1, one.local_tokens, 2)
    for wrong, text in ((lambda: weft.relayout(x[:, 1:], one, one), "tokens; this rank has"),
                        (lambda: weft.relayout(x, one, shorter), "28 and 7 tokens"),
                        (lambda: weft.relayout(x.int(), one, one), "x is of Int"),
                        (lambda: weft.relayout(x, one, one, dim=3), "no dimension 3")):
        try:
            wrong()
        except ValueError as error:
            assert text in str(error), error
        else:
            raise AssertionError(text)
    try:
        weft.relayout(x, one, "zigzag")
    except TypeError as error:
        assert "to_plan is str" in str(error)
    assert torch.equal(weft.relayout(x, one, one), x)  # nothing is lost


def compiles(rank, ranks):
    one, other = plan_of("zigzag"), plan_of("contiguous")
    x = torch.randn(1, one.local_tokens, 4)

    def f(x):
        return weft.relayout(x.sin(), one, other).cos()

    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    f(a).sum().backward()
    torch.compile(f, backend="aot_eager", fullgraph=False)(b).sum().backward()
    assert torch.equal(a.grad, b.grad)


def differ(rank, ranks):
    one, other = plan_of("zigzag"), plan_of("contiguous")
    try:
        weft.relayout(torch.zeros(1, one.local_tokens, 2 + rank), one, other)
    except (RuntimeError, ValueError) as error:
        assert "ranks differ" in str(error), error
    else:
        raise AssertionError("accepted")


class Relayout(unittest.TestCase):
    def test_between_layouts(self):
        for ranks, first, second in ((2, "zigzag", "contiguous"), (3, "contiguous", "striped"), (3, "document-zigzag", "zigzag")):
            run(ranks, moves, first, second)

    def test_between_layers(self):
        run(2, between_layers)

    def test_compiled(self):
        run(2, compiles)

    def test_refusals(self):
        run(2, refuses)
        run(2, differ)


if __name__ == "__main__":
    unittest.main()
