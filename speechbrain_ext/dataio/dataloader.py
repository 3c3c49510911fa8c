"""Batch order for resumed runs, and clear errors of DataLoaders."""

import contextlib
import itertools
import os
import re
import time

import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.data_utils import batch_pad_right
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.audio import AudioError

logger = get_logger(__name__)

SHARED_MEMORY = "/dev/shm"
# Seconds without a batch after which a DataLoader's workers count as stuck
TIMEOUT = 600


class ResumableBatches(torch.utils.data.Sampler):
    """A batch sampler that can skip its first batches.

    Nothing is read for the skipped batches.

    Arguments
    ---------
    sampler : torch.utils.data.Sampler
        Yields the batches of an epoch, always the same ones, and has
        ``set_epoch``.

    Example
    -------
    >>> batches = ResumableBatches([[0, 1], [2, 3], [4, 5]])
    >>> batches.start = 2
    >>> list(batches), len(batches)
    ([[4, 5]], 3)
    """

    def __init__(self, sampler):
        self.sampler = sampler
        self.start = 0

    def set_epoch(self, epoch):
        """Sets the epoch whose batches come next.

        Arguments
        ---------
        epoch : int
            Counted from 1, as SpeechBrain's EpochCounter does.
        """
        self.sampler.set_epoch(epoch)

    def __len__(self):
        """Batches of a whole epoch."""
        return len(self.sampler)

    def __iter__(self):
        """Yields the batches from ``start`` on."""
        yield from itertools.islice(self.sampler, self.start, None)


class ReadableBatches:
    """The batches of a loader; an error of reading is one sentence.

    Arguments
    ---------
    loader : torch.utils.data.DataLoader
        Yields the batches, with any number of workers.

    Example
    -------
    >>> len(ReadableBatches([1, 2])), list(ReadableBatches([1, 2]))
    (2, [1, 2])
    """

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        """Batches of the loader."""
        return len(self.loader)

    def __iter__(self):
        """Yields the batches.

        Raises
        ------
        AudioError
            If a file cannot be read.
        OSError
            If data cannot be read, or a worker has ended or is stuck.
        """
        with explain_reading(reading=True):
            batches = iter(self.loader)
        try:
            while True:
                with explain_reading(reading=True):
                    try:
                        batch = next(batches)
                    except StopIteration:
                        return
                yield batch
        except Exception:
            # Else the garbage collector ends the workers, and waits five
            # seconds for each of them: torch's queues are closed by then
            end_workers = getattr(batches, "_shutdown_workers", None)
            if end_workers and not self.loader.persistent_workers:
                end_workers()
            raise


@contextlib.contextmanager
def explain_reading(reading=False):
    """Turns an error of a DataLoader into one sentence.

    Arguments
    ---------
    reading : bool
        Whether the block only reads, so that every OSError, ValueError and
        RuntimeError is an error of reading. Otherwise only errors from a
        DataLoader's workers are.

    Yields
    ------
    None

    Raises
    ------
    AudioError
        If a file cannot be read.
    OSError
        If data cannot be read, or a worker has ended or is stuck.

    Example
    -------
    >>> with explain_reading(reading=True):
    ...     raise RuntimeError("Cannot read a.wav.")
    Traceback (most recent call last):
    OSError: Cannot read a.wav.
    """
    try:
        yield
    except AudioError:
        raise  # it is a sentence already
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        said = _end_of_worker() if reading and _is_cut(error) else str(error)
        sentence = _sentence(said)
        if sentence is None and reading:
            sentence = str(error)
        if sentence is None:
            raise
        raise OSError(sentence) from error


def shared_batch(examples):
    """Makes a PaddedBatch, in shared memory if a DataLoader's worker calls.

    Otherwise torch moves it there later, in a thread. If the shared memory is
    full, the batch is then lost without an error and training waits forever.

    Arguments
    ---------
    examples : list of dict
        The examples, as for SpeechBrain's PaddedBatch.

    Returns
    -------
    speechbrain.dataio.batch.PaddedBatch
        The batch.

    Raises
    ------
    RuntimeError
        If the shared memory is full.

    Example
    -------
    >>> shared_batch([{"id": "a", "sig": torch.ones(3)}]).sig.data.shape
    torch.Size([1, 3])
    """
    batch = PaddedBatch(examples, padding_func=_padded)
    if torch.utils.data.get_worker_info() is not None:
        for value in batch:
            for tensor in value if isinstance(value, tuple) else [value]:
                if torch.is_tensor(tensor):
                    tensor.share_memory_()
    return batch


def _padded(tensors, **options):
    """``batch_pad_right``, which would copy tensors of equal shapes twice."""
    if any(one.shape != tensors[0].shape for one in tensors):
        return batch_pad_right(tensors, **options)
    return torch.stack(tensors), torch.ones(len(tensors))


def crop_loader(dataset, batches, options):
    """Makes a DataLoader for training that cannot wait forever.

    It warns if the shared memory is too small for its batches.

    Arguments
    ---------
    dataset : speechbrain_ext.dataio.crops.CropDataset
        Reads the crops.
    batches : torch.utils.data.Sampler
        Yields lists of ``Draw``.
    options : dict
        Options of torch's DataLoader; ``timeout`` is 600 s by default.

    Returns
    -------
    torch.utils.data.DataLoader
        Yields PaddedBatch.

    Raises
    ------
    ValueError
        If an option is unknown to torch, or its value is not allowed.
    """
    options = {"timeout": TIMEOUT, **options}
    workers = options.get("num_workers") or 0
    if not workers:
        # torch refuses them without workers
        options.pop("persistent_workers", None)
        options.pop("timeout")
    else:
        draws = next(iter(batches), [])
        seconds = sum(draw.seconds or dataset.sentence_len for draw in draws)
        warning = shared_memory_warning(
            # float32, and noise of the same length if it is added later
            seconds * dataset.sample_rate * 4 * (1 + dataset.deferred),
            workers,
            options.get("prefetch_factor") or 2,
            int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )
        if warning:
            logger.warning(warning)
    try:
        return torch.utils.data.DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=shared_batch,
            **options,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"`train_dataloader_opts`: {error}") from error


def shared_memory_warning(batch_bytes, workers, prefetch_factor=2, processes=1):
    """Warns if the shared memory is too small for the batches in it.

    Docker gives 64 MB; a batch of 256 crops of 2 s is 33 MB.

    Arguments
    ---------
    batch_bytes : int
        Bytes of a batch.
    workers : int
        Workers of each DataLoader.
    prefetch_factor : int
        Batches that each worker prepares in advance.
    processes : int
        Processes on this machine, each with a DataLoader.

    Returns
    -------
    str
        A sentence; None if there is enough room or no shared memory is used.

    Example
    -------
    >>> shared_memory_warning(32 * 2**20, workers=0) is None
    True
    """
    if not workers or not os.path.isdir(SHARED_MEMORY):
        return None
    found = os.statvfs(SHARED_MEMORY)
    free = found.f_bavail * found.f_frsize
    wanted = batch_bytes * workers * prefetch_factor * processes
    if wanted <= free:
        return None
    return (
        f"{SHARED_MEMORY} has {free / 2**20:.0f} MB free, and the DataLoader's "
        f"workers may fill {wanted / 2**20:.0f} MB with batches: {_ROOM}."
    )


_ROOM = (
    "start Docker with a larger --shm-size (e.g. --shm-size=8g), or lower "
    "`num_workers` in `train_dataloader_opts` (0 needs no shared memory)"
)


def _end_of_worker():
    """Torch's message on the worker, shortly after its connection is cut."""
    try:
        time.sleep(2)  # torch raises from a signal handler: wait for it
    except RuntimeError as error:
        return str(error)
    return "DataLoader worker (pid 0) ended while it sent a batch"


def _is_cut(error):
    """Whether a worker was gone when its batch was fetched."""
    if isinstance(error, FileNotFoundError):  # of its socket, without a name
        return error.errno is not None and error.filename is None
    return isinstance(error, (ConnectionError, EOFError))


def _sentence(said):
    """What an error of a DataLoader means; None for any other error."""
    if re.search(r"Bus error|shared memory\(shm\)|/torch_\d+_", said):
        return f"The shared memory {SHARED_MEMORY} is full: {_ROOM}."
    ended = re.search(r"DataLoader worker \(pid.*?\d\) (.*)", said)
    if ended:
        return (
            f"A DataLoader worker {ended[1].rstrip('. ')}. If memory ran out, "
            "lower `num_workers` in `train_dataloader_opts` or `batch_size`; "
            "then run the same command again."
        )
    late = re.search(r"DataLoader timed out after (\S+) seconds", said)
    if late:
        return (
            f"No batch came within {late[1]} seconds. If the disk is that "
            "slow, raise `timeout` in `train_dataloader_opts`; if the shared "
            f"memory {SHARED_MEMORY} is full, {_ROOM}."
        )
    caught = re.match(r"Caught (\w+) in (DataLoader|pin memory)", said)
    if caught:
        # the end of a worker's traceback says what was wrong
        last = re.split(rf"^(?:\w+\.)*{caught[1]}: ", said, flags=re.M)[-1]
        return " ".join(last.split())
    return None
