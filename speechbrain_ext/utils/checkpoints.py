"""Checkpoints that are whole or not there, of one process or of many."""

import math
import os
import shutil

import yaml
from speechbrain.utils import checkpoints
from speechbrain.utils.distributed import (
    ddp_barrier,
    ddp_broadcast,
    if_main_process,
)
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.distributed import raise_on_all
from speechbrain_ext.utils.files import explain_disk_full
from speechbrain_ext.utils.seals import seal, seal_flaw, to_disk
from speechbrain_ext.utils.tensors import is_split, load_sharded, save_unsharded

logger = get_logger(__name__)

# What a name begins with; other folders are not touched
PREFIX = f"{checkpoints.CKPT_PREFIX}+"


class AtomicCheckpointer(checkpoints.Checkpointer):
    """SpeechBrain's Checkpointer, whose checkpoints survive any kill.

    A checkpoint is written beside, with the size and the checksum of each
    file, and renamed once it is whole. One that is damaged is renamed when a
    run resumes, with a line in the log, and the one before it is used. The
    latest checkpoint is that of the highest epoch and step, whatever the
    clock said; among those without an epoch it is the newest. Files are read
    as tensors, never as code. What is split over processes
    (``speechbrain_ext.nnet.sharded``) is saved as if it were not, so that any
    number of processes can resume from it.

    Arguments
    ---------
    checkpoints_dir : str
        Where the checkpoints are; the same folder on every machine.
    recoverables : dict
        What is saved, by name.

    Example
    -------
    >>> import torch
    >>> folder = getfixture("tmp_path")
    >>> layer = torch.nn.Linear(2, 3)
    >>> checkpointer = AtomicCheckpointer(folder, {"layer": layer})
    >>> checkpoint = checkpointer.save_checkpoint()
    >>> find_corruption(checkpoint.path) is None
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
        if is_split(obj):
            custom_load_hook, custom_save_hook = load_sharded, save_unsharded
        default = checkpoints.get_default_hook(
            obj, checkpoints.DEFAULT_LOAD_HOOKS
        )
        if custom_load_hook is None and default is checkpoints.torch_recovery:
            custom_load_hook = load_sharded
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

        Raises
        ------
        OSError
            If the disk is full: the checkpoints that were there stay.
        """
        if if_main_process():
            self._delete_unfinished()
        try:
            with explain_disk_full(self.checkpoints_dir):
                made = super().save_checkpoint(
                    meta or {}, end_of_epoch, name, verbosity=0
                )
                if if_main_process():
                    seal(made.path)
        except OSError:
            if if_main_process():
                self._delete_unfinished()  # gives the space back
            raise
        if if_main_process():
            path = made.path.with_name(made.path.name.removeprefix("."))
            shutil.rmtree(path, ignore_errors=True)
            os.replace(made.path, path)
            to_disk(path.parent)
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

    def find_checkpoints(
        self,
        importance_key=None,
        max_key=None,
        min_key=None,
        ckpt_predicate=None,
        max_num_checkpoints=None,
    ):
        """Ranks checkpoints: the latest first where no key is given.

        Arguments
        ---------
        importance_key : callable
            Function of a checkpoint; the highest comes first.
        max_key : str
            Key of the meta file; the highest comes first, the latest of
            equal ones.
        min_key : str
            Key of the meta file; the lowest comes first, the latest of equal
            ones.
        ckpt_predicate : callable
            Which checkpoints count; None for all.
        max_num_checkpoints : int
            How many are returned at most; None for all.

        Returns
        -------
        list of speechbrain.utils.checkpoints.Checkpoint
            The checkpoints.
        """
        if max_key or min_key:
            sign = 1 if max_key else -1

            def ckpt_predicate(one, asked=ckpt_predicate):
                value = one.meta.get(max_key or min_key)
                return _is_number(value) and (asked is None or asked(one))

            def importance_key(one):
                value = sign * one.meta[max_key or min_key]
                return value, checkpoint_order(one)

        elif importance_key in (None, checkpoints.ckpt_recency):
            importance_key = checkpoint_order
        return super().find_checkpoints(
            importance_key=importance_key,
            ckpt_predicate=ckpt_predicate,
            max_num_checkpoints=max_num_checkpoints,
        )

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
                If it is of another network, loss or optimiser, or holds weights
            that are not finite.
        """
        chosen = None
        if if_main_process():
            self._delete_unfinished()
            self._set_damaged_aside()
            chosen = self.find_checkpoint(*arguments, **options)
        chosen = ddp_broadcast(chosen)
        if chosen is not None:
            raise_on_all(self.load_checkpoint, chosen)
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
            If it is of another network, loss or optimiser, or holds weights
            that are not finite.
        """
        try:
            super().load_checkpoint(checkpoint)
        except OSError:
            raise
        except Exception as error:  # whatever the files hold
            said = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"The checkpoint {checkpoint.path} is not of this recipe: "
                f"{said[:300].rstrip('.')}. Train into another output_folder, "
                "or delete this checkpoint."
            ) from error

    def _set_damaged_aside(self):
        """Renames damaged checkpoints and says what is used instead."""
        flaws = {
            path: find_corruption(path) for path in sorted(self._folders())
        }
        flaws = {path: flaw for path, flaw in flaws.items() if flaw}
        whole = len(self._folders()) > len(flaws)
        then = "the one before it is used"
        if not whole:
            then = "no whole one is left: training starts from the beginning"
        for path, flaw in flaws.items():
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
            logger.warning(
                f"The checkpoint {path.name} is damaged ({flaw}); it is now "
                f"{aside.name}, and {then}."
            )

    def _folders(self):
        """Every checkpoint's folder, damaged ones too."""
        found = self.checkpoints_dir.glob(f"{PREFIX}*")
        return [path for path in found if path.is_dir()]

    def _list_checkpoint_dirs(self):
        return [
            path
            for path in self._folders()
            if (path / checkpoints.METAFNAME).exists()
        ]

    def _delete_unfinished(self):
        """Deletes what a killed run was writing or deleting."""
        for left_over in self.checkpoints_dir.glob(f".{PREFIX}*"):
            if left_over.is_dir() and not left_over.is_symlink():
                shutil.rmtree(left_over)

    def _new_checkpoint_dirpath(self):
        path = super()._new_checkpoint_dirpath()
        return path.with_name(f".{path.name}")

    def _custom_checkpoint_dirpath(self, name):
        path = super()._custom_checkpoint_dirpath(name)
        return path.with_name(f".{path.name}")


def find_corruption(path):
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
    if path.is_symlink():
        return "it is a link"
    if not (path / checkpoints.METAFNAME).exists():
        return f"{checkpoints.METAFNAME} is missing"
    return seal_flaw(path) or _meta_flaw(path / checkpoints.METAFNAME)


def checkpoint_order(checkpoint):
    """What checkpoints are ordered by: epoch and step, then the clock.

    Within an epoch it is the share that is ``done`` where the checkpoint tells
    it: a run may resume with another number of steps an epoch.

    Arguments
    ---------
    checkpoint : speechbrain.utils.checkpoints.Checkpoint
        The checkpoint. One without an epoch comes before those with one.

    Returns
    -------
    tuple
        The later checkpoint has the higher one.

    Example
    -------
    >>> meta = {"epoch": 2, "end-of-epoch": True, "unixtime": 5.0}
    >>> earlier = {**meta, "end-of-epoch": False, "step": 7, "unixtime": 9.0}
    >>> made = [checkpoints.Checkpoint("", m, {}) for m in (meta, earlier)]
    >>> checkpoint_order(made[0]) > checkpoint_order(made[1])
    True
    """
    meta = checkpoint.meta
    done = meta.get("done", meta.get("step", 0))
    if meta.get("end-of-epoch"):
        done = math.inf
    return meta.get("epoch", -1), done, meta["unixtime"]


def _meta_flaw(path):
    """What is wrong with a checkpoint's meta file, or None."""
    try:
        meta = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError, RecursionError):
        return f"{path.name} is not a YAML"
    if not isinstance(meta, dict):
        return f"{path.name} has no keys"
    for key in ("unixtime", "epoch", "step", "done"):
        if not _is_number(meta.get(key, None if key == "unixtime" else 0)):
            return f"{path.name} has {key} {meta.get(key)!r}, not a number"
    if not isinstance(meta.get("end-of-epoch"), bool):
        return f"{path.name} does not tell whether an epoch has ended"
    return None


def _is_number(value):
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return known and math.isfinite(value)
