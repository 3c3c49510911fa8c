"""Checks of a training recipe before any work is done."""

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
