"""Some updates of an encoder and a head that is split over the processes.

`gpu_training.py` starts it by torchrun:

    torchrun --standalone --nproc_per_node=2 gpu_worker.py cuda FILE

All is in float64, so that the gradients of any number of processes, devices
and backends must agree closely.
"""

import os
import sys

import study_run
import torch
from torch.nn.parallel import DistributedDataParallel

from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import SphereFace2
from speechbrain_ext.nnet.normalization import share_batch_statistics
from speechbrain_ext.nnet.sharded import ShardedCosineClassifier
from speechbrain_ext.utils.distributed import rank, world_size

BATCH, CLASSES, STEPS = 8, 11, 3


def train(device, split, padded=False):
    """The losses of some updates, and all parameters after them."""
    torch.manual_seed(1986)
    encoder = ResNet(20, (1, 1, 1, 1), 4, 16).double()
    head = (ShardedCosineClassifier if split else CosineClassifier)(16, CLASSES)
    head, loss = head.double().to(device), SphereFace2("C", 0.2).double()
    encoder, loss = encoder.to(device), loss.to(device)
    modules = {"encoder": encoder, "loss": loss, "head": head}
    named = {
        f"{kind}.{name}": parameter
        for kind, module in modules.items()
        for name, parameter in module.named_parameters()
    }
    optimizer = torch.optim.SGD(named.values(), lr=0.05, momentum=0.9)
    if split:
        loss.shard = head.shard
        ids = None if device == "cpu" else [torch.cuda.current_device()]
        options = {"device_ids": ids, "broadcast_buffers": False}
        if device == "cpu":
            encoder = share_batch_statistics(encoder)
        else:
            convert = torch.nn.SyncBatchNorm.convert_sync_batchnorm
            encoder = convert(encoder)
        encoder = DistributedDataParallel(encoder, **options)
        loss = DistributedDataParallel(loss, **options)
    losses, draw = [], torch.Generator().manual_seed(7)
    for _ in range(STEPS):
        x = torch.randn(BATCH, 40, 20, generator=draw, dtype=torch.float64)
        y = torch.randint(CLASSES, (BATCH, 1), generator=draw)
        lengths = torch.ones(BATCH, dtype=torch.float64)
        lengths[2:6] = 0.5  # a row of full length on each of two processes
        own = slice(rank() if split else None, None, world_size())
        x, y, lengths = (one[own].to(device) for one in (x, y, lengths))
        embeddings = encoder(x, lengths if padded else None)
        found = loss(head(embeddings), y)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        total = found.detach().clone()
        if split:
            torch.distributed.all_reduce(total)
            total /= world_size()
        losses.append(total.cpu())
    found = {name: one.detach() for name, one in named.items()}
    if split:  # the first process gets all of it, the others None
        found["head.weight"] = head.shard.whole(head.weight)
    return torch.stack(losses), {
        name: one.cpu() for name, one in found.items() if one is not None
    }


def main(device, path):
    """Trains, and lets the first process save what came out."""
    study_run.die_with(os.getppid())  # torchrun gives it a session of its own
    number = int(os.environ["LOCAL_RANK"])
    if device == "cuda":
        torch.cuda.set_device(number)
    backend = "nccl" if device == "cuda" else "gloo"
    torch.distributed.init_process_group(backend)
    found = [train(device, True, padded) for padded in (False, True)]
    if rank() == 0:
        torch.save(found, path)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
