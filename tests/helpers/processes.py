"""Processes that have PyTorch and SpeechBrain loaded when they start.

Loading them takes seconds each time. So a server loads them once, and each
process is a fork of it.
"""

import atexit
import importlib
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import traceback

import huggingface_hub.constants
import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "matplotlib.backends.backend_agg",
        "matplotlib.figure",
        "speechbrain_ext.augment",
        "speechbrain_ext.core",
        "speechbrain_ext.dataio.preparation",
        "speechbrain_ext.dataio.samplers",
        "speechbrain_ext.inference.export",
        "speechbrain_ext.inference.loading",
        "speechbrain_ext.inference.noisy_labels",
        "speechbrain_ext.label_filtering",
        "speechbrain_ext.lobes.models.ResNet",
        "speechbrain_ext.nnet.losses",
        "speechbrain_ext.nnet.sharded",
        "speechbrain_ext.processing.development",
        "speechbrain_ext.processing.scoring",
        "speechbrain_ext.training_checks",
        "speechbrain_ext.utils.model_selection",
        "speechbrain_ext.utils.train_logger",
        "torch._dynamo",  # of every optimizer
        "torch.utils.tensorboard",
    ]
)


# what pytest, SpeechBrain and PyTorch's compiler set while tests run
CHANGING = ("PYTEST_", "SB_", "KMP_", "CUBLAS_", "TORCH", "_TORCH")


def environment():
    """The environment, without what changes by itself."""
    return {k: v for k, v in os.environ.items() if not k.startswith(CHANGING)}


ENVIRONMENT = environment()


def run_script(words, folder):
    """Runs ``python words...`` in a folder; returns the finished process.

    In another environment than that of the tests' start, Python starts anew,
    unless only what is of the Hub differs.
    """
    now = environment()
    hub = {k: v for k, v in now.items() if k.startswith("HF_")}
    if now != ENVIRONMENT | hub:
        return subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    with tempfile.TemporaryDirectory() as streams:
        process = CONTEXT.Process(
            target=_script, args=(words, os.fspath(folder), streams, hub)
        )
        process.start()
        process.join()
        said = [
            pathlib.Path(streams, name).read_text()
            for name in ("stdout", "stderr")
        ]
    return subprocess.CompletedProcess(words, process.exitcode, *said)


def _script(words, folder, streams, hub):
    for number, name in ((1, "stdout"), (2, "stderr")):
        with open(f"{streams}/{name}", "w") as stream:
            os.dup2(stream.fileno(), number)
    # a server's children would start their own ones by a server, too
    multiprocessing.set_start_method(None, force=True)
    if hub:
        os.environ |= hub
        importlib.reload(huggingface_hub.constants)
    os.chdir(folder)
    sys.argv, sys.path[:0] = words, [folder]
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()


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
