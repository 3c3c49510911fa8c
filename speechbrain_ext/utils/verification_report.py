"""Content of a verification report: tables, plots and explanations."""

import math

import pandas as pd

from speechbrain_ext.utils.evaluation import is_miscalibrated
from speechbrain_ext.utils.report import Picture, Table, results_table
from speechbrain_ext.utils.training_settings import training_settings

MAIN = "AS-norm"  # the scoring in the overview, if it was computed
CALIBRATED = ("actDCF", "Cllr", "minCllr")  # metrics of calibrated scores
MEANINGS = {
    "EER": "Equal error rate: the share of errors at the threshold where "
    "false acceptances and false rejections are equally frequent. 50 % is "
    "chance.",
    "minDCF": "Detection cost at the best threshold for this list. The number "
    "after it is the prior of target trials; both errors cost 1. A system that "
    "ignores the speech has 1.",
    "actDCF": "Detection cost at the threshold that the calibrated scores "
    "imply. The difference to minDCF is the calibration loss.",
    "Cllr": "Cost of the calibrated scores over all thresholds, in bits. A "
    "system that ignores the speech has 1.",
    "minCllr": "Cllr after the best possible calibration of the same scores.",
}


def result_tables(results, caption=""):
    """Tables of one trial list: error rates, then metrics of calibration.

    There are two tables so that a DET plot has room beside the first.

    Arguments
    ---------
    results : list of dict
        Rows of the list, see ``results_table``. The ``notes`` (list of str)
        of the rows are shown below the table, with the scorings that they
        apply to unless they apply to all.
    caption : str
        Text to add to the caption, for example about the intervals.

    Returns
    -------
    list of Table
        The second table exists only if a scoring is calibrated.

    Example
    -------
    >>> row = {"trials": "O", "scoring": "cosine", "EER %": 1.0, "Cllr": 0.3}
    >>> tables = result_tables([{**row, "minCllr": 0.1}])
    >>> [list(table.frame) for table in tables]
    [['scoring', 'EER %'], ['scoring', 'Cllr', 'minCllr']]
    """
    frame = results_table(results).drop(columns="trials", errors="ignore")
    second = [name for name in frame if name.split()[0] in CALIBRATED]
    note, scorings = calibration_note(results), {}
    for row in results:
        for other in row.get("notes", ()):
            if note is None or "minCllr" not in other:  # `note` has it
                scorings.setdefault(other, []).append(row["scoring"])
    notes = [
        other if len(names) == len(results) else f"{', '.join(names)}: {other}"
        for other, names in scorings.items()
    ]
    caption = f"Error rates of each scoring. {caption}".strip()
    tables = [Table(frame.drop(columns=second), caption, notes)]
    calibrated = [i for i, row in enumerate(results) if "Cllr" in row]
    if calibrated:
        kept = frame.loc[calibrated, ["scoring", *second]]
        caption = "How well calibrated scores fit as log-likelihood ratios."
        tables.append(Table(kept, caption, [note] if note else []))
    return tables


def calibration_note(results):
    """Warns about rows whose Cllr is far above minCllr.

    Arguments
    ---------
    results : list of dict
        Rows of one list, see ``results_table``.

    Returns
    -------
    str
        A warning that lists all such rows, or None if there are none.

    Example
    -------
    >>> row = {"scoring": "cosine", "Cllr": 0.3, "minCllr": 0.1}
    >>> calibration_note([row])
    'Cllr is far above minCllr for cosine (0.300 against 0.100): the...'
    >>> calibration_note([{**row, "Cllr": 0.11}])
    """
    misfits = [
        f"{row['scoring']} ({row['Cllr']:.3f} against {row['minCllr']:.3f})"
        for row in results
        if is_miscalibrated(row)
    ]
    if not misfits:
        return None
    return (
        f"Cllr is far above minCllr for {'; '.join(misfits)}: the calibration "
        "does not fit this list, and the default threshold causes more errors "
        "than necessary. Calibrate on similar recordings."
    )


def list_counts(name, trials, speakers=None, models=False):
    """Counts the trials, speakers and utterances of a trial list.

    Arguments
    ---------
    name : str
        Name of the list.
    trials : pandas.DataFrame
        enrol, test and target, see ``read_trials``.
    speakers : iterable of sequence
        Speakers of the enrolment side and of the test side, [trials] each;
        None if they are not known.
    models : bool
        Whether the enrolment side has models made of several utterances.

    Returns
    -------
    dict
        A row of a table.

    Example
    -------
    >>> trials = {"enrol": ["a/1", "a/1"], "test": ["a/2", "b/1"]}
    >>> trials = pd.DataFrame({**trials, "target": [True, False]})
    >>> row = list_counts("O", trials, [["a", "a"], ["a", "b"]])
    >>> row["speakers"], row["utterances"]
    (2, 3)
    """
    targets = int(trials["target"].sum())
    row = {"list": name, "trials": len(trials), "target": targets}
    row["nontarget"] = len(trials) - targets
    known = speakers is not None
    row["speakers"] = len(set().union(*speakers)) if known else "-"
    utterances = set(trials["test"])
    if models:
        row["models"] = trials["enrol"].nunique()
    else:
        utterances |= set(trials["enrol"])
    row["utterances"] = len(utterances)
    return row


def decision_thresholds(row, p_targets, ratios=False, calibration=None):
    """The thresholds that a histogram of scores shows.

    Arguments
    ---------
    row : dict
        A result with the key ``EER threshold``.
    p_targets : sequence of float
        Priors of Bayes decisions; both costs are 1.
    ratios : bool
        Whether the scores are log-likelihood ratios.
    calibration : speechbrain_ext.processing.calibration.Calibration
        Calibration of scores that are not log-likelihood ratios, or None.

    Returns
    -------
    dict
        Maps names to thresholds. There is a threshold for each prior if the
        scores are log-likelihood ratios, or have an increasing calibration.

    Example
    -------
    >>> decision_thresholds({"EER threshold": 0.5}, [0.5], ratios=True)
    {'EER threshold': 0.5, 'threshold at prior 0.5': 0.0}
    """
    found = {"EER threshold": row["EER threshold"]}
    increasing = calibration is not None and (
        len(calibration.features) == 1 and calibration.weights[0] > 0
    )
    for prior in p_targets if ratios or increasing else ():
        value = math.log((1 - prior) / prior)
        if not ratios:
            value = calibration.threshold(prior)
        found[f"threshold at prior {prior}"] = value
    return found


def interval_words(bootstrap, confidence=0.95):
    """Explains the intervals in the brackets of a results table.

    Arguments
    ---------
    bootstrap : speechbrain_ext.utils.bootstrap.SpeakerBootstrap
        The draws of the list's speakers, or None.
    confidence : float
        Share of the draws inside an interval, in (0, 1).

    Returns
    -------
    str
        A sentence; ``""`` if there are no intervals.

    Example
    -------
    >>> interval_words(None)
    ''
    """
    if bootstrap is None:
        return ""
    draws, speakers = bootstrap.counts[:, :-1].shape
    return (
        f"In brackets: {100 * confidence:g} % intervals, from {draws} draws "
        f"of the {speakers} speakers."
    )


def list_section(
    row, results, det, histograms, conditions=(), caption="", sentences=()
):
    """The section of one trial list.

    Arguments
    ---------
    row : dict
        Result of ``list_counts``.
    results : list of dict
        Rows of the list, see ``results_table``.
    det : pathlib.Path
        DET plot of the list.
    histograms : list of pathlib.Path
        A picture for each row.
    conditions : sequence
        Captions and tables in turn, see ``condition_tables``.
    caption : str
        Text to add to the caption of the error rates.
    sentences : sequence of str
        Further sentences about the list.

    Returns
    -------
    tuple
        Heading and parts, for ``write_report``.

    Example
    -------
    >>> row = {"list": "O", "trials": 8, "target": 4, "nontarget": 4}
    >>> row |= {"speakers": 2, "utterances": 3}
    >>> results = [{"trials": "O", "scoring": "cosine", "EER %": 1.0}]
    >>> heading, parts = list_section(row, results, "det.png", [])
    >>> heading, parts[0][:32]
    ('O', '8 trials (4 target, 4 nontarget)')
    """
    name = row["list"]
    counts = [
        f"{row[kind]} {kind}"
        for kind in ("speakers", "models", "utterances")
        if row.get(kind, "-") != "-"
    ]
    counts = " and ".join([", ".join(counts[:-1]), counts[-1]][-len(counts) :])
    said = (
        f"{row['trials']} trials ({row['target']} target, {row['nontarget']} "
        f"nontarget) of {counts}."
    )
    systems = ", ".join(result["scoring"] for result in results)
    picture = Picture(
        det,
        "DET curves; nearer to the lower left is better. Curves that coincide "
        "share a line (\u201ca = b\u201d). A mark on the frame stands for a "
        "point outside.",
        f"DET curves of {name}: {systems}",
    )
    first, *others = result_tables(results, caption)
    pictures = [
        Picture(
            path,
            f"Scores of {name} by {result['scoring']}: EER "
            f"{result['EER %']:.2f}\u00a0%.",
            "Histogram of the scores of target and nontarget trials of "
            f"{name} by {result['scoring']}",
        )
        for path, result in zip(histograms, results, strict=False)
    ]
    tables = [
        Table(frame, sentence)
        for sentence, frame in zip(
            conditions[::2], conditions[1::2], strict=True
        )
    ]
    parts = [said, *sentences, [first, picture], *others, pictures, tables]
    return name, [part for part in parts if part]


def report_sections(results, counted, sections, det, pretrained_folder):
    """All sections of a verification report.

    Arguments
    ---------
    results : list of dict
        Rows of all lists, see ``results_table``.
    counted : list of dict
        Result of ``list_counts`` for each list.
    sections : list of tuple
        Result of ``list_section`` for each list.
    det : pathlib.Path
        DET plot with one curve per list, by AS-norm or, without it, by the
        first scoring. It is shown if there are several lists.
    pretrained_folder : str | pathlib.Path
        The encoder's folder, for its settings.

    Returns
    -------
    list of tuple
        Headings and parts, for ``write_report``.

    Example
    -------
    >>> row = {"scoring": "cosine", "EER %": 1.0}
    >>> found = report_sections([row], [{}], [("O", [])], "det.png", "encoder")
    >>> [heading for heading, _ in found]
    ['O', 'Encoder', 'What the figures mean']
    """
    overview = []
    if len(sections) > 1:
        scorings = [row["scoring"] for row in results]
        words = MAIN if MAIN in scorings else scorings[0]
        picture = Picture(
            det,
            f"DET curves of the lists by {words}.",
            f"DET curves of all trial lists by {words}",
        )
        table = Table(pd.DataFrame(counted), "What the lists consist of.")
        overview.append(("Trial lists", [[table, picture]]))
    settings = pd.DataFrame(
        training_settings(pretrained_folder).items(),
        columns=["setting", "value"],
    )
    shown = {key.split()[0] for row in results for key in row}
    explained = pd.DataFrame(
        [(name, text) for name, text in MEANINGS.items() if name in shown],
        columns=["figure", "meaning"],
    )
    return [
        *overview,
        *sections,
        ("Encoder", [Table(settings, "The encoder and its training.")]),
        ("What the figures mean", [Table(explained, "Lower is better.")]),
    ]
