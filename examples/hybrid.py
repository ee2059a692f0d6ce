"""A hybrid decoder, two Gated DeltaNet layers for each layer of attention, on packed documents that all processes hold.

    torchrun --nproc-per-node 2 examples/hybrid.py      # the losses are the same for every number of processes
"""

import random

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import weft

DOCUMENTS, WIDTH, HEADS, DIM, STEPS = [300, 1, 123, 88], 48, 3, 16, 20


class DeltaNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkvz, self.ab = nn.Linear(WIDTH, 4 * HEADS * DIM), nn.Linear(WIDTH, 2 * HEADS)
        self.norm, self.out = nn.RMSNorm(DIM), nn.Linear(HEADS * DIM, WIDTH)

    def forward(self, x, plans):
        q, k, v, z = F.silu(self.qkvz(x)).unflatten(-1, (4, HEADS, DIM)).unbind(2)
        a, b = self.ab(x).unflatten(-1, (2, HEADS)).unbind(2)
        # The state of a head decays by exp(g), and what it holds under k moves towards v, by a share of beta.
        out = weft.linear_attention("gdn", F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, plans["linear"],
                                    g=F.logsigmoid(a + 3), beta=b.sigmoid())
        return self.out((self.norm(out) * z).flatten(2))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * HEADS * DIM), nn.Linear(HEADS * DIM, WIDTH)

    def forward(self, x, plans):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, DIM)).unbind(2)
        return self.out(weft.attention(q, k, v, plans["attention"]).flatten(2))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(128, WIDTH, _weight=0.1 * torch.randn(128, WIDTH))
        self.mixers = nn.ModuleList([DeltaNet(), DeltaNet(), Attention()])
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, WIDTH))
                                  for _ in self.mixers)

    def forward(self, ids, plans):
        x = self.words(ids)  # without positions: states tell the order of tokens
        for mixer, mlp in zip(self.mixers, self.mlps):
            x = x + mixer(F.rms_norm(x, (WIDTH,)), plans)
            x = x + mlp(F.rms_norm(x, (WIDTH,)))
        return F.linear(F.rms_norm(x, (WIDTH,)), self.words.weight)


def main():
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(Model())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    plan = weft.plan(documents=DOCUMENTS, heads=HEADS, head_dim=DIM, layout="document-zigzag")
    plans = {"attention": plan, "linear": plan.with_layer("gdn")}  # the same tokens in the same places
    for step in range(STEPS):
        letters = "".join(random.Random(step).choices(["warp ", "weft ", "cloth "], k=sum(DOCUMENTS)))
        batch = weft.shard_batch({"input_ids": torch.tensor([list(letters[:plan.tokens].encode())])}, plan)
        loss = weft.cross_entropy(model(batch["input_ids"], plans), batch["shift_labels"], plan)
        loss.backward()
        optimizer.step(), optimizer.zero_grad()
        if dist.get_rank() == 0:
            print(f"step {step}: loss {loss.item():.6f}")
    dist.destroy_process_group()
    assert loss < 1, loss


if __name__ == "__main__":
    main()
