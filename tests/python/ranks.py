"""Runs a function on several processes that form one Gloo group."""

import multiprocessing
import os
import pathlib
import sys
import tempfile
import traceback

import torch
import torch._dynamo  # noqa: F401  (seconds, and DDP, FSDP and compilers want it: here once, not in each process)
import torch.distributed as dist

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "python"))


def _one(rank, ranks, folder, timeout, function, arguments, results):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    try:
        import datetime

        store = dist.FileStore(os.path.join(folder, "store"), ranks)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks,
                                timeout=datetime.timedelta(seconds=timeout))
        results.put((rank, "", function(rank, ranks, *arguments)))
        results.close()
        results.join_thread()
    except BaseException:
        results.put((rank, traceback.format_exc(), None))
        results.close()
        results.join_thread()
    os._exit(0)  # groups that failed would wait for each other


def run(ranks, function, *arguments, timeout=60, missing=()):
    """What function(rank, ranks, *arguments) returned on each rank; raises AssertionError with the first rank's error.

    `missing`: ranks that end without a result.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        results = context.Queue()
        workers = [context.Process(target=_one, args=(rank, ranks, folder, timeout, function, arguments, results))
                   for rank in range(ranks)]
        for worker in workers:
            worker.start()
        try:
            found = dict((rank, (error, value)) for rank, error, value in
                         (results.get(timeout=2 * timeout) for _ in range(ranks - len(missing))))
        finally:
            for worker in workers:
                worker.join(5)
                worker.kill()
    for rank, (error, _) in sorted(found.items()):
        assert not error, f"rank {rank}: {error}"
    return [found[rank][1] for rank in range(ranks) if rank not in missing]
