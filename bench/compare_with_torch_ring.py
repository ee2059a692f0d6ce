#!/usr/bin/env python3
"""Attention over processes, forward and backward: Weft against other ways over the same Gloo group, in one run.

    bench/compare_with_torch_ring.py --tokens 8192,32768            # WEFT_LIBRARY=build/python PYTHONPATH=python

Contestants, one thread for each process, in turn, so that a change of clock rate hits all alike:
  weft zigzag, ulysses   weft.attention with these methods
  torch ring             torch's _templated_ring_attention and its backward around the CPU flash operator, load balanced, with
                         all-to-all rotation: one level below context_parallel, which refuses CPU tensors. Causal only.
  all-gather + SDPA      keys and values gathered on every rank, then scaled_dot_product_attention of its zigzag queries
  plain ring             a ring in Python, as one would write it: zigzag chunks, the flash operator, partial results merged

Before any is timed, all are compared with each other. `packed`: documents of tokens/16, 5/16, 3/16, 6/16 and tokens/16.
The times count only where the machine is idle: a compute loop in all processes at once is compared with one alone, and less
than 95 % is reported as not valid.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F

FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


FULL, CAUSAL = "full", "causal"


def mask_of(rule):
    return rule if isinstance(rule, torch.Tensor) else None


def chunk_mask(lengths, tokens, chunks, i, j):
    """What queries of chunk i see of keys of chunk j: None for nothing, FULL, CAUSAL, or a mask of numbers."""
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    size = tokens // chunks
    q, k = torch.arange(i * size, (i + 1) * size), torch.arange(j * size, (j + 1) * size)
    allowed = (document[q][:, None] == document[k][None, :]) & (q[:, None] >= k[None, :])
    if not allowed.any():
        return None
    if allowed.all():
        return FULL
    if i == j and document[q[0]] == document[q[-1]]:
        return CAUSAL
    return torch.zeros(allowed.shape).masked_fill_(~allowed, float("-inf"))


class PlainRing(torch.autograd.Function):
    """q, k, v [1, heads, tokens, dim] of two zigzag chunks; table[(i, j)]: what chunk i sees of chunk j."""

    @staticmethod
    def forward(ctx, q, k, v, table, rank, ranks):
        ctx.table, ctx.rank, ctx.ranks = table, rank, ranks
        out, lse = torch.zeros_like(q), torch.full(q.shape[:3], float("-inf"))
        for source, (keys, values) in turns((k, v), rank, ranks):
            for a, i in enumerate((rank, 2 * ranks - 1 - rank)):
                for b, j in enumerate((source, 2 * ranks - 1 - source)):
                    rule = table[i, j]
                    if rule is None:
                        continue
                    part, part_lse = FLASH(half(q, a), half(keys, b), half(values, b), 0.0, rule is CAUSAL, attn_mask=mask_of(rule))
                    if isinstance(rule, torch.Tensor):  # rows that see nothing come back as some number
                        part_lse = part_lse.view(half(lse, a).shape).masked_fill(rule.isinf().all(1), float("-inf"))
                    merge(half(out, a), half(lse, a), part, part_lse.view(half(lse, a).shape))
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx, dout):
        q, k, v, out, lse = ctx.saved_tensors
        rank, ranks = ctx.rank, ctx.ranks
        dq = torch.zeros_like(q)
        dkv = [torch.zeros_like(k), torch.zeros_like(v)]
        for source, (keys, values) in turns((k, v), rank, ranks):
            if source != rank:
                dkv = exchange(dkv, rank, ranks)
            for a, i in enumerate((rank, 2 * ranks - 1 - rank)):
                for b, j in enumerate((source, 2 * ranks - 1 - source)):
                    rule = ctx.table[i, j]
                    if rule is None:
                        continue
                    grads = FLASH_BACKWARD(half(dout, a).contiguous(), half(q, a), half(keys, b), half(values, b), half(out, a),
                                           half(lse, a).contiguous(), 0.0, rule is CAUSAL, attn_mask=mask_of(rule))
                    half(dq, a).add_(grads[0])
                    half(dkv[0], b).add_(grads[1])
                    half(dkv[1], b).add_(grads[2])
        if ranks > 1:
            dkv = exchange(dkv, rank, ranks)
        return dq, *dkv, None, None, None


def merge(out, lse, part, part_lse):
    """Adds a partial result to the one so far, in place."""
    both = torch.logaddexp(lse, part_lse)
    whole = torch.where(both.isinf(), 0, both)
    out.mul_((lse - whole).exp()[..., None]).add_((part_lse - whole).exp()[..., None] * part.nan_to_num())
    lse.copy_(both)


def half(tensor, which):
    return tensor.chunk(2, 2)[which]


def exchange(tensors, rank, ranks):
    """To the next rank, from the one before."""
    sent = torch.stack(list(tensors))
    received = torch.empty_like(sent)
    for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, sent, (rank + 1) % ranks),
                                        dist.P2POp(dist.irecv, received, (rank - 1) % ranks)]):
        work.wait()
    return list(received.unbind())


def turns(kv, rank, ranks):
    for step in range(ranks):
        yield (rank - step) % ranks, kv
        if step + 1 < ranks:
            kv = exchange(kv, rank, ranks)


class Gathered(torch.autograd.Function):
    """k and v of all ranks, in the order of tokens; their gradients summed."""

    @staticmethod
    def forward(ctx, kv, plan):
        ctx.plan = plan
        return plan.unshard(kv, 3)

    @staticmethod
    def backward(ctx, grad):
        total = grad.contiguous()
        dist.all_reduce(total)
        return ctx.plan.shard(total, 3), None


def gathered(q, k, v, plan, masks):
    """Zigzag queries of this rank, keys and values of all."""
    keys, values = Gathered.apply(torch.stack([k, v]), plan).unbind()
    size = plan.tokens // (2 * plan.ranks)
    outs = []
    for a, i in enumerate((plan.rank, 2 * plan.ranks - 1 - plan.rank)):
        seen = slice((i + 1) * size)
        outs.append(F.scaled_dot_product_attention(half(q, a), keys[:, :, seen], values[:, :, seen], attn_mask=masks[i]))
    return torch.cat(outs, 2)


def torch_ring(q, k, v, dout, group):
    from torch.distributed.tensor.experimental._context_parallel import _attention as ring

    ring._cp_options.rotate_method = ring._RotateMethod.ALL_TO_ALL
    ring._cp_options.enable_load_balance = True
    out, lse = ring._templated_ring_attention(group, 2, FLASH, q, k, v, is_causal=True, dropout_p=0.0)[:2]
    grads = ring._templated_ring_attention_backward(group, 2, FLASH_BACKWARD, dout, "grad_out", q, k, v, out, lse, is_causal=True,
                                                    dropout_p=0.0)
    return out, grads[:3]


def contestants(rank, ranks, tokens, lengths, heads, dim):
    """name -> a function that computes out and gradients of this rank's tokens, and the plan that says which they are."""
    import weft

    torch.manual_seed(0)
    q, k, v, dout = (torch.randn(1, tokens, heads, dim) for _ in range(4))
    group, chunks = dist.group.WORLD, 2 * ranks
    mine = (rank, chunks - 1 - rank)
    table = {(i, j): chunk_mask(lengths, tokens, chunks, i, j) for i in mine for j in range(chunks)}
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    size = tokens // chunks
    masks = {}
    for i in mine:
        at = torch.arange(i * size, (i + 1) * size)
        masks[i] = (document[at][:, None] == document[None, :(i + 1) * size]) & (at[:, None] >= torch.arange((i + 1) * size))

    def with_autograd(plan, function, by_head):
        mine = [plan.shard(t) for t in (q, k, v, dout)]
        mine = [t.transpose(1, 2).contiguous() for t in mine] if by_head else mine

        def step():
            leaves = [t.detach().requires_grad_() for t in mine[:3]]
            out = function(*leaves)
            out.backward(mine[3])
            found = [out.detach(), *(t.grad for t in leaves)]
            return [t.transpose(1, 2) for t in found] if by_head else found

        return step, plan

    shape = {"documents": lengths, "heads": heads, "head_dim": dim}
    zigzag, ulysses = weft.plan(method="zigzag", layout="zigzag", **shape), weft.plan(method="ulysses", **shape)
    runs = {
        "weft zigzag": with_autograd(zigzag, lambda *t: weft.attention(*t, zigzag), False),
        "weft ulysses": with_autograd(ulysses, lambda *t: weft.attention(*t, ulysses), False),
        "all-gather + SDPA": with_autograd(zigzag, lambda *t: gathered(*t, zigzag, masks), True),
        "plain ring": with_autograd(zigzag, lambda *t: PlainRing.apply(*t, table, rank, ranks), True),
    }
    if len(lengths) == 1:
        mine = [zigzag.shard(t).transpose(1, 2).contiguous() for t in (q, k, v, dout)]

        def step():
            out, grads = torch_ring(*mine, group)
            return [t.transpose(1, 2) for t in (out, *grads)]

        runs["torch ring"] = (step, zigzag)
    return runs


def compute_speed(seconds=0.3):
    """Products of small matrices a second, on this process's thread."""
    a, b = torch.randn(96, 96), torch.randn(96, 96)
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        a @ b
        count += 1
    return count / (time.perf_counter() - begin)


def idle_share(rank):
    """Speed of all processes at once against one alone; 1 on a machine that does nothing else."""
    alone = torch.tensor(compute_speed() if rank == 0 else 0.0)
    dist.barrier()
    together = torch.tensor(compute_speed())
    dist.barrier()
    dist.broadcast(alone, 0)
    dist.all_reduce(together, dist.ReduceOp.MIN)
    return float(together / alone)


def timed(rank, ranks, arguments, tokens, mask):
    lengths = [tokens] if mask == "causal" else [tokens * share // 16 for share in (1, 5, 3, 6, 1)]
    runs = contestants(rank, ranks, tokens, lengths, arguments.heads, arguments.dim)
    whole = {name: [plan.unshard(t) for t in step()] for name, (step, plan) in runs.items()}  # warms up, too
    for name, found in whole.items():
        for got, want in zip(found, whole["weft zigzag"]):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3, msg=lambda text: f"{name}, {mask}: {text}")
    del whole
    seconds = {name: [] for name in runs}
    for _ in range(arguments.repeat):
        for name, (step, _) in runs.items():
            dist.barrier()
            begin = time.perf_counter()
            step()
            dist.barrier()
            seconds[name].append(time.perf_counter() - begin)
    return {name: 1000 * statistics.median(times) for name, times in seconds.items()}


def call_overhead(rank, calls=200):
    """Microseconds of one call over a cached plan for 64 tokens of one head, which is hardly attention; and of torch's own
    operation on as many tokens, called in turn."""
    import weft

    plan = weft.plan(tokens=64, heads=1, head_dim=8, method="zigzag")
    q, k, v = (plan.shard(torch.randn(1, 64, 1, 8)) for _ in range(3))
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    dout = torch.ones_like(q)

    def by_torch(*tensors):
        return F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in tensors), is_causal=True).transpose(1, 2)

    work = {"forward": lambda: weft.attention(q, k, v, plan),
            "forward and backward": lambda: weft.attention(*leaves, plan).backward(dout),
            "torch forward": lambda: by_torch(q, k, v),
            "torch forward and backward": lambda: by_torch(*leaves).backward(dout)}
    times = {name: [] for name in work}
    for turn in range(20 + calls):
        for name, call in work.items():
            begin = time.perf_counter()
            call()
            if turn >= 20:
                times[name].append(time.perf_counter() - begin)
    return {name: 1e6 * statistics.median(each) for name, each in times.items()}


def process(rank, ranks, folder, arguments):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=dist.FileStore(os.path.join(folder, f"store{ranks}"), ranks), rank=rank, world_size=ranks)
    result = {"ranks": ranks, "idle_share": idle_share(rank), "milliseconds": [], "call_microseconds": call_overhead(rank)}
    for tokens in arguments.tokens if ranks > 1 else []:
        for mask in arguments.masks:
            result["milliseconds"].append({"tokens": tokens, "mask": mask, **timed(rank, ranks, arguments, tokens, mask)})
    result["idle_share"] = min(result["idle_share"], idle_share(rank))
    if rank == 0:
        with open(os.path.join(folder, f"result{ranks}"), "w", encoding="utf-8") as file:
            json.dump(result, file)
    dist.barrier()
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="8192,32768", type=lambda text: [int(word) for word in text.split(",")])
    parser.add_argument("--masks", default="causal,packed", type=lambda text: text.split(","))
    parser.add_argument("--ranks", default=2, type=int)
    parser.add_argument("--heads", default=8, type=int)
    parser.add_argument("--dim", default=64, type=int)
    parser.add_argument("--repeat", default=5, type=int)
    parser.add_argument("--json", action="store_true", help="one JSON object for each number of processes")
    arguments = parser.parse_args()
    for tokens in arguments.tokens:
        if tokens % (16 * arguments.ranks):
            sys.exit(f"--tokens {tokens}: give a multiple of {16 * arguments.ranks}, so that all contestants can divide it")
    with tempfile.TemporaryDirectory() as folder:
        for ranks in (1, arguments.ranks):
            multiprocessing.spawn(process, (ranks, folder, arguments), ranks)
            with open(os.path.join(folder, f"result{ranks}"), encoding="utf-8") as file:
                result = json.load(file)
            if arguments.json:
                print(json.dumps(result))
                continue
            calls = ", ".join(f"{name} {time:.0f} us" for name, time in result["call_microseconds"].items())
            print(f"{ranks} process{'es' if ranks > 1 else ''}: a call for 64 tokens over a cached plan: {calls}")
            for row in result["milliseconds"]:
                times = {name: time for name, time in row.items() if name not in ("tokens", "mask")}
                best = min(time for name, time in times.items() if name.startswith("weft"))
                print(f"  {row['tokens']} tokens, {row['mask']}, forward and backward:")
                for name, time in times.items():
                    print(f"    {name:18} {time:9.1f} ms  {time / best:5.2f} x the better of weft")
            if result["idle_share"] < 0.95:
                share = 100 * result["idle_share"]
                print(f"  not valid: the machine is busy (a compute loop in all processes reaches {share:.0f} % of one alone); "
                      "take the times on an idle machine")


if __name__ == "__main__":
    main()
