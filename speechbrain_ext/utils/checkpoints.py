"""Checkpoints that are written atomically, by one process or several."""

import math
import os
import re
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

# Prefix of a checkpoint's name; other folders are left alone
PREFIX = f"{checkpoints.CKPT_PREFIX}+"
# The name that a checkpoint gets where none is given
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d\+\d\d-\d\d-\d\d\+\d\d+")


class AtomicCheckpointer(checkpoints.Checkpointer):
    """SpeechBrain's Checkpointer with checkpoints that survive kills.

    A checkpoint is written under a temporary name, with size and checksum of
    each file, and renamed when it is complete. When a run resumes and a
    checkpoint is damaged, it is renamed, a warning is logged, and the one
    before it is used. The latest checkpoint is the one of the highest epoch
    and step, whatever the clock says; among those without an epoch it is the
    newest. Files are read as tensors, never as code. Modules that are split
    over processes (``speechbrain_ext.nnet.sharded``) are saved whole, so that
    any number of processes can resume.

    Extends ``speechbrain.utils.checkpoints.Checkpointer``; see there.

    Arguments
    ---------
    checkpoints_dir : str
        Folder of the checkpoints, the same on every machine.
    recoverables : dict
        Objects to save, by name.

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
        """Registers an object to save; one that is split is saved whole.

        Overrides
        ``speechbrain.utils.checkpoints.Checkpointer.add_recoverable``; see
        there.
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
        """Registers objects to save, by name.

        Overrides
        ``speechbrain.utils.checkpoints.Checkpointer.add_recoverables``; see
        there.
        """
        for name, recoverable in recoverables.items():
            self.add_recoverable(name, recoverable)

    def save_checkpoint(self, meta=None, end_of_epoch=True, name=None, **_):
        """Saves a checkpoint under a temporary name, then renames it.

        Overrides
        ``speechbrain.utils.checkpoints.Checkpointer.save_checkpoint``; see
        there.

        Returns
        -------
        speechbrain.utils.checkpoints.Checkpoint
            The checkpoint on the main process, None on the others.

        Raises
        ------
        OSError
            If the disk is full. Older checkpoints are kept.
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
                self._delete_unfinished()  # frees the space
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
        """Renames checkpoints that are not needed, then deletes them.

        Those with a name that somebody gave, such as a copy of the user's,
        stay and do not count. Overrides
        ``speechbrain.utils.checkpoints.Checkpointer.delete_checkpoints``; see
        there.
        """
        keys = [{"min_key": key} for key in min_keys or ()]
        keys += [{"max_key": key} for key in max_keys or ()]
        keys += [{"importance_key": key} for key in importance_keys]

        def may_go(one):
            return is_automatic(one) and (
                ckpt_predicate is None or ckpt_predicate(one)
            )

        ddp_barrier()  # another process may still read what would go
        if if_main_process():
            found, kept = {}, set()
            for key in keys:
                ranked = self.find_checkpoints(ckpt_predicate=may_go, **key)
                found |= {one.path: one for one in ranked}
                kept |= {one.path for one in ranked[:num_to_keep]}
            for path in found.keys() - kept:
                # a half-deleted checkpoint must not look like a damaged one
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
        """Ranks checkpoints: by default the latest comes first.

        Of checkpoints that are equal by ``min_key`` or ``max_key``, the
        latest comes first. Overrides
        ``speechbrain.utils.checkpoints.Checkpointer.find_checkpoints``; see
        there.
        """
        if max_key or min_key:
            sign = 1 if max_key else -1

            def ckpt_predicate(one, given=ckpt_predicate):
                value = one.meta.get(max_key or min_key)
                return _is_number(value) and (given is None or given(one))

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

    def recover_if_possible(
        self,
        importance_key=None,
        max_key=None,
        min_key=None,
        ckpt_predicate=None,
    ):
        """Resumes from an undamaged checkpoint, if there is one.

        Overrides
        ``speechbrain.utils.checkpoints.Checkpointer.recover_if_possible``; see
        there.

        Raises
        ------
        ValueError
            If the checkpoint has another network, loss or optimiser, or
            contains NaN weights.
        """
        chosen = None
        if if_main_process():
            self._delete_unfinished()
            self._set_damaged_aside()
            chosen = self.find_checkpoint(
                importance_key, max_key, min_key, ckpt_predicate
            )
        chosen = ddp_broadcast(chosen)
        if chosen is not None:
            raise_on_all(self.load_checkpoint, chosen)
        return chosen

    def load_checkpoint(self, checkpoint):
        """Loads a checkpoint.

        Overrides
        ``speechbrain.utils.checkpoints.Checkpointer.load_checkpoint``; see
        there.

        Raises
        ------
        ValueError
            If the checkpoint has another network, loss or optimiser, or
            contains NaN weights.
        """
        try:
            super().load_checkpoint(checkpoint)
        except OSError:
            raise
        except Exception as error:  # a broken file can raise anything
            said = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"The checkpoint {checkpoint.path} does not fit this recipe: "
                f"{said[:300].rstrip('.')}. Train into another output_folder, "
                "or delete this checkpoint."
            ) from error

    def _set_damaged_aside(self):
        """Renames damaged checkpoints and logs which one is used instead."""
        flaws = {
            path: find_corruption(path) for path in sorted(self._folders())
        }
        flaws = {path: flaw for path, flaw in flaws.items() if flaw}
        whole = len(self._folders()) > len(flaws)
        then = "the one before it is used"
        if not whole:
            then = "no other checkpoint is left, so training starts anew"
        for path, flaw in flaws.items():
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
            logger.warning(
                f"The checkpoint {path.name} is damaged ({flaw}). It was "
                f"renamed to {aside.name}; {then}."
            )

    def _folders(self):
        """Folders of all checkpoints, including damaged ones."""
        found = self.checkpoints_dir.glob(f"{PREFIX}*")
        return [path for path in found if path.is_dir()]

    def _list_checkpoint_dirs(self):
        return [
            path
            for path in self._folders()
            if (path / checkpoints.METAFNAME).exists()
        ]

    def _delete_unfinished(self):
        """Deletes checkpoints that a killed run was writing or deleting."""
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
    """Checks the files of a checkpoint.

    Arguments
    ---------
    path : pathlib.Path
        The folder of the checkpoint.

    Returns
    -------
    str
        The first problem found, or None. A checkpoint without checksums
        passes, because SpeechBrain's own Checkpointer writes none.
    """
    if path.is_symlink():
        return "it is a link"
    if not (path / checkpoints.METAFNAME).exists():
        return f"{checkpoints.METAFNAME} is missing"
    return seal_flaw(path) or _meta_flaw(path / checkpoints.METAFNAME)


def is_automatic(checkpoint):
    """Whether a checkpoint has a timestamp for a name, and nothing else.

    Arguments
    ---------
    checkpoint : speechbrain.utils.checkpoints.Checkpoint
        The checkpoint.

    Returns
    -------
    bool
        False if somebody named it, as with a copy.

    Example
    -------
    >>> import pathlib
    >>> names = "CKPT+2026-01-02+03-04-05+00", "CKPT+2026-01-02+03-04-05+00.bak"
    >>> for name in names:
    ...     path = pathlib.Path("save", name)
    ...     is_automatic(checkpoints.Checkpoint(path, {}, {}))
    True
    False
    """
    name = checkpoint.path.name.removeprefix(PREFIX)
    return bool(TIMESTAMP.fullmatch(name))


def checkpoint_order(checkpoint):
    """Sort key of checkpoints: epoch, step within the epoch, timestamp.

    If the meta file has ``done``, the share of the epoch, it is used in place
    of the step: a resumed run may have another number of steps per epoch.

    Arguments
    ---------
    checkpoint : speechbrain.utils.checkpoints.Checkpoint
        The checkpoint. Checkpoints without an epoch come first.

    Returns
    -------
    tuple
        The key; a later checkpoint has a higher one.

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
    """The first problem of a checkpoint's meta file, or None."""
    try:
        meta = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError, RecursionError):
        return f"{path.name} is not valid YAML"
    if not isinstance(meta, dict):
        return f"{path.name} has no keys"
    for key in ("unixtime", "epoch", "step", "done"):
        if not _is_number(meta.get(key, None if key == "unixtime" else 0)):
            return f"{path.name} has {key} {meta.get(key)!r}, not a number"
    if not isinstance(meta.get("end-of-epoch"), bool):
        return f"{path.name} lacks end-of-epoch (true or false)"
    return None


def _is_number(value):
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return known and math.isfinite(value)
