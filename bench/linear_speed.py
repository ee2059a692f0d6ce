#!/usr/bin/env python3
"""The local work of linear layers against the same chunked formulas in torch, on one CPU core.

Both run in this process, one after the other in alternating pairs, in processor time, so that a change of clock rate or a
noisy neighbour hits both alike; the peak of multiply-adds is measured before each pair. The ratio of a pair is torch's time
over Weft's; reported is the median of the pairs. torch has all chunks of all heads in one batched product, a loop over the
chunks for the states only, and its backward by autograd, which keeps what forward computed. Results are compared first.

GFLOP/s count the multiply-adds of the formulas as the kernels have them, of pairs of tokens those that the causal mask
allows, and no other operation.

    ninja -C build weft_kernels_c
    python bench/linear_speed.py build/bench/libweft_kernels_c.so --layers mamba2,gla --dims 64,128
"""

import argparse
import ctypes
import json
import statistics
import sys

import torch
from kernels_library import DTYPES, description, load, seconds

CHUNK, BLOCK = 64, 16
LAYERS = ["linear", "retnet", "mamba2", "gla", "rwkv6", "deltanet", "gdn", "kda", "rwkv7"]
PARTS = ["scan", "scan_backward", "summarise", "transition", "apply_state", "summarise_backward", "apply_dstate"]
INPUTS = ["q", "k", "v", "a", "b", "g", "beta", "u"]


class Linear(ctypes.Structure):
    _fields_ = (
        [(n, ctypes.c_void_p) for n in "q k v a b dout g beta u out dq dk dv dg dbeta da db du".split()]
        + [(n, ctypes.c_void_p) for n in "state dstate transition".split()]
        + [(n, ctypes.c_int64) for n in "tokens heads dim dim_v gates transition_size".split()]
        + [("dtype", ctypes.c_int32), ("scale", ctypes.c_double), ("log_decay", ctypes.c_double)]
    )


# ---- the formulas, on [heads, chunks, CHUNK, columns]


class Decays:
    def __init__(self, g):
        self.g, self.c = g, g.cumsum(2)
        self.before = self.c - g

    def scores(self, x, y, before=False):
        mask = torch.ones(CHUNK, CHUNK, dtype=torch.bool).tril(-1 if before else 0)
        read = self.before if before else self.c
        if self.g.shape[-1] == 1:
            return (x @ y.mT) * (read - self.c.mT).masked_fill(~mask, -torch.inf).exp()
        rows = []
        for begin in range(0, CHUNK, BLOCK):
            here = slice(begin, begin + BLOCK)
            base = self.before[:, :, begin : begin + 1]
            inside = (read[:, :, here, None] - self.c[:, :, None, here]).masked_fill(~mask[:BLOCK, :BLOCK, None], -torch.inf)
            parts = [(x[:, :, here, None] * y[:, :, None, here] * inside.exp()).sum(-1)]
            if begin:
                earlier = y[:, :, :begin] * (base - self.c[:, :, :begin]).exp()
                parts.insert(0, (x[:, :, here] * (read[:, :, here] - base).exp()) @ earlier.mT)
            rows.append(torch.nn.functional.pad(torch.cat(parts, -1), (0, CHUNK - begin - BLOCK)))
        return torch.cat(rows, 2)

    def from_begin(self, x, before=False):
        return x * (self.before if before else self.c).exp()

    def to_end(self, y):
        return y * (self.c[:, :, -1:] - self.c).exp()

    def passed(self):
        return self.c[:, :, -1, :, None].exp()


def torch_scan(t, scale):
    """out, by the formulas of docs/linear.md."""
    heads, tokens = t["k"].shape[:2]
    n = {name: x.view(heads, -1, CHUNK, x.shape[-1]) for name, x in t.items() if name != "u"}
    q, k, v, decays = n["q"], n["k"], n["v"], Decays(n["g"])
    passed, ke = decays.passed(), decays.to_end(k)
    before = "u" in t
    qk, qe = decays.scores(q, k, before), decays.from_begin(q, before)
    if before:
        qk = qk + torch.diag_embed((q * t["u"][:, None, None] * k).sum(-1))
    state, states, eye = torch.zeros(heads, k.shape[-1], v.shape[-1]), [], torch.eye(CHUNK)
    if "beta" in n:
        beta = n["beta"]
        strict = torch.ones(CHUNK, CHUNK, dtype=torch.bool).tril(-1)
        solved = torch.linalg.solve_triangular(eye + beta * decays.scores(k, k).masked_fill(~strict, 0),
                                               torch.diag_embed(beta[..., 0]), upper=False, unitriangular=True)
        w, written = solved @ decays.from_begin(k), solved @ v
        values = []
        for c in range(q.shape[1]):
            states.append(state)
            values.append(written[:, c] - w[:, c] @ state)
            state = passed[:, c] * state + ke[:, c].mT @ values[-1]
        out = qe @ torch.stack(states, 1) + qk @ torch.stack(values, 1)
    elif "a" in n:
        a, b = n["a"], n["b"]
        ab, ak = decays.scores(a, b, True), decays.scores(a, k, True)
        inverse = torch.linalg.solve_triangular(eye - ab, eye.expand(ab.shape), upper=False, unitriangular=True)
        w, read, be = inverse @ decays.from_begin(a, True), inverse @ (ak @ v), decays.to_end(b)
        added, reads = ke.mT @ v, []
        for c in range(q.shape[1]):
            states.append(state)
            reads.append(read[:, c] + w[:, c] @ state)
            state = passed[:, c] * state + added[:, c] + be[:, c].mT @ reads[-1]
        out = qe @ torch.stack(states, 1) + qk @ v + decays.scores(q, b) @ torch.stack(reads, 1)
    else:
        added = ke.mT @ v
        for c in range(q.shape[1]):
            states.append(state)
            state = passed[:, c] * state + added[:, c]
        out = qe @ torch.stack(states, 1) + qk @ v
    return (scale * out).view(heads, tokens, -1)


# ---- cases


def inputs_of(layer, heads, tokens, dim, dim_v, dtype):
    generator = torch.Generator().manual_seed(1)
    values = lambda columns: torch.randn(heads, tokens, columns, generator=generator)
    unit = lambda x: torch.nn.functional.normalize(x, dim=-1)
    t = {"q": values(dim), "k": values(dim), "v": values(dim_v)}
    mixes = layer in ("deltanet", "gdn", "kda", "rwkv7")
    if mixes:
        t["k"] = unit(t["k"])
    if layer == "rwkv7":
        t["a"] = unit(values(dim))
        t["b"] = -t["a"] * torch.rand(heads, tokens, 1, generator=generator)
    t = {name: x.to(dtype) for name, x in t.items()}
    gates = dim if layer in ("gla", "rwkv6", "kda", "rwkv7") else 1
    if layer in ("linear", "deltanet"):
        t["g"] = torch.zeros(heads, tokens, 1)
    elif layer == "retnet":
        t["g"] = torch.full((heads, tokens, 1), -0.03)
    else:
        t["g"] = torch.nn.functional.logsigmoid(values(gates) + 3)
    if mixes and layer != "rwkv7":
        t["beta"] = torch.rand(heads, tokens, 1, generator=generator)
    if layer == "rwkv6":
        t["u"] = torch.randn(heads, dim, generator=generator)
    return t, values(dim_v).to(dtype)


def flops(layer, part, dk, dv):
    """Multiply-adds of a token and head, twice, as the kernels have them: chunks of 64 tokens, of 32 where rows mix."""
    if layer not in ("deltanet", "gdn", "kda", "rwkv7"):
        c = (64 + 1) / 2
        count = {"scan": c * (dk + dv) + 2 * dk * dv, "scan_backward": c * (3 * dk + 2 * dv) + 5 * dk * dv}
    elif layer != "rwkv7":  # one product of k and b, and of q and both
        c = (32 + 1) / 2
        count = {"scan": c * (2 * dk + 3 * dv) + 3 * dk * dv, "scan_backward": c * (7 * dk + 9 * dv) + 9 * dk * dv}
    else:
        c = (32 + 1) / 2
        count = {"scan": c * (4 * dk + 4 * dv) + 4 * dk * dv, "scan_backward": c * (14 * dk + 12 * dv) + 12 * dk * dv}
    return 2 * count.get(part, float("nan"))


def compare(library, layer, heads, tokens, dim, dim_v, dtype, pairs, parts, with_torch):
    t, dout = inputs_of(layer, heads, tokens, dim, dim_v, DTYPES[dtype][0])
    constant = layer in ("linear", "retnet")
    mixes = layer in ("deltanet", "gdn", "kda", "rwkv7")
    result = {"d" + name: torch.zeros(x.shape) for name, x in t.items() if not (name == "g" and constant)}
    result["out"] = torch.zeros(heads, tokens, dim_v)
    result["state"], result["dstate"] = torch.randn(heads, dim, dim_v), torch.randn(heads, dim, dim_v)
    size = dim * dim if mixes else t["g"].shape[-1]
    result["transition"] = torch.zeros(heads, size)
    call = Linear(tokens=tokens, heads=heads, dim=dim, dim_v=dim_v, gates=t["g"].shape[-1], transition_size=size,
                  dtype=DTYPES[dtype][1], scale=dim**-0.5, log_decay=t["g"][0, 0, 0].item() if constant else 0)
    for name, x in {**t, **result, "dout": dout}.items():
        if not (name == "g" and constant):
            setattr(call, name, x.data_ptr())

    def weft(part):
        if library.weft_linear(ctypes.byref(call), PARTS.index(part)):
            sys.exit("weft failed")

    leaves = {name: x.float().requires_grad_() for name, x in t.items()}
    state = {}

    def torch_forward():
        state["out"] = torch_scan(leaves, dim**-0.5)

    def torch_backward():
        state["gradients"] = torch.autograd.grad(state["out"], list(leaves.values()), dout.float())

    steps = {"scan": torch_forward, "scan_backward": torch_backward}
    if with_torch:
        for part, step in steps.items():
            step()
            weft(part)
        for name, theirs in zip(["out", *("d" + n for n in leaves)], [state["out"], *state["gradients"]]):
            if name in result:
                error = (result[name] - theirs).abs().max() / theirs.abs().max()
                if not error < 2e-4:
                    sys.exit(f"{layer}: {name} differs by {error:.1e} of the largest value")
    times = {part: {"torch": [], "weft": []} for part in parts}
    peaks = []
    for _ in range(pairs):
        peaks.append(library.weft_fma_peak_gflops())
        for part in parts:
            if with_torch and part in steps:
                times[part]["torch"].append(seconds(steps[part]))
            times[part]["weft"].append(seconds(lambda: weft(part)))
    rows = []
    for part in parts:
        theirs, ours = times[part]["torch"], times[part]["weft"]
        work = flops(layer, part, dim, dim_v) * heads * tokens * 1e-9
        ratios = [a / b for a, b in zip(theirs, ours)] or [float("nan")]
        rows.append({
            "layer": layer, "part": part, "dtype": dtype, "tokens": tokens, "heads": heads, "dim": dim, "dim_v": dim_v,
            "pairs": pairs, "torch_seconds": statistics.median(theirs or [float("nan")]),
            "weft_seconds": statistics.median(ours), "ratio": statistics.median(ratios), "ratio_min": min(ratios),
            "weft_gflops": work / statistics.median(ours),
            "of_peak": statistics.median(work / w / p for w, p in zip(ours, peaks)),
            "fma_peak_gflops": statistics.median(peaks),
        })
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", help="path of libweft_kernels_c.so")
    parser.add_argument("--layers", default=",".join(LAYERS))
    parser.add_argument("--dims", default="64,128", help="key and value dim, DIM or DIMxDIM_V")
    parser.add_argument("--parts", default="scan,scan_backward", help="of " + ",".join(PARTS))
    parser.add_argument("--tokens", type=int, default=2048, help="a multiple of 64")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--no-torch", action="store_true", help="Weft's times only")
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    args = parser.parse_args()

    library = load(args.library)
    if not args.json:
        print(f"{description(library)}, {args.dtype}, "
              f"{args.tokens} tokens, {args.heads} heads")
        print(f"{'layer':10}{'part':20}{'dims':>9}{'torch s':>10}{'weft s':>10}{'ratio':>7}{'min':>6}{'GF/s':>7}{'of peak':>9}")
    for layer in args.layers.split(","):
        for dims in args.dims.split(","):
            dim, dim_v = (int(x) for x in (dims if "x" in dims else dims + "x" + dims).split("x"))
            for r in compare(library, layer, args.heads, args.tokens, dim, dim_v, args.dtype, args.pairs,
                             args.parts.split(","), not args.no_torch):
                if args.json:
                    print(json.dumps(r), flush=True)
                    continue
                print(f"{layer:10}{r['part']:20}{dim:>5}/{dim_v:<3}{r['torch_seconds']:10.4f}{r['weft_seconds']:10.4f}"
                      f"{r['ratio']:7.2f}{r['ratio_min']:6.2f}{r['weft_gflops']:7.1f}{r['of_peak']:8.1%}", flush=True)


if __name__ == "__main__":
    main()
