"""weft.para_rnn against the cells token by token in float64, over processes of a Gloo group."""

import unittest

import torch
from ranks import run

import weft

CHANNELS, BATCH = 4, 2
LENGTHS = [9, 1, 1, 14, 3]


def loop(cell, x, a, peephole, initial, lengths):
    outs, finals, begin = [], [], 0
    for document, length in enumerate(lengths):
        state = initial[:, document]
        c, h = state[:, 0], state[:, -1]
        for t in range(begin, begin + length):
            gate = lambda i, read: a[i] * read + x[:, t, i]  # noqa: E731
            if cell == "gru":
                z, r = torch.sigmoid(gate(0, h)), torch.sigmoid(gate(1, h))
                h = z * torch.tanh(gate(2, h * r)) + (1 - z) * h
            else:
                f = torch.sigmoid(gate(0, h) + peephole[0] * c)
                c = f * c + (1 - f) * torch.tanh(gate(2, h))
                h = torch.sigmoid(gate(1, h) + peephole[1] * c) * torch.tanh(c)
            outs.append(h)
        finals.append(torch.stack([h] if cell == "gru" else [c, h], 1))
        begin += length
    return torch.stack(outs, 1), torch.stack(finals, 1)


def plan_of(cell, layout="", method="log-step", heads=2):
    rows = 1 if cell == "gru" else 2
    return weft.plan(documents=LENGTHS, heads=heads, head_dim=1, value_dim=rows * CHANNELS // heads, method=method, layout=layout,
                     layer="elementwise" if cell == "gru" else "pairwise")


def inputs(cell):
    torch.manual_seed(0)
    rows = 1 if cell == "gru" else 2
    t = {"x": torch.randn(BATCH, sum(LENGTHS), 3, CHANNELS), "a": torch.randn(3, CHANNELS),
         "peephole": torch.randn(2, CHANNELS) if cell == "lstm" else None, "initial": torch.randn(BATCH, len(LENGTHS), rows, CHANNELS)}
    return {name: None if x is None else x.double() for name, x in t.items()}


def agrees(rank, ranks, layout, method):
    for cell in ("gru", "lstm"):
        plan, given = plan_of(cell, layout, method), inputs(cell)
        whole = {name: None if t is None else t.clone().requires_grad_() for name, t in given.items()}
        out, final = loop(cell, whole["x"], whole["a"], whole["peephole"], whole["initial"], LENGTHS)
        dout, dfinal = torch.randn_like(out), torch.randn_like(final)
        ((out * dout).sum() + (final * dfinal).sum()).backward()
        begun, ended = plan.documents_begun(), plan.documents_ended()
        x = plan.shard(given["x"]).requires_grad_()
        initial = given["initial"][:, begun].requires_grad_()
        a = given["a"].requires_grad_()
        peephole = None if given["peephole"] is None else given["peephole"].requires_grad_()
        got, state = weft.para_rnn(cell, x, a, plan, peephole=peephole, initial_state=initial, return_final_state=True)
        same = lambda u, v: torch.testing.assert_close(u, v, rtol=1e-10, atol=1e-10)  # noqa: E731
        same(got, plan.shard(out.detach()))
        same(state, final[:, ended].detach())
        ((got * plan.shard(dout)).sum() + (state * dfinal[:, ended]).sum()).backward()
        same(x.grad, plan.shard(whole["x"].grad))
        same(initial.grad, whole["initial"].grad[:, begun])
        for mine, name in ((a, "a"), (peephole, "peephole")):
            if mine is not None:
                torch.distributed.all_reduce(mine.grad)
                same(mine.grad, whole[name].grad)
        # Without a batch, states and gradients; of a lower type.
        zero = torch.zeros_like(given["initial"])
        one = weft.para_rnn(cell, x[1].detach(), a.detach(), plan, peephole=peephole)
        same(one.detach(), plan.shard(loop(cell, given["x"], given["a"], given["peephole"], zero, LENGTHS)[0])[1].detach())
        half = weft.para_rnn(cell, x.detach().bfloat16(), a, plan, peephole=peephole)
        assert half.dtype == torch.bfloat16


def compiles(rank, ranks):
    plan = plan_of("gru")
    t = {name: None if x is None else x.float() for name, x in inputs("gru").items()}

    def f(x):
        return weft.para_rnn("gru", x.sin(), t["a"], plan).cos()

    x = plan.shard(t["x"])
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    f(one).sum().backward()
    torch.compile(f, backend="aot_eager", fullgraph=False)(other).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


def refuses(rank, ranks):
    plan = plan_of("gru")
    x, a = torch.zeros(BATCH, plan.local_tokens, 3, CHANNELS), torch.zeros(3, CHANNELS)
    wrong = [
        (lambda: weft.para_rnn("gruu", x, a, plan), "unknown cell"),
        (lambda: weft.para_rnn("gru", x[:, 1:], a, plan), "local tokens, gates, channels"),
        (lambda: weft.para_rnn("gru", x[..., 1:], a[:, 1:], plan), "needs a plan of layer elementwise"),
        (lambda: weft.para_rnn("lstm", x, a, plan, peephole=a[1:]), "needs a plan of layer pairwise"),
        (lambda: weft.para_rnn("gru", x, a[1:], plan), "a is [2, 4]"),
        (lambda: weft.para_rnn("gru", x, a, plan, tolerance=0), "give a positive number"),
        (lambda: weft.para_rnn("gru", x, a, plan, iterations=-1), "at least 0"),
        (lambda: weft.para_rnn("gru", x[0, 0], a, plan), "give [batch, local tokens, 3, channels]"),
    ]
    for call, text in wrong:
        try:
            call()
        except ValueError as error:
            assert text in str(error), error
        else:
            raise AssertionError(text)
    x = plan.shard(inputs("gru")["x"])
    try:
        weft.para_rnn("gru", x, inputs("gru")["a"], plan, iterations=0)
    except RuntimeError as error:
        assert "after 0 iterations" in str(error), error
    else:
        raise AssertionError("accepted")
    weft.para_rnn("gru", x, inputs("gru")["a"], plan)  # nothing was lost


class RnnTest(unittest.TestCase):
    def test_against_the_token_loop(self):
        for ranks, layout, method in ((1, "", "auto"), (3, "zigzag", "log-step"), (4, "contiguous", "all-gather-state"), (2, "", "head-exchange")):
            with self.subTest(ranks=ranks, layout=layout, method=method):
                run(ranks, agrees, layout, method)

    def test_compiles(self):
        run(2, compiles)

    def test_refuses(self):
        run(2, refuses)


if __name__ == "__main__":
    unittest.main()
