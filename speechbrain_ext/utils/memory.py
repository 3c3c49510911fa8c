"""Too little memory for a batch: which batch would fit."""

import contextlib
import copy
import re
import traceback

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch, PaddedData

from speechbrain_ext.utils.distributed import world_size


class BatchMemoryError(MemoryError):
    """There is too little memory for a batch; the message says what to do."""


def memory_reason(error):
    """What an error says of too little memory.

    Arguments
    ---------
    error : Exception
        The error.

    Returns
    -------
    str
        The sentence that speaks of memory, without its full stop; ``""`` for
        an error of another kind.

    Example
    -------
    >>> memory_reason(RuntimeError("err == 0. Can't allocate memory. Code 12."))
    "Can't allocate memory"
    >>> memory_reason(MemoryError()), memory_reason(RuntimeError("shapes"))
    ('MemoryError', '')
    """
    sentences = re.split(r"\. |\n", str(error))
    for one in sentences:
        if re.search(r"out of memory|t allocate memory|_ALLOC_FAILED", one):
            return one.strip().rstrip(".")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return sentences[0].rstrip(".") or type(error).__name__
    return ""


def batch_size(batch):
    """Number of utterances of a batch.

    Arguments
    ---------
    batch : speechbrain.dataio.batch.PaddedBatch | torch.Tensor | list
        The batch, or a list of tensors.

    Returns
    -------
    int
        The number.

    Example
    -------
    >>> batch_size([torch.zeros(3, 2), torch.zeros(3)])
    3
    """
    return len(batch[0] if isinstance(batch, (list, tuple)) else batch)


@contextlib.contextmanager
def fitting_batch_named(brain, batch):
    """Names the size of a batch that fits where there is too little memory.

    After an error of memory, the gradients of the first half of the batch are
    computed, then of a quarter, and so on. With several processes nothing is
    tried, since the others would wait.

    Arguments
    ---------
    brain : speechbrain.core.Brain
        The Brain that trains on the batch in the block.
    batch : speechbrain.dataio.batch.PaddedBatch
        The batch. Of another kind of batch, no part is tried.

    Yields
    ------
    None

    Raises
    ------
    BatchMemoryError
        If there was too little memory in the block. No gradients are left.

    Example
    -------
    >>> with fitting_batch_named(sb.Brain(), torch.zeros(8, 2)):
    ...     raise torch.OutOfMemoryError("CUDA out of memory.")
    Traceback (most recent call last):
    speechbrain_ext.utils.memory.BatchMemoryError: Out of memory with a batch \
of 8 (CUDA out of memory); lower `batch_size` or the length of the crops.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = memory_reason(error)
        if not said:
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors
        # a caller who goes on must not add these to those of another batch
        brain.zero_grad(set_to_none=True)
        count, size = str(batch_size(batch)), None
        if world_size() > 1:
            count += f" on each of {world_size()} processes"
        elif isinstance(batch, PaddedBatch):
            size = _fitting_size(brain, batch)
        advice = "lower `batch_size` or the length of the crops"
        if size:
            advice = f"a batch of {size} fits: lower `batch_size`"
        elif size == 0:
            advice = (
                "no smaller batch fits: shorten the crops, or train a smaller "
                "network"
            )
        raise BatchMemoryError(
            f"Out of memory with a batch of {count} ({said}); {advice}."
        ) from None


def _fitting_size(brain, batch):
    """Half of the batch, a quarter, ...: what fits; None if that is unclear."""
    size = len(batch) // 2
    while size:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            _gradients(brain, _first(batch, size))
        except (RuntimeError, MemoryError) as error:
            if not memory_reason(error):
                return None
            traceback.clear_frames(error.__traceback__)
        except ValueError:  # such as from a loss that needs whole groups
            return None
        else:
            return size
        size //= 2
    return 0


def _gradients(brain, batch):
    """Computes the gradients of a batch as ``fit_batch`` does; drops them."""
    try:
        with brain.training_ctx:
            outputs = brain.compute_forward(batch, sb.Stage.TRAIN)
            loss = brain.compute_objectives(outputs, batch, sb.Stage.TRAIN)
        loss.backward()
    finally:
        brain.zero_grad(set_to_none=True)


def _first(batch, count):
    """The first utterances of a padded batch."""
    part = copy.copy(batch)
    for name, value in vars(batch).items():
        if isinstance(value, PaddedData):
            setattr(part, name, PaddedData(*(one[:count] for one in value)))
        elif not name.startswith("_"):
            setattr(part, name, value[:count])
    return part
