"""The loss over a plan, batches cut for it, and a small model under DDP: gradients equal those of one process."""

import copy
import re
import unittest

import torch
import torch.distributed as dist
import torch.nn.functional as F
from ranks import run
from torch.nn.parallel import DistributedDataParallel

import weft


class Model(torch.nn.Module):
    """One layer of attention without position embeddings, dense without a plan."""

    def __init__(self, heads=2, dim=8, words=19):
        super().__init__()
        self.heads, self.dim = heads, dim
        self.embed = torch.nn.Embedding(words, heads * dim)
        self.project = torch.nn.Linear(heads * dim, 3 * heads * dim)
        self.head = torch.nn.Linear(heads * dim, words)

    def forward(self, ids, plan=None, lengths=None):
        x = self.embed(ids)
        q, k, v = self.project(x).view(*ids.shape, 3, self.heads, self.dim).unbind(2)
        if plan is not None:
            a = weft.attention(q, k, v, plan)
        else:
            document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
            mask = (document[:, None] == document[None, :]).tril()
            a = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), attn_mask=mask).transpose(1, 2)
        return self.head(x + a.flatten(2))


def batch_of(lengths):
    torch.manual_seed(2)
    return {"input_ids": torch.randint(0, 19, (2, sum(lengths)))}


def trains(rank, ranks, lengths, reduce, mask_labels):
    torch.manual_seed(0)
    reference = Model()
    model = copy.deepcopy(reference)
    batch = batch_of(lengths)
    plan = weft.plan(documents=lengths, heads=2, head_dim=8, method="zigzag")
    if mask_labels:  # only the tokens of rank 0 have labels
        batch["labels"] = torch.full_like(batch["input_ids"], -100)
        keep = plan.indices(0) + 1
        keep = keep[keep < plan.tokens]
        batch["labels"][:, keep] = batch["input_ids"][:, keep]
    mine = weft.shard_batch(batch, plan)
    assert set(mine) == {"input_ids", "position_ids", "shift_labels", "num_items_in_batch"}

    labels = batch.get("labels", batch["input_ids"])
    target = torch.full_like(labels, -100)
    target[:, :-1] = labels[:, 1:]
    for end in torch.tensor(lengths).cumsum(0):
        target[:, end - 1] = -100
    assert mine["num_items_in_batch"] == (target != -100).sum()
    want = F.cross_entropy(reference(batch["input_ids"], lengths=lengths).flatten(0, 1), target.flatten())
    want.backward()

    wrapped = DistributedDataParallel(model) if reduce == "mean" else model
    got = weft.cross_entropy(wrapped(mine["input_ids"], plan), mine["shift_labels"], plan, grad_reduce=reduce)
    got.backward()
    torch.testing.assert_close(got.detach(), want.detach(), rtol=1e-5, atol=0)
    for name, parameter in model.named_parameters():
        if reduce == "sum":
            dist.all_reduce(parameter.grad)
        torch.testing.assert_close(parameter.grad, reference.get_parameter(name).grad, rtol=1e-5, atol=1e-6, msg=name)


def subgroups(rank, ranks):
    """Data x sequence: two groups of two ranks, each with a sequence of its own."""
    from torch.distributed.device_mesh import init_device_mesh
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "sequence"))
    plan = weft.plan(mesh["sequence"], tokens=20, heads=2, head_dim=8, method="ring")
    other = weft.plan(mesh["data"], tokens=12, heads=2, head_dim=8, method="ulysses")
    for p, tokens in ((plan, 20), (other, 12)):
        torch.manual_seed(100 + mesh["data"].get_local_rank() if p is plan else 7)
        q, k, v = (torch.randn(1, tokens, 2, 8) for _ in range(3))
        want = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True).transpose(1, 2)
        got = p.unshard(weft.attention(*(p.shard(t) for t in (q, k, v)), p))
        torch.testing.assert_close(got, want)


def refuses(rank, ranks):
    plan = weft.plan(tokens=10, heads=2, head_dim=8)
    n = plan.local_tokens
    for call, text in (
            (lambda: weft.cross_entropy(torch.zeros(n, 5), torch.zeros(n + 1).long(), plan), "logits"),
            (lambda: weft.cross_entropy(torch.zeros(n, 5), torch.full((n,), -100), plan), "no token"),
            (lambda: weft.cross_entropy(torch.zeros(n, 5), torch.zeros(n).long(), plan, grad_reduce="avg"), "'mean' and 'sum'"),
            (lambda: weft.shard_batch({"labels": torch.zeros(1, 10)}, plan), "input_ids"),
            (lambda: weft.shard_batch({"input_ids": torch.zeros(1, 9).long()}, plan), r"\[batch, 10\]"),
            (lambda: weft.shard_batch({"input_ids": torch.zeros(1, 10).long(), "attention_mask": 1}, plan), "attention_mask")):
        try:
            call()
        except ValueError as error:
            assert re.search(text, str(error)), error
        else:
            raise AssertionError(text)


class Loss(unittest.TestCase):
    def test_equal_to_one_process(self):
        for ranks in (1, 2, 3):
            for lengths in ([21], [5, 1, 9, 8]):
                for reduce in ("mean", "sum"):
                    with self.subTest(ranks=ranks, lengths=lengths, reduce=reduce):
                        run(ranks, trains, lengths, reduce, False)

    def test_ranks_without_labels(self):
        for reduce in ("mean", "sum"):
            run(3, trains, [26], reduce, True)

    def test_groups_of_a_mesh(self):
        run(4, subgroups)

    def test_refusals(self):
        run(2, refuses)


if __name__ == "__main__":
    unittest.main()
