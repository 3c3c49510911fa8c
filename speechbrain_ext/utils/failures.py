"""Error messages of the scripts: one sentence instead of a traceback."""

import contextlib
import logging
import sys

import torch

from speechbrain_ext.utils.distributed import exit_with_error, rank
from speechbrain_ext.utils.memory import BatchMemoryError, memory_reason


@contextlib.contextmanager
def one_sentence(resume=""):
    """Ends the process with one sentence if the block fails.

    Errors of the user's input or of the machine (ValueError, OSError, a loss
    that is not finite, out of memory, another process that has ended) give one
    sentence and exit code 1. An interrupt gives one line and exit code 130.
    Other errors keep their traceback.

    Arguments
    ---------
    resume : str
        How to resume, shown after an interrupt.

    Yields
    ------
    None

    Raises
    ------
    SystemExit
        If the block failed.

    Example
    -------
    >>> with one_sentence():
    ...     raise ValueError("no such file")
    Traceback (most recent call last):
    SystemExit: error: no such file
    """
    try:
        with _sentences():
            yield
    except KeyboardInterrupt:
        if rank() == 0:
            sys.stderr.write(f"\nInterrupted. {resume}\n")
        sys.exit(130)


@contextlib.contextmanager
def _sentences():
    try:
        yield
    except (FloatingPointError, ValueError, OSError, BatchMemoryError) as error:
        _end(error)
    except (RuntimeError, MemoryError) as error:
        said = f"{type(error).__name__} {error}".splitlines()[0]
        if reason := memory_reason(error):
            _end(
                ValueError(
                    f"Out of memory ({reason}); lower `batch_size`, "
                    "`dev_batch_seconds` or the length of the crops."
                )
            )
        ended = isinstance(error, torch.distributed.DistError)
        if not ended and "/gloo/" not in said:
            raise
        _end(
            ConnectionError(
                f"Another process of this run has ended ({error}); if it was "
                "killed, memory may have run out. Run the same command again "
                "to resume."
            )
        )


def _end(error):
    """Writes the error to the log file and ends this process."""
    record = logging.LogRecord(
        name=__name__,
        level=logging.ERROR,
        pathname=__file__,
        lineno=0,
        msg=str(error),
        args=None,
        exc_info=None,
    )
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
    exit_with_error(error)
