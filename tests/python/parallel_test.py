"""A mesh of data x sequence ranks under DDP and FSDP2: the gradients of one process."""

import copy
import unittest

import torch
import torch.nn.functional as F
from loss_test import Model
from ranks import run
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import weft

LENGTHS = [[13, 8], [21]]  # of each data rank: packed documents, and one


class Net(torch.nn.Module):
    """Two blocks, so that FSDP2 gathers and frees one after the other."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Model(words=23), Model(words=23)])

    def forward(self, ids, plan=None, lengths=None):
        return (self.blocks[0](ids, plan, lengths) + self.blocks[1](ids, plan, lengths)).clone()  # no view: FSDP2 warns of those


def reference():
    """Gradients of the mean over data ranks of each one's mean loss, in one process."""
    torch.manual_seed(0)
    net = Net()
    start = copy.deepcopy(net)
    for data, lengths in enumerate(LENGTHS):
        ids = ids_of(data)
        labels = torch.full_like(ids, -100)
        labels[:, :-1] = ids[:, 1:]
        labels[:, torch.tensor(lengths).cumsum(0) - 1] = -100
        loss = F.cross_entropy(net(ids, None, lengths).flatten(0, 1), labels.flatten(), ignore_index=-100)
        (loss / len(LENGTHS)).backward()
    return start, {name: p.grad for name, p in net.named_parameters()}


def ids_of(data):
    torch.manual_seed(30 + data)
    return torch.randint(0, 23, (2, 21))


def trains(rank, ranks, kind):
    net, want = reference()
    data_ranks = 2 if ranks == 4 else 1
    mesh = init_device_mesh("cpu", (data_ranks, ranks // data_ranks), mesh_dim_names=("data", "sequence"))
    data = mesh["data"].get_local_rank()
    if data_ranks == 1:
        LENGTHS[:] = LENGTHS[:1]
        net, want = reference()
    if kind == "ddp":
        net = DistributedDataParallel(net)
    elif kind == "ddp compiled":
        net = DistributedDataParallel(torch.compile(net, backend="aot_eager"))
    else:
        sharding = mesh if kind == "hybrid" else init_device_mesh("cpu", (ranks,))
        for block in net.blocks:
            fully_shard(block, mesh=sharding)
        fully_shard(net, mesh=sharding)
    plan = weft.plan(mesh["sequence"], documents=LENGTHS[data], heads=2, head_dim=8, method="zigzag")
    batch = weft.shard_batch({"input_ids": ids_of(data)}, plan)
    weft.cross_entropy(net(batch["input_ids"], plan), batch["shift_labels"], plan).backward()
    for name, parameter in net.named_parameters():
        grad = parameter.grad.full_tensor() if hasattr(parameter.grad, "full_tensor") else parameter.grad
        name = name.replace("module.", "").replace("_orig_mod.", "")
        torch.testing.assert_close(grad, want[name], rtol=1e-5, atol=1e-6)


class Parallel(unittest.TestCase):
    def test_ddp(self):
        run(4, trains, "ddp")
        run(2, trains, "ddp compiled")

    def test_fsdp(self):
        run(4, trains, "all ranks")  # parameters in pieces over data and sequence ranks
        run(4, trains, "hybrid")  # copies over data, pieces over sequence ranks
        run(2, trains, "all ranks")


if __name__ == "__main__":
    unittest.main()
