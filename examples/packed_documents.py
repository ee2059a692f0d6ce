"""Documents packed into one sequence: no token sees another document, and no position of work is lost to padding.

    torchrun --nproc-per-node 2 examples/packed_documents.py
"""

import torch
import torch.distributed as dist

import weft

DOCUMENTS, HEADS, DIM = [700, 30, 30, 1000, 200, 64], 4, 32


def main():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    plans = {layout or "its own": weft.plan(documents=DOCUMENTS, heads=HEADS, head_dim=DIM, method=method, layout=layout)
             for method, layout in (("zigzag", ""), ("zigzag", "contiguous"), ("ring", "striped"))}
    if rank == 0:
        for layout, plan in plans.items():
            costs = plan.explain()["ranks"]
            print(f"{plan.method}, layout {layout}: work of the ranks {[cost['work'] for cost in costs]}, "
                  f"bytes sent {[cost['bytes_sent'] for cost in costs]}")

    plan = plans["its own"]
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, plan.tokens, HEADS, DIM) for _ in range(3))

    def outputs(k, v):
        return plan.unshard(weft.attention(plan.shard(q), plan.shard(k), plan.shard(v), plan))

    before = outputs(k, v)
    begin, end = sum(DOCUMENTS[:3]), sum(DOCUMENTS[:4])  # other keys and values in the fourth document only
    k[:, begin:end] += 1
    v[:, begin:end] *= -1
    after = outputs(k, v)
    assert torch.equal(before[:, :begin], after[:, :begin]) and torch.equal(before[:, end:], after[:, end:])
    assert not torch.equal(before[:, begin:end], after[:, begin:end])

    # Positions count anew in each document, labels do not cross a border.
    batch = weft.shard_batch({"input_ids": torch.arange(plan.tokens)[None]}, plan)
    last = plan.positions() == torch.repeat_interleave(torch.tensor(DOCUMENTS), torch.tensor(DOCUMENTS))[plan.indices()] - 1
    assert torch.equal(batch["position_ids"][0], plan.positions())
    assert torch.equal(batch["shift_labels"][0] == -100, last)
    print(f"rank {rank}: {plan.local_tokens} tokens, {int((~last).sum())} labels; other documents' outputs are the same bits")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
