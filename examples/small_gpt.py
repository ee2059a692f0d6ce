"""A small GPT from scratch, trained on one long sequence that all processes hold together.

    torchrun --nproc-per-node 2 examples/small_gpt.py

The losses do not depend on the number of processes. The text is made here: sentences over a few words.
"""

import random

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import weft

TOKENS, WIDTH, HEADS, LAYERS, STEPS = 1024, 64, 4, 2, 30


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x, plan):
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, WIDTH // HEADS)).unbind(2)
        x = x + self.out(weft.attention(q, k, v, plan).flatten(2))  # the only line that knows of other processes
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(128, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH)

    def forward(self, ids, positions, plan):
        x = self.words(ids) + self.places(positions)  # positions of this rank's tokens in the sequence
        for block in self.blocks:
            x = block(x, plan)
        return F.linear(self.norm(x), self.words.weight)


def text(seed):
    chosen = random.Random(seed)
    names, verbs, things = ("Ada", "Bob", "Cleo"), ("reads", "weaves", "sees"), ("a book", "a cloth", "the sea")
    words = " ".join(f"{chosen.choice(names)} {chosen.choice(verbs)} {chosen.choice(things)}." for _ in range(TOKENS // 12))
    return torch.tensor([list(words.ljust(TOKENS)[:TOKENS].encode())])


def main():
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(GPT())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    plan = weft.plan(tokens=TOKENS, heads=HEADS, head_dim=WIDTH // HEADS)
    for step in range(STEPS):
        batch = weft.shard_batch({"input_ids": text(step)}, plan)  # labels are shifted before tokens part
        logits = model(batch["input_ids"], batch["position_ids"], plan)
        loss = weft.cross_entropy(logits, batch["shift_labels"], plan)  # the mean over all processes, on each of them
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if dist.get_rank() == 0 and (step % 10 == 0 or step == STEPS - 1):
            print(f"step {step}: loss {loss.item():.6f}")
    assert loss < 2.5, loss
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
