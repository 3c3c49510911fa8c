"""Class numbers of speakers."""

import pathlib

import numpy as np
from speechbrain.utils.distributed import if_main_process


def speaker_classes(speakers, encoder, path, start_from=None, speeds=(1.0,)):
    """Class numbers by the label map, which a resumed run shares.

    A speaker at another speed is another speaker. The map is read from
    ``path`` where it is there, else made of the sorted speakers and written.

    Arguments
    ---------
    speakers : pandas.Series
        The speaker of every utterance.
    encoder : speechbrain.dataio.encoder.CategoricalEncoder
        The label map, empty; filled in place.
    path : str
        Where the run keeps its label map.
    start_from : str
        A folder that training exported: its map is taken, which may know
        more speakers than there are here, so that its head can be kept, and
        speakers that it lacks are added. A map that knows none of them is
        left.
    speeds : list of float
        The speeds, 1 being as spoken.

    Returns
    -------
    numpy.ndarray
        Shape [utterances, speeds], whole numbers from 0.

    Raises
    ------
    ValueError
        If a label map is there and does not fit the speakers.

    Example
    -------
    >>> import pandas as pd
    >>> from speechbrain.dataio.encoder import CategoricalEncoder
    >>> encoder, path = CategoricalEncoder(), getfixture("tmp_path") / "map"
    >>> speaker_classes(pd.Series(["b", "a"]), encoder, path, None, (1, 0.9))
    array([[1, 3],
           [0, 2]])
    """
    path = pathlib.Path(path)
    known = path
    if start_from:
        known = pathlib.Path(start_from, "label_encoder.ckpt")
        if not known.exists():
            raise ValueError(
                f"`start_from` must be a folder that training exported, but "
                f"{known} does not exist; train the first stage first."
            )
    names = sorted(set(speakers))
    labels = [_label(name, speed) for speed in speeds for name in names]
    if known.exists():
        encoder.load(known)
    unknown = [label for label in labels if label not in encoder.lab2ind]
    if start_from or not known.exists():
        if len(unknown) == len(labels):
            encoder.lab2ind.clear()
            encoder.ind2lab.clear()
        encoder.update_from_iterable(unknown)
    elif unknown or len(encoder) != len(labels):
        raise ValueError(
            f"The label map {known} has {len(encoder)} speakers, the data "
            f"{len(labels)} ({len(unknown)} unknown, {unknown[:3]}): "
            "they do not fit. Train into another output_folder, or "
            "delete this one."
        )
    encoder.expect_len(len(encoder))
    if if_main_process() and not path.exists():
        encoder.save(path)
    rows = {
        name: [encoder.encode_label(_label(name, speed)) for speed in speeds]
        for name in names
    }
    return np.array([rows[name] for name in speakers])


def _label(name, speed):
    return name if speed == 1 else f"{name}#speed{speed}"
