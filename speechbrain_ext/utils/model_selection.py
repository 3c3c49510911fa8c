"""Which weights of a training are exported: an average, or the best epoch."""

from speechbrain.utils.checkpoints import average_checkpoints
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.checkpoints import checkpoint_order
from speechbrain_ext.utils.tensors import read_tensors

logger = get_logger(__name__)


def check_select(select, dev_speakers):
    """Raises if weights cannot be selected as a recipe asks.

    Arguments
    ---------
    select : str
        "average" or "lowest_eer", see ``load_selected``.
    dev_speakers : int
        Number of speakers that are held out.

    Raises
    ------
    ValueError
        If the development EER is needed but no speaker is held out.

    Example
    -------
    >>> check_select("lowest_eer", dev_speakers=10)
    """
    if select == "lowest_eer" and not dev_speakers:
        raise ValueError(
            "`select` is lowest_eer, which needs a development EER, but "
            "`dev_speakers` is 0; hold out speakers, or set `select` to "
            "average."
        )


def average_last(checkpointer, modules, count):
    """Loads the average of the checkpoints of the last epochs.

    The epochs follow each other: where the checkpoint of one is gone, earlier
    ones, such as that of the best epoch, do not count.

    Arguments
    ---------
    checkpointer : speechbrain.utils.checkpoints.Checkpointer
        Finds the checkpoints; those within an epoch do not count.
    modules : dict of torch.nn.Module
        The modules to load, by their names in the checkpoints. None of them
        is split.
    count : int
        Number of epochs; fewer if there are not so many. Each checkpoint has
        the ``epoch`` in its meta.

    Returns
    -------
    int
        Number of checkpoints that were averaged.

    Raises
    ------
    ValueError
        If there is no checkpoint, or ``count`` is below 1.

    Example
    -------
    >>> import torch
    >>> from speechbrain.utils.checkpoints import Checkpointer
    >>> layer = torch.nn.Linear(2, 3)
    >>> checkpointer = Checkpointer(getfixture("tmp_path"), {"layer": layer})
    >>> _ = checkpointer.save_checkpoint(meta={"epoch": 1})
    >>> average_last(checkpointer, {"layer": layer}, 10)
    1
    """
    if count < 1:
        raise ValueError(f"`count` must be at least 1, got {count}.")
    found = checkpointer.find_checkpoints(
        importance_key=checkpoint_order,
        ckpt_predicate=lambda checkpoint: checkpoint.meta["end-of-epoch"],
    )
    epochs = {}  # one checkpoint an epoch: there may be copies of a user's
    for checkpoint in found:
        epochs.setdefault(checkpoint.meta["epoch"], checkpoint)
    last = [
        checkpoint
        for place, (epoch, checkpoint) in enumerate(epochs.items())
        if epoch == found[0].meta["epoch"] - place
    ][:count]
    if not last:
        raise ValueError(
            f"{checkpointer.checkpoints_dir} has no checkpoint of a whole "
            "epoch to average; train at least one epoch."
        )
    for name, module in modules.items():
        state = average_checkpoints(
            last, name, lambda path, map_location: read_tensors(path)
        )
        module.load_state_dict(state)
    return len(last)


def load_selected(checkpointer, modules, select, count):
    """Loads the weights to export, and logs which ones.

    Arguments
    ---------
    checkpointer : speechbrain.utils.checkpoints.Checkpointer
        Finds the checkpoints.
    modules : dict of torch.nn.Module
        Same as in ``average_last``.
    select : str
        "average" of the last epochs, or "lowest_eer": the epoch whose
        development EER is the lowest.
    count : int
        Number of checkpoints of the average.

    Returns
    -------
    speechbrain.utils.checkpoints.Checkpoint
        The checkpoint of the lowest EER; None if no checkpoint has an EER.

    Raises
    ------
    ValueError
        If there is no such checkpoint.

    Example
    -------
    >>> import torch
    >>> from speechbrain.utils.checkpoints import Checkpointer
    >>> layer = torch.nn.Linear(2, 3)
    >>> checkpointer = Checkpointer(getfixture("tmp_path"), {"layer": layer})
    >>> for epoch, eer in ((1, 0.1), (2, 0.2)):
    ...     meta = {"epoch": epoch, "EER": eer}
    ...     _ = checkpointer.save_checkpoint(meta)
    >>> best = load_selected(checkpointer, {"layer": layer}, "lowest_eer", 10)
    >>> best.meta["epoch"]
    1
    """
    best = checkpointer.find_checkpoint(min_key="EER")
    if select == "average":
        made = average_last(checkpointer, modules, count)
        fewer = f"; {count} were asked for" if made < count else ""
        logger.info(
            f"Exported: the average of the last {made} epoch(s){fewer}."
        )
        return best
    if best is None:
        raise ValueError(
            f"{checkpointer.checkpoints_dir} has no checkpoint with a "
            "development EER, which `select` needs; set `select` to average."
        )
    for name, module in modules.items():
        module.load_state_dict(read_tensors(best.paramfiles[name]))
    logger.info(
        f"Exported: epoch {best.meta['epoch']}, the best. Development EER: "
        f"{100 * best.meta['EER']:.2f} %."
    )
    return best
