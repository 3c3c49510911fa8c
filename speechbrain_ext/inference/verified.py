"""What a verification leaves in the pretrained folder of its encoder.

A file that cannot be written is a warning, not an error: the folder may be
read-only. A model of the Hub keeps its folder as it was downloaded.
"""

import contextlib
import pathlib

from speechbrain.utils.logger import get_logger

from speechbrain_ext.inference.downloads import HUB
from speechbrain_ext.inference.embedding_store import model_fingerprint
from speechbrain_ext.inference.model_card import add_figures
from speechbrain_ext.processing.calibration import save_calibrations
from speechbrain_ext.processing.cohort_file import save_cohort
from speechbrain_ext.utils.files import locked_folder, remove_own, require_own

logger = get_logger(__name__)


def keep_calibrations(folder, calibrations, back_end, by):
    """Saves calibrations, and the cohort that they need, beside an encoder.

    They belong together, so neither is written if one of them cannot be
    replaced, and at no time is a calibration beside another one's cohort.

    Arguments
    ---------
    folder : str | pathlib.Path
        The pretrained folder, or ``hf:owner/name``, which is left alone.
    calibrations : dict
        Calibrations by the names of their scorings.
    back_end : speechbrain_ext.processing.back_end.BackEnd
        The back end with the cohort.
    by : str
        Rows of the cohort, ``speaker`` or ``utterance``.

    Example
    -------
    >>> keep_calibrations("hf:owner/name", {}, None, "speaker")
    """
    if str(folder).startswith(HUB):
        return
    path = pathlib.Path(folder, "calibration.json")
    with _changing(folder, "calibration.json and normalization.npz"):
        require_own(pathlib.Path(folder, "normalization.npz"))
        remove_own(path)
        keep_cohort(folder, back_end, by)
        save_calibrations(path, calibrations)


def keep_figures(folder, reports):
    """Writes error rates into the model card of a pretrained folder.

    Arguments
    ---------
    folder : str | pathlib.Path
        The pretrained folder, or ``hf:owner/name``, which is left alone.
    reports : list of speechbrain_ext.utils.trial_list_report.TrialListReport
        The finished report of each trial list.

    Example
    -------
    >>> keep_figures("hf:owner/name", [])
    """
    if str(folder).startswith(HUB):
        return
    rows = [row for report in reports for row in report.rows]
    tables = [
        f"{report.path.stem}: {part}" if isinstance(part, str) else part
        for report in reports
        for part in report.tables
    ]
    with _changing(folder, "figures in its README.md"):
        add_figures(folder, rows, tables)


def keep_cohort(folder, back_end, by):
    """Saves the cohort of a back end in a pretrained folder.

    A cohort of utterances can be as large as the training set, so only one of
    speakers is saved. An older one is removed: new calibrations do not belong
    to it.

    Arguments
    ---------
    folder : str | pathlib.Path
        The pretrained folder.
    back_end : speechbrain_ext.processing.back_end.BackEnd
        The back end, which may have no cohort.
    by : str
        Rows of the cohort, ``speaker`` or ``utterance``.

    Raises
    ------
    OSError
        If the file cannot be written or is the user's.

    Example
    -------
    >>> keep_cohort(getfixture("tmp_path"), None, "utterance")
    """
    path = pathlib.Path(folder, "normalization.npz")
    if by == "speaker" and back_end.cohort is not None:
        save_cohort(path, back_end, model_fingerprint(folder))
    else:
        remove_own(path)


@contextlib.contextmanager
def _changing(folder, what):
    """Locks a folder; what cannot be written is a warning."""
    try:
        with locked_folder(folder, deep=False):
            yield
    except OSError as error:
        logger.warning(f"{folder} gets no {what}: {error}")
