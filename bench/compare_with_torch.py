#!/usr/bin/env python3
"""Block attention of Weft against torch's scaled_dot_product_attention on one CPU core.

Both run in this process, one after the other in alternating pairs, so that a change of clock rate or a noisy
neighbour hits both alike; the peak of multiply-adds is measured before each pair. The ratio of a pair is torch's time
over Weft's; reported is the median of the pairs. torch gets its own best layout, [batch, heads, tokens, dim]
contiguous; Weft reads the same memory. GFLOP/s count the pairs that the mask allows: 4 * area * heads * dim forward,
10 * area * heads * dim backward.

    ninja -C build weft_kernels_c
    python bench/compare_with_torch.py build/bench/libweft_kernels_c.so --tokens 2048,4096 --dim 64,128
"""

import argparse
import ctypes
import json
import statistics
import sys

import torch
from kernels_library import DTYPES, description, load, seconds


class Attention(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_void_p) for name in "q k v dout o lse delta dq dk dv".split()]
        + [(name, ctypes.c_int64) for name in "tokens heads kv_heads dim q_row q_head k_row k_head".split()]
        + [("dtype", ctypes.c_int32), ("causal", ctypes.c_int32), ("scale", ctypes.c_double)]
    )


def compare(library, tokens, heads, kv_heads, dim, dtype, causal, pairs):
    torch_type, weft_type = DTYPES[dtype]
    generator = torch.Generator().manual_seed(1)

    def values(h):
        return torch.randn(1, h, tokens, dim, generator=generator).to(torch_type)

    q, k, v = (values(h).requires_grad_() for h in (heads, kv_heads, kv_heads))
    dout = values(heads)
    o, dq = (torch.zeros(1, heads, tokens, dim) for _ in range(2))
    dk, dv = (torch.zeros(1, kv_heads, tokens, dim) for _ in range(2))
    lse, delta = (torch.zeros(heads, tokens) for _ in range(2))
    call = Attention(
        *[t.data_ptr() for t in (q, k, v, dout, o, lse, delta, dq, dk, dv)],
        tokens, heads, kv_heads, dim, dim, tokens * dim, dim, tokens * dim, weft_type, causal, dim**-0.5,
    )

    def check(status):
        if status:
            sys.exit("weft failed")

    state = {}

    def torch_forward():
        state["out"] = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=causal, enable_gqa=heads != kv_heads
        )

    def torch_backward():
        state["gradients"] = torch.autograd.grad(state["out"], (q, k, v), dout)

    steps = {
        "forward": (torch_forward, lambda: check(library.weft_attend(ctypes.byref(call)))),
        "backward": (torch_backward, lambda: check(library.weft_attend_backward(ctypes.byref(call)))),
    }
    for torch_step, weft_step in steps.values():  # warm up, and make sure that both compute the same
        torch_step()
        weft_step()
    tolerance = 1e-4 if dtype == "fp32" else 5e-2
    for ours, theirs in zip((o, dq, dk, dv), (state["out"], *state["gradients"])):
        error = (ours - theirs.float()).abs().max() / theirs.float().abs().max()
        if error > tolerance:
            sys.exit(f"results differ by {error:.1e} of the largest value")

    times = {step: {"torch": [], "weft": []} for step in steps}
    peaks = []
    peak = library.weft_bf16_peak_gflops if dtype == "bf16" else library.weft_fma_peak_gflops
    for _ in range(pairs):
        peaks.append(peak())
        torch_forward()  # a graph for this round's backward
        for step, (torch_step, weft_step) in steps.items():
            times[step]["torch"].append(seconds(torch_step))
            times[step]["weft"].append(seconds(weft_step))
    area = tokens * (tokens + 1) // 2 if causal else tokens * tokens
    rows = []
    for step, factor in (("forward", 4), ("backward", 10)):
        theirs, ours = times[step]["torch"], times[step]["weft"]
        median = statistics.median(ours)
        rows.append({
            "step": step, "dtype": dtype, "causal": causal, "tokens": tokens, "heads": heads, "kv_heads": kv_heads,
            "dim": dim, "pairs": pairs, "torch_seconds": statistics.median(theirs), "weft_seconds": median,
            "ratio": statistics.median(t / w for t, w in zip(theirs, ours)),
            "ratio_min": min(t / w for t, w in zip(theirs, ours)),
            "weft_gflops": factor * area * heads * dim / median * 1e-9,
            "torch_gflops": factor * area * heads * dim / statistics.median(theirs) * 1e-9,
            "of_peak": statistics.median(factor * area * heads * dim / w * 1e-9 / p for w, p in zip(ours, peaks)),
            "peak_gflops": statistics.median(peaks),
        })
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", help="path of libweft_kernels_c.so")
    parser.add_argument("--tokens", default="2048,4096,8192,16384")
    parser.add_argument("--dim", default="64,128")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=0, help="default: as many as heads")
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument("--full", action="store_true", help="no causal mask")
    parser.add_argument("--pairs", type=int, default=0, help="default: by size, 3 to 15")
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    args = parser.parse_args()

    library = load(args.library)
    if not args.json:
        print(description(library))
        print(f"{'step':9}{'type':6}{'tokens':>7}{'heads':>7}{'dim':>5}{'torch s':>10}{'weft s':>10}"
              f"{'ratio':>7}{'min':>6}{'torch GF/s':>12}{'weft GF/s':>11}{'of peak':>9}")
    for dim in map(int, args.dim.split(",")):
        for tokens in map(int, args.tokens.split(",")):
            pairs = args.pairs or max(3, min(15, 15 * 2048 * 2048 * 64 // (tokens * tokens * dim)))
            kv_heads = args.kv_heads or args.heads
            for row in compare(library, tokens, args.heads, kv_heads, dim, args.dtype, not args.full, pairs):
                row.update(path=library.weft_kernel_name().decode(), torch=torch.__version__)
                if args.json:
                    print(json.dumps(row), flush=True)
                    continue
                heads = f"{args.heads}/{kv_heads}"
                print(f"{row['step']:9}{args.dtype:6}{tokens:7}{heads:>7}{dim:5}{row['torch_seconds']:10.4f}"
                      f"{row['weft_seconds']:10.4f}{row['ratio']:7.2f}{row['ratio_min']:6.2f}"
                      f"{row['torch_gflops']:12.1f}{row['weft_gflops']:11.1f}{row['of_peak']:9.1%}", flush=True)


if __name__ == "__main__":
    main()
