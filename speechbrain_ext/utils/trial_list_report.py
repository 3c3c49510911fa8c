"""Metrics, pictures and report section of one trial list."""

import pathlib

from speechbrain_ext.utils.conditions import condition_tables
from speechbrain_ext.utils.evaluation import (
    evaluate,
    evaluation_notes,
    log_notes,
    metric_functions,
)
from speechbrain_ext.utils.plots import det_plot, histogram_plot
from speechbrain_ext.utils.verification_report import (
    MAIN,
    decision_thresholds,
    interval_words,
    list_counts,
    list_section,
)


class TrialListReport:
    """Collects the results of one trial list, scoring by scoring.

    Arguments
    ---------
    folder : pathlib.Path
        The output folder, for pictures.
    path : pathlib.Path
        The trial list.
    trials : pandas.DataFrame
        enrol, test and target, as ``read_trials`` returns them.
    seen : dict
        What ``seen_speakers`` counted; None where this is not known.
    notes : sequence of str
        Remarks on every result.
    p_targets : sequence of float
        Priors of the detection costs.
    bootstrap : speechbrain_ext.utils.bootstrap.SpeakerBootstrap
        Draws of the list's speakers; None for no intervals.
    confidence : float
        Share of the draws in an interval.

    Attributes
    ----------
    rows : list of dict
        A row of results for each scoring, see ``results_table``.
    main : tuple
        Label and scores of the main scoring: AS-norm, else the first.
    counts : dict
        What ``list_counts`` returned; set by ``finish``.
    section : tuple
        Heading and parts, for ``write_report``; set by ``finish``.

    Example
    -------
    >>> import numpy as np, pandas as pd, pathlib
    >>> trials = {"enrol": "a/1", "test": ["a/2", "b/1"]}
    >>> trials = pd.DataFrame({**trials, "target": [True, False]})
    >>> folder = getfixture("tmp_path")
    >>> report = TrialListReport(folder, pathlib.Path("O.txt"), trials)
    >>> report.add("cosine", "cosine", np.array([0.9, 0.1]))
    >>> report.rows[0]["EER %"], report.rows[0]["scores"]
    (0.0, 'scores_O_cosine.txt')
    >>> [path.name for path in folder.rglob("*.png")]
    ['O_cosine.png']
    """

    def __init__(
        self,
        folder,
        path,
        trials,
        seen=None,
        notes=(),
        p_targets=(0.01, 0.05),
        bootstrap=None,
        confidence=0.95,
    ):
        self.folder = pathlib.Path(folder)
        self.path = path
        self.trials = trials
        self.targets = trials["target"].to_numpy(dtype=bool, copy=True)
        self.seen = seen or {"list": None}
        self.notes = list(notes)
        self.p_targets = p_targets
        self.bootstrap = bootstrap
        self.confidence = confidence
        self.rows, self.histograms, self.curves = [], [], {}
        self.main = self.counts = self.section = None
        self.tables = []

    def add(self, name, label, scores, calibrated=False, calibration=None):
        """Computes the metrics of a scoring and draws its histogram.

        Arguments
        ---------
        name : str
            Name of the scoring, for files.
        label : str
            Its label, for tables and pictures.
        scores : np.ndarray
            Scores, [trials].
        calibrated : bool
            Whether the scores are log-likelihood ratios.
        calibration : speechbrain_ext.processing.calibration.Calibration
            The one that made calibrated scores; of others the one that was
            fitted to them, None if there is none.

        Raises
        ------
        ValueError
            If a score is NaN.
        """
        functions = metric_functions(self.p_targets, calibrated)
        row = {"trials": self.path.stem, "scoring": label}
        row |= evaluate(
            scores, self.targets, functions, self.bootstrap, self.confidence
        )
        row["scores"] = f"scores_{self.path.stem}_{name}.txt"
        row["speakers"] = self.seen
        row["notes"] = self.notes + evaluation_notes(
            row, self.targets, self.seen["list"]
        )
        self.rows.append(row)
        pair = self._split(scores)
        # a calibration of the score alone has the curve of the score
        if not calibrated or len(calibration.features) > 1:
            self.curves[label] = pair
        if self.main is None or label == MAIN:
            self.main = label, scores
        picture = f"{self.path.stem}_{name}.png"
        self.histograms.append(self.folder / "histograms" / picture)
        histogram_plot(
            dict(zip(("target", "nontarget"), pair, strict=True)),
            self.histograms[-1],
            label,
            thresholds=decision_thresholds(
                row, self.p_targets, calibrated, calibration
            ),
        )

    def finish(self, speakers, models=False, conditions=None, sentences=()):
        """Logs the notes, draws the DET plot and makes the report's section.

        Arguments
        ---------
        speakers : iterable of sequence
            Speakers of the enrolment side and of the test side, [trials] each.
        models : bool
            Whether models of several utterances are enrolled.
        conditions : pandas.DataFrame
            What ``utterance_conditions`` returned; None for no such tables.
        sentences : sequence of str
            What else to say of the list.
        """
        log_notes(self.path.name, self.rows)
        picture = self.folder / f"det_{self.path.stem}.png"
        det_plot(self.curves, picture, p_targets=self.p_targets)
        self.tables = condition_tables(self.trials, conditions, *self.main)
        known = speakers if self.seen["list"] else None
        self.counts = list_counts(self.path.stem, self.trials, known, models)
        self.section = list_section(
            self.counts,
            self.rows,
            picture,
            self.histograms,
            self.tables,
            interval_words(self.bootstrap, self.confidence),
            sentences,
        )

    def _split(self, scores):
        """Scores of the target and of the nontarget trials."""
        return scores[self.targets], scores[~self.targets]


def overview_plot(reports, path):
    """Draws the DET plot of several lists, a curve each, by the main scoring.

    Of a single list it has the curves of all scorings.

    Arguments
    ---------
    reports : list of TrialListReport
        The lists.
    path : pathlib.Path
        The picture to write.

    Example
    -------
    >>> import numpy as np, pandas as pd, pathlib
    >>> trials = pd.DataFrame({"enrol": "a/1", "test": ["a/2", "b/1"]})
    >>> trials["target"] = [True, False]
    >>> folder = getfixture("tmp_path")
    >>> report = TrialListReport(folder, pathlib.Path("O.txt"), trials)
    >>> report.add("cosine", "cosine", np.array([0.9, 0.1]))
    >>> overview_plot([report], folder / "det.png")
    """
    curves = reports[0].curves
    if len(reports) > 1:
        curves = {r.path.stem: r._split(r.main[1]) for r in reports}
    det_plot(curves, path, p_targets=reports[0].p_targets)
