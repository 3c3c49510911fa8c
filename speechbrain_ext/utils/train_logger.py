"""Training logs with one entry per epoch: text, TensorBoard, JSON lines."""

import datetime
import importlib.util
import json
import logging
import os
import warnings

from speechbrain.utils.distributed import if_main_process, main_process_only
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.files import atomic_write, require_own

# SpeechBrain's module warns at import that torchvision is missing, which is
# needed only to log images
logging.getLogger("speechbrain.utils.train_logger").addFilter(
    lambda record: "torchvision" not in record.getMessage()
)

from speechbrain.utils.train_logger import (  # noqa: E402
    FileTrainLogger,
    TensorboardLogger,
    TrainLogger,
)

logger = get_logger(__name__)

# Libraries that log hundreds of lines at level DEBUG
CHATTY = ("matplotlib", "filelock", "PIL")


def quiet_libraries():
    """Removes messages of other libraries that say nothing to a user.

    These are debug messages and two warnings: of a loss without parameters
    that is saved, and of more DataLoader workers than cores. Other warnings
    and all messages of this project stay.

    Example
    -------
    >>> quiet_libraries()
    >>> logging.getLogger("matplotlib.font_manager").isEnabledFor(10)
    False
    """
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.INFO)
    # It lists all installed packages, which are in env.log. SpeechBrain resets
    # the level of this logger, so a filter is needed.
    logging.getLogger("speechbrain.utils.superpowers").addFilter(_above_debug)
    logging.getLogger("speechbrain.utils.checkpoints").addFilter(_not_empty)
    # the recipe chooses the number, and the log names it
    warnings.filterwarnings("ignore", "This DataLoader will create")


def open_loggers(folder, text_logger):
    """The loggers of a training: text, a history, and TensorBoard.

    The history, ``epochs.jsonl``, and the files of TensorBoard, if it is
    installed, are written by the main process.

    Arguments
    ---------
    folder : str | pathlib.Path
        The output folder.
    text_logger : speechbrain.utils.train_logger.TrainLogger
        The text log, from the YAML.

    Returns
    -------
    list of speechbrain.utils.train_logger.TrainLogger
        The loggers.

    Raises
    ------
    FileExistsError
        If the folder has a history, or a picture of it (``training.png``,
        ``label_noise.png``), that this project did not write.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> loggers = open_loggers(folder, EpochLogger(folder / "train_log.txt"))
    >>> [type(logger).__name__ for logger in loggers[:2]]
    ['EpochLogger', 'HistoryLogger']
    """
    loggers = [text_logger]
    if if_main_process():
        for picture in ("training.png", "label_noise.png"):
            require_own(os.path.join(folder, picture))
        loggers.append(HistoryLogger(os.path.join(folder, "epochs.jsonl")))
        if importlib.util.find_spec("tensorboard"):
            events = os.path.join(folder, "tensorboard")
            loggers.append(EpochTensorboardLogger(events))
    return loggers


def _above_debug(record):
    return record.levelno > logging.DEBUG


def _not_empty(record):
    return "Saving an empty state_dict" not in record.getMessage()


class EpochLogger(FileTrainLogger):
    """SpeechBrain's text log with lines that are easy to read.

    ``epochs`` and ``seconds left`` in the meta information are written as
    ``epoch: 3/15`` and ``0:12:30 left``. The rest has SpeechBrain's format, but
    the name of each data set appears only once.

    Arguments
    ---------
    save_file : str
        The file to append lines to.
    precision : int
        Number of decimals. Numbers below 1 have ``precision + 1`` significant
        digits.

    Example
    -------
    >>> log = EpochLogger(getfixture("tmp_path") / "log.txt", precision=4)
    >>> meta = {"epoch": 3, "epochs": 15, "lr": 0.08, "seconds left": 750.0}
    >>> log.line(meta, {"loss": 4.2, "utterances/s": 812}, {"EER": 8.4})
    'epoch: 3/15, lr: 0.08 - train loss: 4.2000, utterances/s: 812 - \
valid EER: 8.4000 - 0:12:30 left'
    """

    def _item_to_string(self, key, value, dataset=None):
        if isinstance(value, float):
            kind = "f" if abs(value) >= 1 else "g"
            digits = self.precision + (kind == "g")
            value = f"{value:.{digits}{kind}}"
        return f"{dataset + ' ' if dataset else ''}{key}: {value}"

    def _stats_to_string(self, stats, dataset=None):
        items = [self._item_to_string(*item) for item in stats.items()]
        return (f"{dataset} " if dataset else "") + ", ".join(items)

    def line(self, stats_meta, train_stats=None, valid_stats=None):
        """Formats the line of an epoch.

        Arguments
        ---------
        stats_meta : dict
            ``epoch`` and other information about it.
        train_stats : dict
            Training statistics, by name.
        valid_stats : dict
            Validation statistics, by name.

        Returns
        -------
        str
            The line.
        """
        meta = dict(stats_meta)
        epochs, left = meta.pop("epochs", None), meta.pop("seconds left", 0)
        if epochs is not None:
            meta["epoch"] = f"{meta['epoch']}/{epochs}"
        parts = [self._stats_to_string(meta)]
        for dataset, stats in (("train", train_stats), ("valid", valid_stats)):
            if stats:
                parts.append(self._stats_to_string(stats, dataset))
        if left:
            parts.append(f"{datetime.timedelta(seconds=round(left))} left")
        return " - ".join(parts)

    @main_process_only
    def log_stats(
        self, stats_meta, train_stats=None, valid_stats=None, verbose=True
    ):
        """Appends the line of an epoch to the file.

        Overrides
        ``speechbrain.utils.train_logger.FileTrainLogger.log_stats``; see
        there.
        """
        line = self.line(stats_meta, train_stats, valid_stats)
        with open(self.save_file, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        if verbose:
            logger.info(line)


class EpochTensorboardLogger(TensorboardLogger):
    """SpeechBrain's TensorBoard log with epochs as steps.

    SpeechBrain's own counts its calls, and starts again when a run resumes.

    Arguments
    ---------
    save_dir : str
        Folder of the event files.

    Raises
    ------
    ImportError
        If TensorBoard is not installed.
    """

    @main_process_only
    def log_stats(
        self, stats_meta, train_stats=None, valid_stats=None, verbose=False
    ):
        """Writes the numbers of an epoch, which is counted from 1.

        Overrides
        ``speechbrain.utils.train_logger.TensorboardLogger.log_stats``; see
        there.
        """
        done = stats_meta["epoch"] - 1
        self.global_step = {
            "meta": done,
            "train": dict.fromkeys(train_stats or {}, done),
            "valid": dict.fromkeys(valid_stats or {}, done),
        }
        skipped = ("epochs", "seconds left")
        meta = {k: v for k, v in stats_meta.items() if k not in skipped}
        super().log_stats(meta, train_stats, valid_stats)
        self.writer.flush()  # so that a killed run keeps its curves


class HistoryLogger(TrainLogger):
    """Writes the statistics of all epochs to one file, atomically.

    If an epoch is trained again, its line replaces the old one and all later
    lines.

    Arguments
    ---------
    save_file : str
        The file.

    Raises
    ------
    FileExistsError
        If the file exists and this project did not write it.

    Example
    -------
    >>> history = HistoryLogger(getfixture("tmp_path") / "epochs.jsonl")
    >>> history.log_stats({"epoch": 1, "lr": 0.1}, {"loss": 4.5}, {"EER": 9.0})
    >>> history.log_stats({"epoch": 1, "lr": 0.1}, {"loss": 4.0}, {"EER": 8.0})
    >>> read_history(history.save_file)
    [{'epoch': 1, 'lr': 0.1, 'train loss': 4.0, 'valid EER': 8.0}]
    """

    def __init__(self, save_file):
        require_own(save_file)
        self.save_file = save_file

    @main_process_only
    def log_stats(
        self, stats_meta, train_stats=None, valid_stats=None, verbose=False
    ):
        """Writes the numbers of an epoch, which is counted from 1.

        Overrides ``speechbrain.utils.train_logger.TrainLogger.log_stats``; see
        there.
        """
        row = dict(stats_meta)
        row |= {f"train {key}": v for key, v in (train_stats or {}).items()}
        row |= {f"valid {key}": v for key, v in (valid_stats or {}).items()}
        try:
            require_own(self.save_file)
            rows = read_history(self.save_file)
            rows = [old for old in rows if old["epoch"] < row["epoch"]]
            with atomic_write(self.save_file) as file:
                file.writelines(json.dumps(r) + "\n" for r in [*rows, row])
        except FileExistsError as error:  # edited meanwhile; training goes on
            logger.warning(
                f"Epoch {row['epoch']} was not added to the history: {error}"
            )


def read_history(path):
    """Reads the statistics that ``HistoryLogger`` has written.

    Arguments
    ---------
    path : str | pathlib.Path
        The file; it may be missing.

    Returns
    -------
    list of dict
        One dict per epoch, in order.

    Example
    -------
    >>> read_history(getfixture("tmp_path") / "epochs.jsonl")
    []
    """
    if not os.path.isfile(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]
