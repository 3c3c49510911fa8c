"""The start of a run: its output folder, locked, with a log of its own."""

import contextlib
import importlib.metadata
import pathlib
import subprocess
import sys

import torch
from speechbrain.core import DEFAULT_LOG_CONFIG
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import (
    get_logger,
    setup_logging,
)
from speechbrain.utils.quirks import log_applied_quirks

from speechbrain_ext.utils.files import atomic_write, lock_output_folder
from speechbrain_ext.utils.journal import continue_file
from speechbrain_ext.utils.recipe import write_recipe

logger = get_logger(__name__)


def start_experiment(folder, text, script, logs=()):
    """Does what SpeechBrain's ``create_experiment_directory`` does, safely.

    The folder is locked until the process ends, and gets ``hyperparams.yaml``,
    a copy of the script, ``env.log`` and ``log.txt``, to which is added what
    is logged, errors that end the process included. No file is written that
    is not this project's, and none through a link.

    Arguments
    ---------
    folder : str | pathlib.Path
        The output folder; it is made.
    text : str
        The recipe, resolved.
    script : str
        The file that is run.
    logs : iterable of str
        Names of other files there to which lines will be added.

    Raises
    ------
    FileExistsError
        If the folder has one of these files from somebody else.
    OSError
        If another run holds the folder, or it cannot be written into.
    ValueError
        If it holds a link that leads out of it, or is not the main process's.

    Example
    -------
    >>> import contextlib, io, logging
    >>> handlers, hook = list(logging.getLogger().handlers), sys.excepthook
    >>> folder = getfixture("tmp_path") / "results"
    >>> with contextlib.redirect_stdout(io.StringIO()):
    ...     start_experiment(folder, "seed: 1", __file__)
    >>> sorted(path.name for path in folder.glob("[!.]*"))
    ['env.log', 'experiment.py', 'hyperparams.yaml', 'log.txt']
    >>> logging.getLogger().handlers, sys.excepthook = handlers, hook
    """
    folder = pathlib.Path(folder)
    if if_main_process():
        lock_output_folder(folder)
        for name in ("log.txt", *logs):
            continue_file(folder / name)
        script = pathlib.Path(script)
        copies = {script.name: script.read_text(encoding="utf-8")}
        copies["env.log"] = describe_environment()
        for name, held in copies.items():
            with atomic_write(folder / name) as stream:
                stream.write(held)
    write_recipe(folder, text)
    if if_main_process():
        file = {"filename": str(folder / "log.txt")}
        setup_logging(DEFAULT_LOG_CONFIG, {"handlers": {"file_handler": file}})
        sys.excepthook = _log_exception
        log_applied_quirks()
        logger.info(f"Experiment folder: {folder}")
        continue_file(folder / "log.txt")  # which has lines now


def describe_environment():
    """Lists what a run depends on: Python, its packages, the commit, CUDA.

    SpeechBrain's ``get_environment_description`` asks the ``pip`` that the
    shell finds, which may be another Python's and takes seconds.

    Returns
    -------
    str
        The text of ``env.log``.

    Example
    -------
    >>> "torch==" in describe_environment()
    True
    """
    packages = {
        f"{found.metadata['Name']}=={found.version}"
        for found in importlib.metadata.distributions()
    }
    commit = "not in a git checkout"
    with contextlib.suppress(OSError):
        told = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
        commit = told.stdout.strip() or commit
    lines = [
        f"Python {sys.version}",
        f"Git commit: {commit}",
        f"CUDA: {torch.version.cuda or 'none'}, "
        f"{torch.cuda.device_count()} GPU(s)",
        "Packages:",
        *sorted(packages, key=str.lower),
    ]
    return "\n".join(lines) + "\n"


def _log_exception(kind, error, traceback):
    """What ends the process is logged too."""
    logger.error("Exception:", exc_info=(kind, error, traceback))
