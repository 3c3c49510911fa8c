"""One sentence instead of a traceback where a script fails."""

import contextlib
import logging
import re
import sys

import torch

from speechbrain_ext.utils.distributed import exit_with_error, rank


@contextlib.contextmanager
def one_sentence(resume=""):
    """Ends the process with one sentence where its block fails.

    An error of the user's input or of the machine (ValueError, OSError, a loss
    that is not finite, a GPU without memory, another process that has ended)
    is a sentence and exit code 1, an interrupt one line and exit code 130. Any
    other error keeps its traceback.

    Arguments
    ---------
    resume : str
        What an interrupted user is told.

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
    except (FloatingPointError, ValueError, OSError) as error:
        _end(error)
    except (RuntimeError, MemoryError) as error:
        said = f"{type(error).__name__} {error}".splitlines()[0]
        if re.search(r"OutOfMemoryError|MemoryError|t allocate memory", said):
            _end(
                ValueError(
                    f"Out of memory ({said.split('. ')[0]}); lower `batch_size`"
                    " or the length of the crops."
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
    """Ends this process, the reason being in the log file too."""
    record = logging.LogRecord(
        *(__name__, logging.ERROR, __file__, 0, f"{error}", None, None)
    )
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
    exit_with_error(error)
