#!/usr/bin/env python3
"""A head that is sharded over processes, compared with a replicated head.

    python benchmarks/distributed.py [--quick] [--json FILE]

A step is: embeddings of a global batch of 64 (256 dimensions, one linear layer
under DistributedDataParallel), head, loss, backward, SGD with momentum and
weight decay. The processes use gloo and one thread each. The time is the
median of three steps of the slowest process, after a warm-up step. Memory is
the peak of the largest process: in total, and the increase since the head was
built. Bytes are the input of the collectives of one process in a step,
including DDP's buckets.
"""

import functools
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time

import torch
from record import finish, parser, print_header, print_row, row
from torch.nn.parallel import DistributedDataParallel

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import AAMSoftmax, SphereFace2
from speechbrain_ext.nnet.sharded import ShardedCosineClassifier

DIMENSIONS, BATCH, STEPS = 256, 64, 3
# not compiled: the memory of the compiler must not count
Binary = functools.partial(SphereFace2, compile=False)
HEADS = {
    "sharded SphereFace2": (ShardedCosineClassifier, Binary),
    "sharded AAM": (ShardedCosineClassifier, AAMSoftmax),
    "replicated SphereFace2": (CosineClassifier, Binary),
}
# a million replicated classes on four processes need too much memory
MOST_REPLICATED = 2_000_000


class Counter:
    """Counts the input bytes of collectives."""

    def __init__(self):
        self.bytes = 0
        for name in (
            "all_reduce",
            "all_gather_into_tensor",
            "reduce_scatter_tensor",
        ):
            setattr(torch.distributed, name, self.counted(name))

    def counted(self, name):
        """Wraps a collective to count the bytes of its input."""
        collective = getattr(torch.distributed, name)

        def call(*tensors, **options):
            given = [one for one in tensors if torch.is_tensor(one)][-1]
            self.bytes += given.nbytes
            return collective(*tensors, **options)

        return call

    def bucket(self, group, bucket):
        """DDP's communication hook: counts a bucket and averages it."""
        self.bytes += bucket.buffer().nbytes
        buffer = bucket.buffer().div_(torch.distributed.get_world_size())
        # call c10d directly: the wrapped function would count it twice
        work = torch.distributed.group.WORLD.allreduce([buffer])
        return work.get_future().then(lambda done: done.value()[0])


def memory(key):
    """VmRSS or VmHWM of this process, GB."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024 / 1e9
    raise KeyError(key)


def process(rank, processes, head, classes, folder):
    """Runs the steps of one process and saves time, memory and bytes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=processes,
    )
    counter = Counter()
    # a first training loads what every process needs once
    train(head, 8 * processes, counter)
    before = memory("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    seconds = train(head, classes, counter)
    peak = memory("VmHWM")
    result = {
        "seconds": statistics.median(seconds[1:]),
        "peak": peak,
        "grown": peak - before,
        "bytes": counter.bytes,
    }
    torch.save(result, pathlib.Path(folder, f"{rank}.pt"))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def train(head, classes, counter):
    """Runs the steps; returns the seconds of each."""
    torch.manual_seed(1986)
    rank = torch.distributed.get_rank()
    processes = torch.distributed.get_world_size()
    encoder = torch.nn.Linear(64, DIMENSIONS)
    make_head, make_loss = HEADS[head]
    head, loss = make_head(DIMENSIONS, classes), make_loss()
    split = hasattr(head, "shard")
    modules = [encoder, head, loss]
    parameters = [p for module in modules for p in module.parameters()]
    if split:
        loss.shard = head.shard
    for index, module in enumerate(modules):
        if not (split and module is head) and list(module.parameters()):
            modules[index] = DistributedDataParallel(
                module, gradient_as_bucket_view=True
            )
            modules[index].register_comm_hook(None, counter.bucket)
    encoder, head, loss = modules
    optimizer = torch.optim.SGD(
        parameters, lr=0.1, momentum=0.9, weight_decay=1e-4
    )
    seconds = []
    for _ in range(1 + STEPS):
        x = torch.randn(BATCH, 1, 64)[rank::processes]
        y = torch.randint(classes, (BATCH, 1))[rank::processes]
        torch.distributed.barrier()
        counter.bytes, started = 0, time.perf_counter()
        optimizer.zero_grad()
        loss(head(encoder(x)), y).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return seconds


def measure(head, classes, processes):
    """The largest figures of all processes, time and memory."""
    timed = run(head, classes, processes)
    # glibc returns freed memory at once, so that the peak is what is in use.
    # This takes time, so the time is measured without it.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    held = run(head, classes, processes)
    del os.environ["MALLOC_MMAP_THRESHOLD_"]
    return held | {"seconds": timed["seconds"]}


def run(head, classes, processes):
    """The largest figures of all processes, by name."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        started = [
            spawn.Process(
                target=process, args=(rank, processes, head, classes, folder)
            )
            for rank in range(processes)
        ]
        for one in started:
            one.start()
        for one in started:
            one.join(600)
            one.kill()
        found = [
            torch.load(pathlib.Path(folder, f"{rank}.pt"))
            for rank in range(processes)
        ]
    return {key: max(one[key] for one in found) for key in found[0]}


def main():
    """Prints and writes the record."""
    options = parser(__doc__, "only 10,000 classes").parse_args()
    print_header()
    record = []

    def note(*arguments, **keywords):
        record.append(row(*arguments, **keywords))
        print_row(record[-1])

    for classes in [10_000] if options.quick else [1_000_000, 100_000, 10_000]:
        for head in HEADS:
            alone = None
            for processes in (1, 2, 4):
                replicated = head.startswith("replicated")
                if replicated and classes * processes > MOST_REPLICATED:
                    continue
                found = measure(head, classes, processes)
                name = f"{head}, {classes:,} classes, {processes}: "
                note(name + "step", 1000 * found["seconds"], "ms")
                if processes > 1:
                    note(name + "sent", found["bytes"] / 1e6, "MB")
                million = not replicated and (classes, processes) == (10**6, 2)
                note(name + "peak", found["peak"], "GB", 3 if million else None)
                note(name + "head", 1000 * found["grown"], "MB")
                if alone is None:
                    alone = found["grown"]
                elif not replicated:
                    note(
                        f"{name}times processes",
                        processes * found["grown"] / alone,
                        "of one",
                        # fixed memory of a process hides small heads
                        1.1 if classes > 10_000 else None,
                    )
    finish(record, options.json, 1986)


if __name__ == "__main__":
    main()
