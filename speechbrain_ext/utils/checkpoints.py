"""Checkpoints that are whole or not there, of one process or of many."""

import json
import os
import shutil
import zlib

import torch
from speechbrain.utils import checkpoints
from speechbrain.utils.distributed import (
    ddp_barrier,
    ddp_broadcast,
    if_main_process,
)
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.distributed import fail_together

logger = get_logger(__name__)

SUMS = "sums.json"


class WholeCheckpointer(checkpoints.Checkpointer):
    """SpeechBrain's Checkpointer, whose checkpoints survive any kill.

    A checkpoint is written beside, with the size and the checksum of each
    file, and renamed once it is whole. One that was cut short is set aside
    when a run goes on, with a line in the log, and the one before it is used.
    What is split over processes (``speechbrain_ext.nnet.sharded``) is saved
    as if it were not, so that any number of processes can go on with it.

    Arguments
    ---------
    checkpoints_dir : str
        Where the checkpoints are; the same folder on every machine.
    recoverables : dict
        What is saved, by name.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> layer = torch.nn.Linear(2, 3)
    >>> checkpointer = WholeCheckpointer(folder, {"layer": layer})
    >>> checkpoint = checkpointer.save_checkpoint()
    >>> damage(checkpoint.path) is None
    True
    """

    def __init__(self, checkpoints_dir, recoverables=None):
        super().__init__(checkpoints_dir)
        self.add_recoverables(recoverables or {})

    def add_recoverable(
        self,
        name,
        obj,
        custom_load_hook=None,
        custom_save_hook=None,
        optional_load=False,
    ):
        """Registers what is to be saved, in whole where it is split.

        Arguments
        ---------
        name : str
            Its name, and that of its file.
        obj : object
            What is saved.
        custom_load_hook : callable
            As SpeechBrain's.
        custom_save_hook : callable
            As SpeechBrain's.
        optional_load : bool
            Whether a checkpoint may lack it.
        """
        if _is_split(obj):
            custom_load_hook, custom_save_hook = load_whole, save_whole
        super().add_recoverable(
            name, obj, custom_load_hook, custom_save_hook, optional_load
        )

    def add_recoverables(self, recoverables):
        """Registers what is to be saved, by name.

        Arguments
        ---------
        recoverables : dict
            What is saved, by name.
        """
        for name, recoverable in recoverables.items():
            self.add_recoverable(name, recoverable)

    def save_checkpoint(self, meta=None, end_of_epoch=True, name=None, **_):
        """Saves a checkpoint, beside; then renames it.

        Arguments
        ---------
        meta : dict
            What its meta file shall say.
        end_of_epoch : bool
            Whether an epoch has ended.
        name : str
            Its name; None for the time.
        **_ : dict
            SpeechBrain's level of the log line; not used.

        Returns
        -------
        speechbrain.utils.checkpoints.Checkpoint
            The checkpoint on the main process, None on others.
        """
        if if_main_process():
            for left_over in self.checkpoints_dir.glob(
                f".{checkpoints.CKPT_PREFIX}*"
            ):
                shutil.rmtree(left_over)
        made = super().save_checkpoint(
            meta or {}, end_of_epoch, name, verbosity=0
        )
        if if_main_process():
            path = made.path.with_name(made.path.name.removeprefix("."))
            _seal(made.path)
            shutil.rmtree(path, ignore_errors=True)
            os.replace(made.path, path)
            _to_disk(path.parent)
            logger.info(f"Saved the checkpoint {path}")
            files = {k: path / v.name for k, v in made.paramfiles.items()}
            made = checkpoints.Checkpoint(path, made.meta, files)
        ddp_barrier()
        return made

    def delete_checkpoints(
        self,
        *,
        num_to_keep=1,
        min_keys=None,
        max_keys=None,
        importance_keys=(checkpoints.ckpt_recency,),
        ckpt_predicate=None,
        verbosity=None,
    ):
        """Deletes checkpoints that are not needed, renaming them before.

        Arguments
        ---------
        num_to_keep : int
            How many are kept, by each key.
        min_keys : list of str
            Keys of the meta file; the lowest are kept.
        max_keys : list of str
            Keys of the meta file; the highest are kept.
        importance_keys : list of callable
            Functions of a checkpoint; the highest are kept.
        ckpt_predicate : callable
            Which checkpoints may be deleted; None for all.
        verbosity : int
            SpeechBrain's level of the log line; not used.
        """
        keys = [{"min_key": key} for key in min_keys or ()]
        keys += [{"max_key": key} for key in max_keys or ()]
        keys += [{"importance_key": key} for key in importance_keys]
        if if_main_process():
            found, kept = {}, set()
            for key in keys:
                ranked = self.find_checkpoints(
                    ckpt_predicate=ckpt_predicate, **key
                )
                found |= {one.path: one for one in ranked}
                kept |= {one.path for one in ranked[:num_to_keep]}
            for path in found.keys() - kept:
                # one that is deleted half must not look like one that is cut
                aside = path.with_name(f".{path.name}")
                os.replace(path, aside)
                shutil.rmtree(aside)
        ddp_barrier()

    def recover_if_possible(self, *arguments, **options):
        """Goes on from a checkpoint that is whole, if there is one.

        Arguments
        ---------
        *arguments : tuple
            As SpeechBrain's.
        **options : dict
            As SpeechBrain's.

        Returns
        -------
        speechbrain.utils.checkpoints.Checkpoint
            The checkpoint that was loaded, or None.

        Raises
        ------
        ValueError
            If it is of another network, loss or optimiser.
        """
        chosen = None
        if if_main_process():
            self._set_damaged_aside()
            chosen = self.find_checkpoint(*arguments, **options)
        chosen = ddp_broadcast(chosen)
        if chosen is not None:
            fail_together(self.load_checkpoint, chosen)
        return chosen

    def load_checkpoint(self, checkpoint):
        """Loads a checkpoint.

        Arguments
        ---------
        checkpoint : speechbrain.utils.checkpoints.Checkpoint
            The checkpoint.

        Raises
        ------
        ValueError
            If it is of another network, loss or optimiser.
        """
        try:
            super().load_checkpoint(checkpoint)
        except (RuntimeError, ValueError, KeyError) as error:
            said = " ".join(str(error).split())
            raise ValueError(
                f"The checkpoint {checkpoint.path} is not of this recipe: "
                f"{said[:300]} Train into another output_folder, or delete "
                "this one."
            ) from error

    def _set_damaged_aside(self):
        for path in sorted(self.checkpoints_dir.glob("CKPT*")):
            flaw = damage(path)
            if flaw:
                aside = path.with_name(f"damaged-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(path, aside)
                logger.warning(
                    f"The checkpoint {path.name} is cut short ({flaw}); it is "
                    f"now {aside.name}, and the one before it is used."
                )

    def _new_checkpoint_dirpath(self):
        path = super()._new_checkpoint_dirpath()
        return path.with_name(f".{path.name}")

    def _custom_checkpoint_dirpath(self, name):
        path = super()._custom_checkpoint_dirpath(name)
        return path.with_name(f".{path.name}")


def damage(path):
    """What is wrong with the files of a checkpoint.

    Arguments
    ---------
    path : pathlib.Path
        The checkpoint's folder.

    Returns
    -------
    str
        The first flaw, or None. A checkpoint without checksums is SpeechBrain's
        own and passes.
    """
    if not (path / checkpoints.METAFNAME).exists():
        return f"{checkpoints.METAFNAME} is missing"
    if not (path / SUMS).exists():
        return None
    try:
        sums = json.loads((path / SUMS).read_text())
    except ValueError:
        return f"{SUMS} is cut"
    for name, (size, checksum) in sums.items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} of {size} bytes"
        if _checksum(file) != checksum:
            return f"{name} has another checksum"
    return None


def save_whole(obj, path):
    """Saves a module or an optimiser as one that is not split.

    Every process must call this; the main one writes.

    Arguments
    ---------
    obj : torch.nn.Module or torch.optim.Optimizer
        What is split over processes.
    path : str
        The file.
    """
    state = obj.state_dict()
    if isinstance(obj, torch.nn.Module):
        for name, parameter in obj.named_parameters():
            if hasattr(parameter, "shard"):
                state[name] = parameter.shard.whole(parameter)
    else:
        for number, parameter in enumerate(_parameters(obj)):
            entries = state["state"].get(number, {})
            if hasattr(parameter, "shard"):
                state["state"][number] = {
                    key: parameter.shard.whole(value)
                    if torch.is_tensor(value) and value.dim()
                    else value
                    for key, value in entries.items()
                }
    if if_main_process():
        torch.save(state, path)


def load_whole(obj, path, end_of_epoch=True):
    """Loads this process's part of what ``save_whole`` saved, or anything.

    Arguments
    ---------
    obj : torch.nn.Module or torch.optim.Optimizer
        What is split over processes.
    path : str
        The file.
    end_of_epoch : bool
        Not used; SpeechBrain's contract.
    """
    # mapped: of a large head only one's own rows are read
    state = torch.load(path, map_location="cpu", mmap=True)
    if isinstance(obj, torch.optim.Optimizer):
        for number, parameter in enumerate(_parameters(obj)):
            entries = state["state"].get(number, {})
            if hasattr(parameter, "shard"):
                state["state"][number] = {
                    key: parameter.shard.own(value).clone()
                    if torch.is_tensor(value) and value.dim()
                    else value
                    for key, value in entries.items()
                }
    obj.load_state_dict(state)


def _is_split(obj):
    known = isinstance(obj, (torch.nn.Module, torch.optim.Optimizer))
    return known and any(hasattr(p, "shard") for p in _parameters(obj))


def _parameters(obj):
    if isinstance(obj, torch.nn.Module):
        return list(obj.parameters())
    return [p for group in obj.param_groups for p in group["params"]]


def _seal(folder):
    """Writes the sums of all files, and all of them to the disk."""
    sums = {}
    for file in sorted(folder.iterdir()):
        sums[file.name] = file.stat().st_size, _checksum(file)
        _to_disk(file)
    (folder / SUMS).write_text(json.dumps(sums))
    _to_disk(folder / SUMS)
    _to_disk(folder)


def _checksum(path):
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _to_disk(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
