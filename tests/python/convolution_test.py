"""weft.short_convolution and weft.token_shift against torch's conv1d of each document in float64, over processes of a Gloo group."""

import unittest

import torch
import torch.nn.functional as F
from ranks import run

import weft

CHANNELS, BATCH = 3, 2
LENGTHS = [9, 1, 1, 14, 3]


def dense(x, weight, bias, lengths):
    width = weight.size(-1)
    return torch.cat([F.conv1d(F.pad(part.transpose(1, 2), (width - 1, 0)), weight, bias, groups=CHANNELS).transpose(1, 2)
                      for part in x.split(lengths, dim=1)], dim=1)


def plan_of(layout):
    return weft.plan(documents=LENGTHS, heads=1, head_dim=4, method="ulysses", layout=layout)


def convolves(rank, ranks, layout):
    plan = plan_of(layout)
    torch.manual_seed(0)
    for width in (1, 2, 4, 7):
        conv = torch.nn.Conv1d(CHANNELS, CHANNELS, width, groups=CHANNELS).double()
        x = torch.randn(BATCH, sum(LENGTHS), CHANNELS, dtype=torch.float64, requires_grad=True)
        want = dense(x, conv.weight, conv.bias, LENGTHS)
        dout = torch.randn_like(want)
        want.backward(dout)
        wanted = [x.grad, *(p.grad.clone() for p in conv.parameters())]
        conv.zero_grad()
        mine = plan.shard(x.detach()).requires_grad_()
        out = weft.short_convolution(mine, conv.weight, plan, conv.bias)
        torch.testing.assert_close(out, plan.shard(want.detach()), rtol=0, atol=1e-12)
        out.backward(plan.shard(dout))
        torch.testing.assert_close(mine.grad, plan.shard(wanted[0]), rtol=0, atol=1e-12)
        for p, w in zip(conv.parameters(), wanted[1:]):
            torch.distributed.all_reduce(p.grad)
            torch.testing.assert_close(p.grad, w, rtol=0, atol=1e-11)
        # Without a batch, a bias and gradients.
        one = weft.short_convolution(plan.shard(x.detach())[0], conv.weight.squeeze(1).detach(), plan)
        torch.testing.assert_close(one, plan.shard(dense(x.detach(), conv.weight, None, LENGTHS))[0].detach(), rtol=0, atol=1e-12)


def shifts(rank, ranks):
    plan = plan_of("zigzag")
    x = torch.randn(BATCH, sum(LENGTHS), CHANNELS, generator=torch.Generator().manual_seed(1)).requires_grad_()
    want = torch.cat([F.pad(part, (0, 0, 1, 0))[:, :-1] for part in x.split(LENGTHS, dim=1)], dim=1)
    want.square().sum().backward()
    mine = plan.shard(x.detach()).requires_grad_()
    out = weft.token_shift(mine, plan)
    assert torch.equal(out, plan.shard(want.detach()))
    out.square().sum().backward()
    assert torch.equal(mine.grad, plan.shard(x.grad))


def remembers(rank, ranks, layout):
    plan = plan_of(layout)
    torch.manual_seed(0)
    slots = 5
    sizes = {"x": (BATCH, sum(LENGTHS), CHANNELS), "gates": (BATCH, sum(LENGTHS), 2 * CHANNELS), "weight": (CHANNELS, 3), "bias": (CHANNELS,),
             "memory": (slots, CHANNELS), "values": (slots, CHANNELS)}
    whole = {name: torch.randn(*size, dtype=torch.float64, requires_grad=True) for name, size in sizes.items()}
    near, far = torch.sigmoid(whole["gates"]).chunk(2, dim=-1)
    found = torch.softmax(whole["x"] @ whole["memory"].T, -1) @ whole["values"]
    want = near * dense(whole["x"], whole["weight"].unsqueeze(1), whole["bias"], LENGTHS) + far * found
    dout = torch.randn_like(want)
    want.backward(dout)
    mine = {name: (plan.shard(t.detach()) if name in ("x", "gates") else t.detach().clone()).requires_grad_() for name, t in whole.items()}
    out = weft.gated_associative_memory(plan=plan, **mine)
    torch.testing.assert_close(out, plan.shard(want.detach()), rtol=0, atol=1e-12)
    out.backward(plan.shard(dout))
    for name, t in mine.items():
        if name in ("x", "gates"):
            torch.testing.assert_close(t.grad, plan.shard(whole[name].grad), rtol=0, atol=1e-11)
        else:
            torch.distributed.all_reduce(t.grad)
            torch.testing.assert_close(t.grad, whole[name].grad, rtol=0, atol=1e-11)


def compiles(rank, ranks):
    plan = plan_of("")
    weight = torch.randn(CHANNELS, 4, generator=torch.Generator().manual_seed(1))

    def f(x):
        return F.silu(weft.short_convolution(x, weight, plan))

    x = plan.shard(torch.randn(BATCH, sum(LENGTHS), CHANNELS, generator=torch.Generator().manual_seed(2)))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    f(a).sum().backward()
    torch.compile(f, backend="aot_eager", fullgraph=False)(b).sum().backward()
    assert torch.equal(a.grad, b.grad)


def refuses(rank, ranks):
    plan = plan_of("contiguous")
    x = torch.zeros(BATCH, plan.local_tokens, CHANNELS)
    wrong = [
        (lambda: weft.short_convolution(x[:, 1:], torch.zeros(CHANNELS, 4), plan), "shard it with plan.shard"),
        (lambda: weft.short_convolution(x, torch.zeros(CHANNELS + 1, 4), plan), "for this x it is [3, width]"),
        (lambda: weft.short_convolution(x, torch.zeros(CHANNELS, 4, 4), plan), "give [channels, width]"),
        (lambda: weft.short_convolution(x, torch.zeros(CHANNELS, 4), plan, torch.zeros(2)), "bias is [2]"),
        (lambda: weft.short_convolution(x.long(), torch.zeros(CHANNELS, 4), plan), "x is of Long"),
        (lambda: weft.token_shift(x[0, 0], plan), "give [batch, local tokens, channels]"),
        (lambda: weft.gated_associative_memory(x, x, torch.zeros(CHANNELS, 4), torch.zeros(9, CHANNELS), plan), "local ones first"),
    ]
    for call, text in wrong:
        try:
            call()
        except ValueError as error:
            assert text in str(error), error
        else:
            raise AssertionError(text)
    weft.token_shift(x, plan)  # nothing was lost


def differ(rank, ranks):
    plan = plan_of("contiguous")
    x = torch.zeros(BATCH, plan.local_tokens, CHANNELS)
    try:
        weft.short_convolution(x, torch.zeros(CHANNELS, 3 + rank), plan)
    except (RuntimeError, ValueError) as error:
        assert "ranks differ" in str(error), error
    else:
        raise AssertionError("accepted")


class ConvolutionTest(unittest.TestCase):
    def test_against_conv1d(self):
        for ranks, layout in ((1, ""), (3, "zigzag"), (4, "contiguous"), (3, "striped")):
            with self.subTest(ranks=ranks, layout=layout):
                run(ranks, convolves, layout)

    def test_token_shift(self):
        run(3, shifts)

    def test_gated_associative_memory(self):
        for ranks, layout in ((1, ""), (3, "zigzag"), (3, "striped")):
            with self.subTest(ranks=ranks, layout=layout):
                run(ranks, remembers, layout)

    def test_compiles(self):
        run(2, compiles)

    def test_refuses(self):
        run(2, refuses)

    def test_ranks_that_differ(self):
        run(2, differ)


if __name__ == "__main__":
    unittest.main()
