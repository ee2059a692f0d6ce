"""weft.linear_attention against the recurrence token by token in float64, over processes of a Gloo group."""

import unittest

import torch
import torch.nn.functional as F
from ranks import run

import weft

LAYERS = ("linear", "retnet", "mamba2", "gla", "deltanet", "gdn", "kda", "rwkv6", "rwkv7", "elementwise", "pairwise")
HEADS, DIM, DIM_V, BATCH = 2, 3, 6, 2
SHARED = ("u", "initial_state")  # not rows of tokens


def recurrence(layer, t, lengths, scale=None, after=None):
    """out, and the states after the documents, or after tokens: the formulas of docs/linear.md as they stand there."""
    q, k, v = t["q"], t["k"], t["v"]
    if scale is None:
        scale = 1.0 if layer in ("mamba2", "rwkv6", "rwkv7", "elementwise", "pairwise") else q.size(-1) ** -0.5
    constant = torch.log1p(-torch.exp2(-5.0 - torch.arange(q.size(2), dtype=q.dtype)))
    outs, finals, begin = [], [], 0
    for document, length in enumerate(lengths):
        state = t["initial_state"][:, document] if "initial_state" in t else q.new_zeros(*k.shape[:1], *k.shape[2:], v.size(-1))
        for i in range(begin, begin + length):
            row = {name: x[:, i] for name, x in t.items() if name not in SHARED}
            write, key = row["v"], row["k"]
            if layer == "rwkv6":
                outs.append(scale * (torch.einsum("bhkv,bhk->bhv", state, row["q"])
                                     + (row["q"] * t["u"] * key).sum(-1, keepdim=True) * write))
            decay = constant[None, :, None] if layer == "retnet" else row.get("g", q.new_zeros(q.size(0), q.size(2)))
            decay = decay if decay.dim() == 3 else decay[..., None]
            before, state = state, decay.exp()[..., None] * state
            if layer in ("deltanet", "gdn", "kda"):
                write = row["beta"][..., None] * (write - torch.einsum("bhkv,bhk->bhv", state, key))
            if layer == "rwkv7":
                read = torch.einsum("bhkv,bhk->bhv", before, row["a"])
                state = state + torch.einsum("bhk,bhv->bhkv", row["b"], read)
            if layer in ("elementwise", "pairwise"):
                n = 2 if layer == "pairwise" else 1
                state = torch.einsum("bhijx,bhkjx->bhkix", row["a"].unflatten(-1, (n, n, -1)), state.unflatten(-1, (n, -1))).flatten(-2)
            state = state + torch.einsum("bhk,bhv->bhkv", key, write)
            if layer != "rwkv6":
                outs.append(scale * torch.einsum("bhkv,bhk->bhv", state, row["q"]))
            if i in after if after is not None else i == begin + length - 1:
                finals.append(state)
        begin += length
    return torch.stack(outs, 1), torch.stack(finals, 1)


def inputs(layer, lengths, states):
    torch.manual_seed(3)
    rows = (BATCH, sum(lengths), HEADS)
    t = {"q": torch.randn(*rows, DIM), "k": torch.randn(*rows, DIM), "v": torch.randn(*rows, DIM_V)}
    if layer in ("mamba2", "gdn"):
        t["g"] = F.logsigmoid(torch.randn(*rows))
    if layer in ("gla", "kda", "rwkv6", "rwkv7"):
        t["g"] = F.logsigmoid(torch.randn(*rows, DIM))
    if layer in ("deltanet", "gdn", "kda"):
        t["k"], t["beta"] = F.normalize(t["k"], dim=-1), torch.sigmoid(torch.randn(*rows))
    if layer == "rwkv7":
        a = F.normalize(torch.randn(*rows, DIM), dim=-1)
        t["a"], t["b"] = a, -a * torch.sigmoid(torch.randn(*rows, 1))
    if layer in ("elementwise", "pairwise"):
        n = 2 if layer == "pairwise" else 1
        t["a"] = torch.tanh(torch.randn(*rows, n * DIM_V)) / n
    if layer == "rwkv6":
        t["u"] = torch.randn(HEADS, DIM)
    if states:
        t["initial_state"] = torch.randn(BATCH, len(lengths), HEADS, DIM, DIM_V)
    return {name: x.double() for name, x in t.items()}


def local(plan, name, t):
    if name == "u":
        return t
    return t[:, plan.documents_begun()] if name == "initial_state" else plan.shard(t)


def compare_gradients(plan, mine, whole):
    """Of this rank's inputs, with its rows of those of the whole sequence; that of the parameter u is a sum over the ranks."""
    for name, t in mine.items():
        grad = t.grad
        if name == "u":
            torch.distributed.all_reduce(grad)
        torch.testing.assert_close(grad, local(plan, name, whole[name].grad), rtol=1e-10, atol=1e-10, msg=lambda m: f"d{name}: {m}")


def compare(layer, method, layout, lengths, states):
    torch.manual_seed(0)
    given = inputs(layer, lengths, states)
    plan = weft.plan(documents=lengths, heads=HEADS, head_dim=DIM, value_dim=DIM_V, layer=layer, method=method, layout=layout)
    whole = {name: t.clone().requires_grad_() for name, t in given.items()}
    out, final = recurrence(layer, whole, lengths)
    dout, dfinal = torch.randn_like(out), torch.randn_like(final)
    loss = (out * dout).sum() + ((final * dfinal).sum() if states else 0)
    loss.backward()

    mine = {name: local(plan, name, t).requires_grad_() for name, t in given.items()}
    got = weft.linear_attention(layer, plan=plan, return_final_state=states, **mine)
    ended = plan.documents_ended()
    if states:
        got, state = got
        torch.testing.assert_close(state, final[:, ended].detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got, plan.shard(out.detach()), rtol=1e-10, atol=1e-10)
    loss = (got * plan.shard(dout)).sum() + ((state * dfinal[:, ended]).sum() if states else 0)
    loss.backward()
    compare_gradients(plan, mine, whole)


def every_layer(rank, ranks):
    assert weft.methods("gla") == ["chain", "all-scan", "all-gather-state", "log-step", "hierarchical", "head-exchange", "two-dimensional"]
    for layer in LAYERS:
        compare(layer, "auto", "", [9, 1, 22, 5], True)
    for n, method in enumerate(weft.methods("gla")):
        layout = "contiguous" if method == "head-exchange" else "zigzag"
        compare(LAYERS[n + 3], method, layout, [31], False)
        compare(LAYERS[n], method, "", [2], True)  # ranks without tokens, of which the third has no document either


def states_at_positions(rank, ranks):
    """States after chosen tokens, with and without those after the documents, some of which are the same."""
    lengths, chosen = [9, 1, 22, 5], [0, 9, 13, 14, 31, 33]
    ends = [8, 9, 31, 36]
    for layer in LAYERS:
        plan = weft.plan(documents=lengths, heads=HEADS, head_dim=DIM, value_dim=DIM_V, layer=layer, layout="zigzag")
        for states in (False, True):
            given = inputs(layer, lengths, True)
            whole = {name: t.clone().requires_grad_() for name, t in given.items()}
            out, each = recurrence(layer, whole, lengths, after=range(37))
            dout, deach, dfinal = torch.randn_like(out), torch.randn_like(each), torch.randn_like(each)
            loss = (out * dout).sum() + (each * deach)[:, chosen].sum() + ((each * dfinal)[:, ends].sum() if states else 0)
            loss.backward()
            mine = {name: local(plan, name, t).requires_grad_() for name, t in given.items()}
            got = weft.linear_attention(layer, plan=plan, return_final_state=states, state_positions=chosen[::-1], **mine)
            here = plan.tokens_here(chosen)
            torch.testing.assert_close(got[-1], each[:, here].detach(), rtol=1e-10, atol=1e-10)
            loss = (got[0] * plan.shard(dout)).sum() + (got[-1] * deach[:, here]).sum()
            if states:
                torch.testing.assert_close(got[1], each[:, plan.ends_here()].detach(), rtol=1e-10, atol=1e-10)
                loss = loss + (got[1] * dfinal[:, plan.ends_here()]).sum()
            loss.backward()
            compare_gradients(plan, mine, whole)


def full_mask(rank, ranks):
    """Tokens that read all of their document, by every method that has a way, and the one chosen."""
    lengths = [9, 1, 22, 5]
    given = inputs("linear", lengths, False)
    for method in ("auto", "all-scan", "all-gather-state", "head-exchange"):
        plan = weft.plan(documents=lengths, heads=HEADS, head_dim=DIM, value_dim=DIM_V, layer="linear", causal=False, method=method,
                         layout="contiguous" if method == "auto" else "zigzag")
        whole = {name: t.clone().requires_grad_() for name, t in given.items()}
        parts = [{name: t for name, t in zip(whole, ts)} for ts in zip(*(t.split(lengths, 1) for t in whole.values()))]
        out = torch.cat([torch.einsum("bthk,bshk,bshv->bthv", t["q"], t["k"], t["v"]) * DIM ** -0.5 for t in parts], 1)
        dout = torch.randn_like(out)
        torch.distributed.broadcast(dout, 0)
        (out * dout).sum().backward()
        mine = {name: local(plan, name, t).requires_grad_() for name, t in given.items()}
        got = weft.linear_attention("linear", plan=plan, **mine)
        torch.testing.assert_close(got, plan.shard(out.detach()), rtol=1e-10, atol=1e-10)
        (got * plan.shard(dout)).sum().backward()
        for name, t in mine.items():
            torch.testing.assert_close(t.grad, plan.shard(whole[name].grad), rtol=1e-10, atol=1e-10, msg=lambda m: f"d{name}: {m}")
    refusal(lambda: weft.plan(tokens=12, heads=2, head_dim=4, layer="linear", causal=False, method="chain"), ValueError, "for a full mask use")


def householders(rank, ranks):
    """Gated DeltaProduct: the delta rule on the sequence in which each token is two, of which the first decays and the second is read."""
    lengths, n = [9, 1, 14], 2
    twice = inputs("gdn", [n * length for length in lengths], True)
    rows = {name: t.clone().requires_grad_() for name, t in twice.items()}
    g = torch.stack([rows["g"][:, ::n], torch.zeros_like(rows["g"][:, ::n])], 2).flatten(1, 2)
    out, final = recurrence("gdn", {**rows, "g": g}, [n * length for length in lengths])
    out = out[:, n - 1::n]
    dout, dfinal = torch.randn_like(out), torch.randn_like(final)
    ((out * dout).sum() + (final * dfinal).sum()).backward()

    def fold(t):  # [batch, n tokens, heads, ..] as [batch, tokens, heads, n, ..]
        return t.unflatten(1, (-1, n)).transpose(2, 3)

    plan = weft.plan(documents=lengths, heads=HEADS, head_dim=DIM, value_dim=DIM_V, layer="gdn", householders=n, layout="zigzag")
    pick = {"q": lambda t: t[:, n - 1::n], "g": lambda t: t[:, ::n], "k": fold, "v": fold, "beta": fold, "initial_state": lambda t: t}
    mine = {name: local(plan, name, pick[name](t)).clone().requires_grad_() for name, t in twice.items()}
    got, state = weft.linear_attention("gdn", plan=plan, return_final_state=True, **mine)
    torch.testing.assert_close(got, plan.shard(out.detach()), rtol=1e-10, atol=1e-10)
    ended = plan.documents_ended()
    torch.testing.assert_close(state, final[:, ended].detach(), rtol=1e-10, atol=1e-10)
    ((got * plan.shard(dout)).sum() + (state * dfinal[:, ended]).sum()).backward()
    for name, t in mine.items():
        torch.testing.assert_close(t.grad, local(plan, name, pick[name](rows[name].grad)), rtol=1e-10, atol=1e-10, msg=lambda m: f"d{name}: {m}")
    half = weft.linear_attention("gdn", plan=plan, layout="bhtd",
                                 **{name: t.detach() if name == "initial_state" else t.detach().transpose(1, 2) for name, t in mine.items()})
    torch.testing.assert_close(half.transpose(1, 2), got.detach())
    model = torch.compile(lambda q: weft.linear_attention("gdn", plan=plan, **{**mine, "q": q}).sin(), backend="aot_eager")
    torch.testing.assert_close(model(mine["q"]), got.sin())
    refusal(lambda: weft.linear_attention("gdn", plan=plan, **{**mine, "k": mine["k"][..., 0, :]}), ValueError, "with householders=2")
    refusal(lambda: weft.plan(tokens=12, heads=2, head_dim=4, layer="gla", householders=2), ValueError, "a delta rule: deltanet, gdn or kda")


def properties(rank, ranks):
    lengths = [30, 11]
    given = {name: t.float() for name, t in inputs("gdn", lengths, True).items()}
    plan = weft.plan(documents=lengths, heads=HEADS, head_dim=DIM, value_dim=DIM_V, layer="gdn", layout="zigzag")
    told = plan.explain()
    assert told["proved"] and plan.layer == "gdn" and f"gdn by {told['method']}" in repr(plan)
    assert told["method"] in weft.methods("gdn") and f"{told['method']}: " in told["why"] and "next" in told["why"], told["why"]
    t = {name: local(plan, name, x) for name, x in given.items()}
    same = torch.testing.assert_close
    want, final = weft.linear_attention("gdn", plan=plan, return_final_state=True, **t)
    # Other layouts and strides, rows that are one row, lower types, scales.
    flipped = {name: x if name == "initial_state" else x.transpose(1, 2).contiguous() for name, x in t.items()}
    same(weft.linear_attention("gdn", plan=plan, layout="bhtd", **flipped).transpose(1, 2), want)
    one, state = weft.linear_attention("gdn", plan=plan, layout="thd", return_final_state=True, **{n: x[1] for n, x in t.items()})
    same(one, want[1])
    same(state, final[1])
    rows = {**t, "g": t["g"][:, :1].expand_as(t["g"]) if t["g"].size(1) else t["g"], "v": torch.stack([t["v"]] * 2, -1)[..., 0]}
    plain = {name: x.contiguous() for name, x in rows.items()}
    same(weft.linear_attention("gdn", plan=plan, **rows), weft.linear_attention("gdn", plan=plan, **plain), rtol=0, atol=0)
    same(weft.linear_attention("gdn", plan=plan, scale=0.5, **t), want * 0.5 * DIM ** 0.5)
    half = weft.linear_attention("gdn", plan=plan, **{name: x.bfloat16() for name, x in t.items()})
    assert half.dtype == torch.bfloat16
    same(half.float(), want, rtol=0.1, atol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert weft.linear_attention("gdn", plan=plan, **t).dtype == torch.bfloat16
    # Gradients: of some inputs; twice through one graph; through a checkpoint; of the state only; a sum's, all one number.
    leaf = t["g"].clone().requires_grad_()
    others = {name: x for name, x in t.items() if name != "g"}
    out = weft.linear_attention("gdn", plan=plan, g=leaf, **others)
    out.sum().backward(retain_graph=True)
    once = leaf.grad.clone()
    out.sum().backward()
    same(leaf.grad, 2 * once)
    from torch.utils.checkpoint import checkpoint
    leaf.grad = None
    checkpoint(lambda x: weft.linear_attention("gdn", plan=plan, g=x, **others), leaf, use_reentrant=False).sum().backward()
    same(leaf.grad, once)
    state = weft.linear_attention("gdn", plan=plan, g=leaf, return_final_state=True, **others)[1]
    state.sum().backward()
    # Where a layer of attention lies beside it, in one layout.
    attention = plan.with_layer("softmax", heads=4, head_dim=8)
    assert torch.equal(attention.indices(), plan.indices()) and attention.layer == "softmax"
    back = attention.with_layer("gdn", heads=HEADS, head_dim=DIM, value_dim=DIM_V, method="chain")
    same(weft.linear_attention("gdn", plan=back, **t), want)


def compiled(rank, ranks):
    lengths = [10, 14]
    plan = weft.plan(documents=lengths, heads=HEADS, head_dim=DIM, value_dim=DIM_V, layer="gdn")
    t = {name: local(plan, name, x.float()) for name, x in inputs("gdn", lengths, True).items()}
    layer = torch.nn.Linear(DIM, DIM)

    def model(q):
        out, state = weft.linear_attention("gdn", layer(q), t["k"], t["v"], plan, g=t["g"], beta=t["beta"],
                                           initial_state=t["initial_state"], return_final_state=True)
        return out.sin(), state.cos()

    def step(function):
        layer.zero_grad()
        out, state = function(t["q"])
        (out.sum() + state.sum()).backward()
        return out.detach(), layer.weight.grad.clone()

    want = step(model)
    torch.testing.assert_close(step(torch.compile(model, backend="aot_eager", fullgraph=True)), want)


def operators(rank, ranks):
    for layer, states in (("gdn", True), ("rwkv6", False), ("linear", True)):
        plan = weft.plan(documents=[5, 2], heads=HEADS, head_dim=DIM, value_dim=DIM_V, layer=layer)
        t = {name: x.requires_grad_() for name, x in inputs(layer, [5, 2], states).items()}
        whole = {name: x.unsqueeze(-1) if name == "beta" or (name == "g" and x.dim() == 3) else x for name, x in t.items()}
        names = ("q", "k", "v", "g", "beta", "a", "b", "u", "initial_state")
        leaves = [whole[name].detach().requires_grad_() if name in whole else None for name in names]
        torch.library.opcheck(torch.ops.weft.linear_attention.default, (*leaves, plan.handle, 0.0, states, []))
        torch.library.opcheck(torch.ops.weft.linear_attention.default, (*leaves, plan.handle, 0.0, states, [4, 5]))
        assert torch.autograd.gradcheck(
            lambda *x: weft.linear_attention(layer, plan=plan, return_final_state=states, **dict(zip(t, x))), tuple(t.values()))


def refusal(call, error, *words):
    try:
        call()
    except error as raised:
        assert "\n" not in str(raised) and all(word in str(raised) for word in words), f"{raised} lacks one of {words}"
        return
    raise AssertionError(f"nothing was raised; expected {words}")


def refusals(rank, ranks):
    """Every rank raises, nothing hangs, and the group still works."""
    t = {name: x for name, x in inputs("gdn", [12], False).items()}

    def plan(**others):
        return weft.plan(**{"tokens": 12, "heads": HEADS, "head_dim": DIM, "value_dim": DIM_V, "layer": "gdn", **others})

    p = plan()
    mine = {name: p.shard(x) for name, x in t.items()}

    def call(layer="gdn", plan=p, **others):
        return lambda: weft.linear_attention(layer, plan=plan, **{**mine, **others})

    refusal(call("gla"), ValueError, "the plan is for 'gdn'", "weft.plan(..., layer='gla')")
    refusal(call(plan=None), TypeError, "plan is NoneType", "weft.plan")
    refusal(call(g=None), ValueError, "layer gdn needs g")
    refusal(call(u=torch.zeros(HEADS, DIM)), ValueError, "layer gdn has no u")
    refusal(call(g=-mine["g"]), ValueError, "at most 0", "logsigmoid")
    refusal(call(k=mine["k"].float()), ValueError, "k is of Float and q of Double")
    refusal(call(beta=mine["beta"][:, :-1] if p.local_tokens else mine["beta"][..., :-1]), ValueError, "beta is [", "plan.shard")
    refusal(call(initial_state=torch.zeros(BATCH, 7, HEADS, DIM, DIM_V)), ValueError, "initial_state is [", "documents that begin here")
    refusal(call(q=mine["q"].int()), ValueError, "float64, float32, bfloat16 and float16")
    refusal(call(scale=-1.0), ValueError, "scale -1.0")
    refusal(call(state_positions=[]), ValueError, "state_positions is empty")
    refusal(call(state_positions=[3, 12]), ValueError, "state position 12 is none of the 12 tokens")
    refusal(call(layout="tbhd"), ValueError, "layout 'tbhd'")
    refusal(lambda: weft.attention(mine["q"], mine["k"], mine["v"], p), ValueError, "use weft.linear_attention")
    refusal(lambda: plan(layer="gdm"), ValueError, "gdn")
    refusal(lambda: plan(layer=3), TypeError, "layer is 3")
    refusal(lambda: plan(causal=False), ValueError, "causal")
    refusal(lambda: plan(window=4), ValueError, "causal")
    refusal(lambda: plan(heads=4, kv_heads=2), ValueError, "kv-heads 2")
    refusal(lambda: plan(method="zigzag"), ValueError, "chain")
    refusal(lambda: plan(log_decay=[-1.0] * HEADS), ValueError, "log_decay")
    refusal(lambda: plan(layer="retnet", log_decay=[0.5] * HEADS), ValueError, "at most 0")
    if ranks > 1:
        refusal(lambda: plan(layout="striped"), ValueError, "neighbouring")
        refusal(lambda: weft.plan(tokens=12, heads=2, head_dim=4, layout="striped").with_layer("gla"), ValueError, "neighbouring")
        refusal(lambda: plan(method="chain" if rank else "log-step"), RuntimeError, "differ in method")
    torch.testing.assert_close(call()(), p.shard(recurrence("gdn", t, [12])[0]))


def one_refuses(rank, ranks):
    """A wrong tensor on one rank: it raises, and so do those that wait for it."""
    plan = weft.plan(tokens=12, heads=HEADS, head_dim=DIM, value_dim=DIM_V, layer="gdn", method="chain", timeout=20)
    t = {name: plan.shard(x) for name, x in inputs("gdn", [12], False).items()}
    weft.linear_attention("gdn", plan=plan, **t)
    try:
        weft.linear_attention("gdn", plan=plan, **(t if rank else {**t, "g": -t["g"]}))
    except ValueError as error:
        return f"ValueError {error}"
    except RuntimeError as error:
        return f"RuntimeError {error}"
    return ""


class Linear(unittest.TestCase):
    def test_householders(self):
        for ranks in (1, 3):
            with self.subTest(ranks=ranks):
                run(ranks, householders)

    def test_full_mask(self):
        for ranks in (1, 3):
            with self.subTest(ranks=ranks):
                run(ranks, full_mask)

    def test_states_at_positions(self):
        for ranks in (1, 3):
            with self.subTest(ranks=ranks):
                run(ranks, states_at_positions)

    def test_every_layer_against_the_token_loop(self):
        for ranks in (1, 2, 3):
            with self.subTest(ranks=ranks):
                run(ranks, every_layer)

    def test_properties(self):
        for ranks in (2, 3):
            with self.subTest(ranks=ranks):
                run(ranks, properties)

    def test_compiled_model(self):
        run(2, compiled)

    def test_operators(self):
        run(1, operators)

    def test_refusals(self):
        for ranks in (1, 3):
            with self.subTest(ranks=ranks):
                run(ranks, refusals)

    def test_one_rank_refuses(self):
        found = run(2, one_refuses)
        self.assertIn("at most 0", found[0])
        self.assertTrue(found[0].startswith("ValueError") and found[1].startswith("RuntimeError"), found)


if __name__ == "__main__":
    unittest.main()
