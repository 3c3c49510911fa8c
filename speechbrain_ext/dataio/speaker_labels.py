"""Class numbers of speakers."""

import ast
import contextlib
import hashlib
import pathlib
import re

import numpy as np
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils import checkpoints
from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.dataio.corpus import SEPARATOR
from speechbrain_ext.dataio.label_noise_report import labels_fingerprint
from speechbrain_ext.dataio.text_files import read_text, shorten
from speechbrain_ext.utils.files import atomic_path
from speechbrain_ext.utils.journal import is_own

EXTRAS = CategoricalEncoder.EXTRAS_SEPARATOR  # ends the labels of a map


def speaker_classes(speakers, encoder, path, start_from=None, speeds=(1.0,)):
    """Numbers the speakers; a resumed run has the same numbers.

    A speaker at another speed is another class. The label map has the speakers
    of ``start_from`` first, then the others, sorted. It is written to
    ``path``. A map that is already there must have the same order.

    Arguments
    ---------
    speakers : pandas.Series
        The speaker of every utterance.
    encoder : speechbrain.dataio.encoder.CategoricalEncoder
        The label map, empty; filled in place.
    path : str
        Where the run keeps its label map.
    start_from : str
        A pretrained folder, such as training exports. Its map is used, so
        that its classifier fits, also if it has more speakers; new speakers are
        added. A map that has none of the speakers is ignored.
    speeds : list of float
        The speeds; 1 is the original one.

    Returns
    -------
    numpy.ndarray
        Shape [utterances, speeds], whole numbers from 0.

    Raises
    ------
    FileExistsError
        If ``path`` has a file that this project did not write.
    OSError
        If a label map cannot be read or written.
    ValueError
        If there are fewer than two speakers, a name cannot be a label,
        ``start_from`` lacks its label map, or the label map that is there is
        broken or has other speakers.

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
    wanted, there = _wanted_labels(speakers, path, start_from, speeds)
    encoder.lab2ind.clear()
    encoder.ind2lab.clear()
    encoder.update_from_iterable(wanted)
    encoder.expect_len(len(encoder))
    if if_main_process() and not there:
        with atomic_path(path) as temporary:
            encoder.save(temporary)
    rows = {
        name: [encoder.encode_label(_label(name, speed)) for speed in speeds]
        for name in set(speakers)
    }
    return np.array([rows[name] for name in speakers])


def require_same_labels(folder, start_from, speeds, manifest):
    """Raises if the labels are not those of the checkpoints in a folder.

    Arguments
    ---------
    folder : str
        Where the run keeps its label map and its checkpoints.
    start_from : str
        A pretrained folder or None, see ``speaker_classes``.
    speeds : list of float
        The speeds; 1 is the original one.
    manifest : pandas.DataFrame
        The training data; columns ID and spk_id.

    Raises
    ------
    OSError
        If a label map cannot be read.
    ValueError
        If an utterance was added or removed, or has another label. A
        checkpoint of an older version tells the speakers only.

    Example
    -------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"ID": ["a/1", "b/1"], "spk_id": ["a", "b"]})
    >>> require_same_labels(getfixture("tmp_path"), None, [1.0], table)
    """
    path, here = pathlib.Path(folder, "label_encoder.txt"), None
    _wanted_labels(manifest["spk_id"], path, start_from, speeds)
    for saved in sorted(path.parent.glob("CKPT+*/label_map.ckpt")):
        same = True
        # damaged checkpoints are handled when they are loaded
        with contextlib.suppress(OSError, ValueError):
            _, labels = read_text(saved, "label map").splitlines()
            here = here or _digest(manifest)
            same = labels == here or len(labels) < len(here)
        if not same:
            raise ValueError(
                f"{saved.parent} was trained with other labels: an utterance "
                "was added or removed, or has another speaker. Restore its "
                "data to resume it, or pass another --output_folder."
            )


def known_classes(speakers, encoder, speeds=(1.0,)):
    """Class numbers of speakers who may be unknown.

    Arguments
    ---------
    speakers : pandas.Series
        The speaker of every utterance.
    encoder : speechbrain.dataio.encoder.CategoricalEncoder
        The label map, filled.
    speeds : list of float
        The speeds; 1 is the original one.

    Returns
    -------
    numpy.ndarray
        Shape [utterances, speeds]; -1 for a speaker who is not in the map.

    Example
    -------
    >>> import pandas as pd
    >>> from speechbrain.dataio.encoder import CategoricalEncoder
    >>> encoder = CategoricalEncoder()
    >>> encoder.update_from_iterable(["a", "b"])
    >>> known_classes(pd.Series(["b", "x"]), encoder).tolist()
    [[1], [-1]]
    """
    rows = {
        name: [encoder.lab2ind.get(_label(name, speed), -1) for speed in speeds]
        for name in set(speakers)
    }
    return np.array([rows[name] for name in speakers])


def read_label_map(path):
    """Reads the labels from a label map of SpeechBrain.

    Arguments
    ---------
    path : str | pathlib.Path
        ``label_encoder.txt`` of a training, or ``label_encoder.ckpt`` of a
        pretrained folder.

    Returns
    -------
    list of str
        The labels in the order of their numbers: speakers, and
        ``speaker#speed0.9`` if training had several speeds.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be read.
    ValueError
        If it is cut short, a line is broken, or a label or number is missing
        or comes twice.

    Example
    -------
    >>> path = getfixture("tmp_path") / "label_encoder.txt"
    >>> lines = "'id1' => 0\\n'id2' => 1\\n"
    >>> lines += f"{EXTRAS}'starting_index' => 0\\n"
    >>> _ = path.write_text(lines)
    >>> read_label_map(path)
    ['id1', 'id2']
    """
    labels = {}
    text, found, extras = read_text(path, "label map").partition(EXTRAS)
    if not found or "starting_index" not in extras:
        raise ValueError(
            f"The label map {path} is cut short: it does not end with "
            f"`{EXTRAS.strip()}` and the starting index; {_remedy(path)}"
        )
    for number, line in enumerate(text.splitlines(), start=1):
        match = re.fullmatch(f"(.*){SEPARATOR}([0-9]{{1,9}})", line)
        try:
            label = match and ast.literal_eval(match[1])
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            label = None
        if not isinstance(label, str) or label in labels:
            again = isinstance(label, str) and ", for the second time"
            raise ValueError(
                f"The label map {path} is broken in line {number}: "
                f"`{shorten(line)}` must be `'speaker'{SEPARATOR}number`, each "
                f"speaker once{again or ''}; {_remedy(path)}"
            )
        if int(match[2]) != len(labels):
            raise ValueError(
                f"The label map {path} is broken in line {number}: "
                f"`{shorten(line)}` must have the number {len(labels)}, since "
                f"numbers count from 0; {_remedy(path)}"
            )
        labels[label] = None
    return list(labels)


def label_map_path(folder):
    """The file of the label map in a pretrained folder.

    Arguments
    ---------
    folder : str | pathlib.Path
        The folder.

    Returns
    -------
    pathlib.Path
        ``label_encoder.ckpt``, or ``label_encoder.txt`` as in SpeechBrain's
        own pretrained folders.

    Raises
    ------
    ValueError
        If the folder has neither.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "label_encoder.txt").write_text("")
    >>> label_map_path(folder).name
    'label_encoder.txt'
    """
    path = pathlib.Path(folder, "label_encoder.ckpt")
    for found in (path, path.with_suffix(".txt")):
        if found.exists():
            return found
    if not path.parent.is_dir():
        raise ValueError(
            f"`start_from` {path.parent} is not a folder; check its path."
        )
    raise ValueError(
        f"`start_from` must be a pretrained folder with a label map, but "
        f"{path} does not exist; train the first stage first, or pass "
        "--head_from=means or --head_from=random."
    )


@checkpoints.register_checkpoint_hooks
class LabelMapCheck:
    """Stores digests of the labels in checkpoints, and checks the label map.

    ``require_same_labels`` checks the labels of the utterances.

    Arguments
    ---------
    encoder : speechbrain.dataio.encoder.CategoricalEncoder
        The label map.
    manifest : pandas.DataFrame
        The training data, whose labels get a digest too; columns ID and
        spk_id. None for no digest.

    Example
    -------
    >>> from speechbrain.dataio.encoder import CategoricalEncoder
    >>> one, other = CategoricalEncoder(), CategoricalEncoder()
    >>> one.update_from_iterable(["a", "b"])
    >>> other.update_from_iterable(["b", "a"])
    >>> path = getfixture("tmp_path") / "label_map"
    >>> LabelMapCheck(one)._save(path)
    >>> LabelMapCheck(other)._recover(path, end_of_epoch=True)
    Traceback (most recent call last):
    ValueError: The checkpoint was trained with another label map (2 ...
    """

    def __init__(self, encoder, manifest=None):
        self.encoder = encoder
        self.labels = ""
        if manifest is not None:
            self.labels = f"{_digest(manifest)}\n"

    def _said(self):
        labels = "\n".join(map(str, self.encoder.lab2ind))
        digest = hashlib.sha256(labels.encode()).hexdigest()
        return f"{len(self.encoder)} {digest}\n"

    @checkpoints.mark_as_saver
    def _save(self, path):
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(self._said() + self.labels)

    @checkpoints.mark_as_loader
    def _recover(self, path, end_of_epoch):
        with open(path, encoding="utf-8") as stream:
            said = stream.readline()
        if said != self._said():
            raise ValueError(
                "The checkpoint was trained with another label map "
                f"({said.split()[0]} labels, here {len(self.encoder)}): the "
                "classes are of other speakers, or in another order."
            )


def _digest(manifest):
    return labels_fingerprint(manifest["ID"], manifest["spk_id"])


def _wanted_labels(speakers, path, start_from, speeds):
    """The labels of a run, and whether a label map that counts has them."""
    names = sorted(set(speakers))
    labels = [_label(name, speed) for speed in speeds for name in names]
    _check_labels(names, labels)
    wanted = _started(start_from, labels) if start_from else labels
    # without a checkpoint nothing depends on the map of an earlier attempt
    begun = any(path.parent.glob("*CKPT*")) or not is_own(path)
    there = path.exists() and begun
    if there:
        _check_same(path, read_label_map(path), wanted)
    return wanted, there


def _remedy(path):
    """What to do about a broken label map."""
    if pathlib.Path(path).suffix == ".ckpt":
        return "take the folder from a copy, or train and export it again."
    return "delete this file and start again: it is made again from the data."


def _check_labels(names, labels):
    """Raises where speakers cannot be classes."""
    if len(names) < 2:
        raise ValueError(
            f"Training needs at least two speakers, but the data has "
            f"{len(names)} ({shorten(', '.join(names))}); if it has more, say "
            "how its files lie with --layout, or list them with --file_list."
        )
    for name in names:
        if SEPARATOR in name or "\n" in name or "\r" in name:
            raise ValueError(
                f"The speaker {shorten(repr(name))} has `{SEPARATOR}` or a "
                "line break in its name, which a label map cannot hold; rename "
                "the speaker."
            )
    if len(set(labels)) < len(labels):
        twice = next(x for n, x in enumerate(labels) if x in set(labels[:n]))
        raise ValueError(
            f"The speaker {shorten(twice)} has the name that another speaker "
            "has at another speed; rename it, or set `speeds` to [1.0]."
        )


def _started(folder, labels):
    """The labels of a folder, if it has any of ours, and the new ones."""
    known = read_label_map(label_map_path(folder))
    taken = set(known)
    if taken.isdisjoint(labels):
        return labels
    return [*known, *(label for label in labels if label not in taken)]


def _check_same(path, known, wanted):
    """Raises where the label map of a run does not match its data."""
    unknown = sorted(set(wanted).difference(known))
    if unknown or len(known) != len(wanted):
        raise ValueError(
            f"The label map {path} has {len(known)} speakers, the data "
            f"{len(wanted)} ({len(unknown)} unknown, "
            f"{shorten(unknown[:3])}): they do not fit. Train into another "
            "output_folder, or delete this one."
        )
    if known != wanted:
        place = next(n for n, label in enumerate(wanted) if label != known[n])
        raise ValueError(
            f"The label map {path} has the speakers of the data in another "
            f"order: number {place} is {shorten(known[place])}, and should be "
            f"{shorten(wanted[place])}. A checkpoint's classes would be of "
            "other speakers; delete this file and start again: it is made "
            "again from the data."
        )


def _label(name, speed):
    return name if speed == 1 else f"{name}#speed{speed}"
