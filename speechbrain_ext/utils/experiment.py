"""The start of a run: it locks its output folder and opens its log."""

import contextlib
import importlib.metadata
import pathlib
import shlex
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

from speechbrain_ext.utils.devices import log_slow_bf16
from speechbrain_ext.utils.distributed import world_size
from speechbrain_ext.utils.files import (
    atomic_write,
    lock_output_folder,
    refuse_links,
)
from speechbrain_ext.utils.journal import continue_file, is_own
from speechbrain_ext.utils.recipe import write_recipe

logger = get_logger(__name__)


def start_experiment(folder, text, script, logs=()):
    """A safer version of SpeechBrain's ``create_experiment_directory``.

    It locks the folder until the process ends and writes ``hyperparams.yaml``,
    a copy of the script, ``env.log`` and ``log.txt``. The log includes errors
    that end the process. Files that this project did not write are never
    overwritten, and links are never followed.

    Arguments
    ---------
    folder : str | pathlib.Path
        The output folder; it is created.
    text : str
        The resolved recipe.
    script : str
        Path of the running script.
    logs : iterable of str
        Paths of other log files, in this folder or elsewhere.

    Raises
    ------
    FileExistsError
        If one of these files exists and this project did not write it.
    OSError
        If another run uses the folder, or it is not writable.
    ValueError
        If the folder has a link to a place outside of it, or differs from
        that of the main process.

    Example
    -------
    >>> import contextlib, io, logging
    >>> handlers, hook = list(logging.getLogger().handlers), sys.excepthook
    >>> folder = getfixture("tmp_path") / "results"
    >>> with contextlib.redirect_stdout(io.StringIO()):
    ...     start_experiment(folder, "seed: 1", __file__)
    >>> sorted(path.name for path in folder.glob("[!.]*"))
    ['env.log', 'experiment.py', 'hyperparams.yaml', 'log.txt']
    >>> for handler in set(logging.getLogger().handlers) - set(handlers):
    ...     handler.close()
    >>> logging.getLogger().handlers, sys.excepthook = handlers, hook
    """
    folder = pathlib.Path(folder)
    if if_main_process():
        lock_output_folder(folder)
        for path in (folder / "log.txt", *logs):
            continue_file(path)
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
        continue_file(folder / "log.txt")  # it has its first lines now


def claim_output_folder(folder, script):
    """Locks an output folder, or raises if a script must not write into it.

    The main process holds the lock until it ends. So nothing in a folder that
    is in use is replaced.

    Arguments
    ---------
    folder : str | pathlib.Path
        The output folder; it is created.
    script : str
        Path of the running script.

    Raises
    ------
    OSError
        If another run uses the folder, or it is not writable.
    ValueError
        If the folder is the output folder of another script, or has a link
        to a place outside of it.

    Example
    -------
    >>> claim_output_folder(getfixture("tmp_path"), __file__)
    """
    refuse_links(folder)
    name = pathlib.Path(script).name
    for other in sorted(pathlib.Path(folder).glob("*.py")):
        if other.name != name and is_own(other):
            raise ValueError(
                f"{folder} is the output folder of a run of {other.name}, "
                f"whose files {name} would replace; choose another "
                "`output_folder`."
            )
    if if_main_process():
        lock_output_folder(folder)


def describe_environment():
    """Describes the environment: Python, packages, Git commit and CUDA.

    SpeechBrain's ``get_environment_description`` calls the first ``pip`` in
    PATH, which takes seconds and may belong to another Python.

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
    lines = [
        f"Python {sys.version}",
        f"Git commit: {git_commit()}",
        f"CUDA: {torch.version.cuda or 'none'}, "
        f"{torch.cuda.device_count()} GPU(s)",
        "Packages:",
        *sorted(packages, key=str.lower),
    ]
    return "\n".join(lines) + "\n"


def git_commit():
    """The commit of the Git checkout in which this process runs.

    Returns
    -------
    str
        Its short hash, or ``not in a git checkout``.

    Example
    -------
    >>> len(git_commit()) >= 7
    True
    """
    commit = "not in a git checkout"
    with contextlib.suppress(OSError):
        git = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
        commit = git.stdout.strip() or commit
    return commit


def log_training(brain, manifest, classes, batch_size):
    """Logs data, batches, highest learning rate and device of a training.

    It warns if the margin does not reach its final value, or if the encoder
    is frozen to the end.

    Arguments
    ---------
    brain : speechbrain_ext.core.ResumableBrain
        The Brain, with its ``train_sampler``. Its hparams are those of a
        training recipe.
    manifest : pandas.DataFrame
        The training utterances; columns duration and spk_id.
    classes : int
        Number of classes.
    batch_size : int
        Utterances in a global batch, before gradients are accumulated.
    """
    factor, batches = brain.grad_accumulation_factor, len(brain.train_sampler)
    epochs = brain.hparams.epoch_counter.limit
    steps = torch.arange(0, epochs, 1 / batches, dtype=torch.float64)
    highest = max(map(brain.hparams.lr_schedule, steps.tolist()))
    workers = brain.hparams.train_dataloader_opts.get("num_workers", 0)
    logger.info(
        f"{len(manifest)} utterances ({manifest['duration'].sum():.0f} s of "
        f"speech) of {manifest['spk_id'].nunique()} speakers ({classes} "
        f"classes), {batches // factor} updates an epoch at a global batch of "
        f"{batch_size * factor} on {world_size()} process(es); highest "
        f"learning rate {highest:.4g}."
    )
    logger.info(
        f"Device {brain.device}, precision {brain.precision}, {workers} "
        "DataLoader worker(s) a process."
    )
    log_slow_bf16(brain.device_type, brain.precision)
    _warn_of_epochs(brain.hparams, epochs, steps[-1].item())


def _warn_of_epochs(hparams, epochs, last):
    """Warns where a training is too short for a schedule."""
    schedule = hparams.margin_schedule
    rises = hasattr(schedule, "fix_start_epoch")  # not one of a user's
    if rises and hasattr(hparams.modules["loss"], "margin"):
        if schedule(last) != schedule.final_margin:
            logger.warning(
                f"The margin is {schedule(last):.4g} at the end, not "
                f"`final_margin` {schedule.final_margin:.4g}: "
                f"`margin_start_epoch` is {schedule.increase_start_epoch} and "
                f"`margin_fix_epoch` {schedule.fix_start_epoch}, but "
                f"`number_of_epochs` is {epochs}. Lower them, or train longer."
            )
    if hparams.frozen_epochs and not getattr(hparams, "start_from", None):
        logger.warning(
            f"`frozen_epochs` is {hparams.frozen_epochs}, but there is no "
            "`start_from`: the frozen encoder has random weights."
        )
    if 0 < epochs <= hparams.frozen_epochs:
        logger.warning(
            f"Only the classifier is trained: `frozen_epochs` is "
            f"{hparams.frozen_epochs}, and `number_of_epochs` {epochs}."
        )


def offer_verification(hparams, recipe, folder, cohort, trial_lists):
    """Logs the command that verifies trials with a trained encoder.

    Without trial lists the trials are those of the development speakers.

    Arguments
    ---------
    hparams : dict
        The objects of the training recipe.
    recipe : str
        Path of the verification's YAML.
    folder : str | pathlib.Path
        The exported encoder.
    cohort : str | pathlib.Path
        Manifest of the training utterances.
    trial_lists : iterable of str or None
        The trial lists of the corpus; None where they are not known.
    """
    logger.info(f"The encoder is in {folder}. To verify trials:")
    save_folder = pathlib.Path(hparams["save_folder"])
    held_out = hparams["dev_speakers"] and not hparams["dev_label_noise"]
    lists, calibration = hparams["trial_lists"], None
    if trial_lists is None or len(trial_lists):
        calibration = save_folder / "dev.csv" if held_out else None
    elif held_out:  # their trials calibrate nothing that they test
        lists = save_folder / "dev_trials.txt"
    else:
        logger.info(
            "Write a trial list first, with a line `1 path path` or `0 path "
            "path` for each trial, and pass it as --trial_lists to "
            f"speaker_verification_cosine.py {recipe}."
        )
        return
    options = {
        "data_folder": hparams["data_folder"],
        "pretrained_folder": folder,
        "cohort_manifest": cohort,
        "calibration_manifest": calibration,
        "file_list": hparams["file_list"],
        "layout": hparams["layout"],
        "trial_lists": lists,
    }
    log_command("speaker_verification_cosine.py", recipe, options)


def log_command(script, recipe, options):
    """Logs a command for a shell.

    Arguments
    ---------
    script : str
        The Python script.
    recipe : str | pathlib.Path
        Its YAML.
    options : dict
        Values by option; those that are None are left out.
    """
    flags = [f"--{k}={v}" for k, v in options.items() if v is not None]
    logger.info(shlex.join(["python", script, str(recipe), *flags]))


def _log_exception(kind, error, traceback):
    """Logs an exception that ends the process."""
    logger.error("Exception:", exc_info=(kind, error, traceback))
