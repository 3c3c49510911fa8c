"""Checks of a training recipe before any work is done."""

import os
import pathlib

from speechbrain_ext.inference.noisy_labels import check_label_noise
from speechbrain_ext.nnet.schedulers import check_schedules
from speechbrain_ext.processing.label_filters import check_label_filter
from speechbrain_ext.utils.model_selection import check_select


def check_training(hparams):
    """Raises if a training recipe asks for what cannot work.

    Arguments
    ---------
    hparams : dict
        The objects of the recipe, from ``load_recipe``.

    Raises
    ------
    ValueError
        If values do not fit each other.
    """
    loss = hparams["modules"]["loss"]
    check_select(hparams["select"], hparams["dev_speakers"])
    check_label_filter(hparams["label_filter"], loss, hparams["classifier"])
    check_label_noise(
        hparams["label_noise"],
        hparams["dev_label_noise"],
        hparams["dev_speakers"],
        hparams["seed"],
    )
    check_schedules(
        loss,
        hparams["margin_schedule"],
        hparams["opt_class"],
        hparams["lr_schedule"],
    )


def require_untrained(output_folder, save_folder):
    """Raises if a run with ``--debug`` would end in a trained folder.

    Such a run trains on a few batches, and its figures and recipe would
    replace those of the training.

    Arguments
    ---------
    output_folder : str | pathlib.Path
        The output folder.
    save_folder : str | pathlib.Path
        The folder of the checkpoints.

    Raises
    ------
    ValueError
        If there is a checkpoint or an exported encoder.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "pretrained").mkdir()
    >>> require_untrained(folder, folder / "save")
    Traceback (most recent call last):
    ValueError: --debug needs a folder without a training, but ...
    """
    found = [pathlib.Path(output_folder, "pretrained")]
    found += sorted(pathlib.Path(save_folder).glob("CKPT+*"))
    for path in filter(os.path.exists, found):
        raise ValueError(
            f"--debug needs a folder without a training, but {path} exists; "
            "pass another --output_folder."
        )
