#!/usr/bin/env python3
"""Whether a group's collectives beat messages from rank to rank: two processes over Gloo on one machine, called in turn.

usage: bench/gloo_collectives.py [BYTES ...]      to the other rank; a multiple of 4
"""

import os
import statistics
import sys
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

CALLS = 60


def process(rank, folder, sizes):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=dist.FileStore(os.path.join(folder, "store"), 2), rank=rank, world_size=2)
    for size in sizes:
        mine, both = torch.randn(size // 4), torch.randn(2, size // 4)
        parts, exchanged = [torch.empty_like(mine) for _ in range(2)], torch.empty_like(both)

        def messages():
            arriving = dist.irecv(parts[1 - rank], 1 - rank)
            leaving = dist.isend(mine, 1 - rank)
            arriving.wait()
            leaving.wait()

        work = {"messages": messages, "all_to_all_single": lambda: dist.all_to_all_single(exchanged, both),
                "all_gather": lambda: dist.all_gather(parts, mine)}
        seconds = {name: [] for name in work}
        for _ in range(CALLS):
            for name, call in work.items():
                dist.barrier()
                begin = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - begin)
        if rank == 0:
            text = ", ".join(f"{name} {1e6 * min(each):.0f} us at best, {1e6 * statistics.median(each):.0f} in the median"
                             for name, each in seconds.items())
            print(f"{size} bytes: {text}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as shared:
        multiprocessing.spawn(process, (shared, [int(size) for size in sys.argv[1:]] or [4096, 1 << 18, 1 << 22]), nprocs=2)
