"""Attention over a sequence that several processes hold together, compared with one process.

    torchrun --nproc-per-node 2 examples/attention.py
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F

import weft

TOKENS, HEADS, KV_HEADS, DIM = 2048, 8, 2, 64


def main():
    dist.init_process_group("gloo")
    torch.manual_seed(0)  # every process makes the same sequence; in a real program it has only its own part
    q, k, v, grad = (torch.randn(1, TOKENS, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS))

    plan = weft.plan(tokens=TOKENS, heads=HEADS, kv_heads=KV_HEADS, head_dim=DIM)
    mine = [plan.shard(t).requires_grad_() for t in (q, k, v)]  # [batch, local tokens, heads, head dim]
    out = weft.attention(*mine, plan)
    out.backward(plan.shard(grad))
    if dist.get_rank() == 0:
        print(plan)
        for rank, cost in enumerate(plan.explain()["ranks"]):
            print(f"  rank {rank}: {cost['tokens']} tokens, {cost['work']} products, sends {cost['bytes_sent']} bytes")

    whole = [t.clone().requires_grad_() for t in (q, k, v)]
    dense = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in whole), is_causal=True, enable_gqa=True).transpose(1, 2)
    dense.backward(grad)
    errors = [(out - plan.shard(dense)).abs().max()]
    errors += [(a.grad - plan.shard(b.grad)).abs().max() for a, b in zip(mine, whole)]
    print(f"rank {dist.get_rank()}: largest differences to one process: out {errors[0]:.1e}, dq {errors[1]:.1e}, "
          f"dk {errors[2]:.1e}, dv {errors[3]:.1e}")
    assert max(errors) < 1e-3
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
