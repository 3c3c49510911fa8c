"""Runs test functions on several gloo processes."""

import multiprocessing
import os
import pathlib
import tempfile
import traceback

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["speechbrain_ext.nnet.sharded", "speechbrain_ext.nnet.losses"]
)


def on_processes(function, processes, *arguments, seconds=120):
    """Calls a function on gloo processes; returns the result of each."""
    with tempfile.TemporaryDirectory() as folder:
        started = [
            CONTEXT.Process(
                target=_run,
                args=(function, rank, processes, folder, arguments),
            )
            for rank in range(processes)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join(seconds)
            process.kill()
        results = []
        for rank in range(processes):
            path = pathlib.Path(folder, f"{rank}.pt")
            assert path.exists(), f"process {rank} ended without a result"
            results.append(torch.load(path, weights_only=False))
    for result in results:
        assert not isinstance(result, str), result
    return results


def _run(function, rank, processes, folder, arguments):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
    }
    torch.set_num_threads(1)
    try:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store",
            rank=rank,
            world_size=processes,
        )
        result = function(*arguments)
        torch.distributed.barrier()
    except Exception:
        result = traceback.format_exc()
    torch.save(result, pathlib.Path(folder, f"{rank}.pt"))
