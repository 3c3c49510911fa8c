"""Checks of a training recipe before any work is done."""

import os
import pathlib

from speechbrain_ext.inference.folder_checks import refuse_other_run
from speechbrain_ext.inference.noisy_labels import check_label_noise
from speechbrain_ext.nnet.schedulers import check_schedules
from speechbrain_ext.processing.label_filters import (
    check_label_filter,
    make_label_filter,
)
from speechbrain_ext.utils.model_selection import check_select
from speechbrain_ext.utils.recipe import LABEL_KEYS
from speechbrain_ext.utils.yaml_files import parse_yaml, yaml_leaves

# Keys whose values blocks refer to
GLOBAL = ("batch_size", "seed", "sample_rate")

# Options of SpeechBrain's that this project does not support
REFUSED = {
    "jit": "use --compile --compile_module_keys embedding_model",
    "jit_module_keys": "use --compile --compile_module_keys embedding_model",
    "data_parallel_backend": "use torchrun for several GPUs",
}


def check_training(hparams, text, run_opts):
    """Raises if a training recipe asks for what cannot work.

    Arguments
    ---------
    hparams : dict
        The objects of the recipe, from ``load_recipe``.
    text : str
        The resolved recipe.
    run_opts : speechbrain.utils.run_opts.RunOptions
        SpeechBrain's options from the command line.

    Raises
    ------
    ValueError
        If values do not fit each other, or the output folder is that of an
        encoder or of a verification.
    """
    refuse_other_run(hparams["output_folder"], hparams)
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
    _check_warm_up(hparams["label_filter"], hparams["epoch_counter"].limit)
    _check_nested(parse_yaml(text, "The recipe"))
    for name, remedy in REFUSED.items():
        if run_opts[name]:
            raise ValueError(f"--{name} does not work here; {remedy}.")
    if run_opts["optimizer_step_limit"] is not None:
        raise ValueError(
            "--optimizer_step_limit would end the run within an epoch and save "
            "the part as a whole epoch; leave it out and set "
            "--number_of_epochs, or try the recipe with --debug."
        )


def _check_warm_up(label_filter, epochs):
    """Raises if a label filter would never begin."""
    made = make_label_filter(label_filter)
    if made is not None and made.warm_up >= epochs:
        raise ValueError(
            f"`label_filter` has a `warm_up` of {made.warm_up} epochs, but "
            f"`number_of_epochs` is {epochs}, so it would never leave out a "
            "label; lower `warm_up`, or train longer."
        )


def _check_nested(recipe):
    """Raises if a block overrides a value that holds for the whole recipe."""
    values = dict(yaml_leaves(recipe))
    for name, value in values.items():
        block, _, key = name.rpartition(".")
        own = values.get(key)
        if key not in GLOBAL or not block or own in (None, value):
            continue
        if block not in LABEL_KEYS:  # label noise has a seed of its own
            raise ValueError(
                f"`{block}` has the {key} {value}, but `{key}` of the recipe "
                f"is {own}; set --{key}, which `{block}` refers to."
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
