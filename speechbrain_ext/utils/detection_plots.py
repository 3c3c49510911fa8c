"""A plot of how well scores find wrong labels."""

import pathlib

import numpy as np

from speechbrain_ext.utils.metrics import ROC_AUC
from speechbrain_ext.utils.plots import (
    COLOURS,
    FONT_SIZE,
    LINES,
    new_figure,
    save_figure,
)


def label_detection_plot(scores, wrong, path):
    """Draws how well each score finds the wrong labels.

    The left panel shows the share of wrong labels that are found against the
    share of right labels that are lost with them (ROC). The right panel shows
    the share of wrong labels among those that are dropped; a line marks the
    share that is wrong in all.

    Arguments
    ---------
    scores : dict
        Maps a name to the scores of all utterances, low where a label is
        suspicious, [utterances].
    wrong : numpy.ndarray
        Whether each label is wrong, [utterances].
    path : str | pathlib.Path
        File to write atomically; its folder is created.

    Returns
    -------
    figure : matplotlib.figure.Figure
        The figure, for a logger.

    Raises
    ------
    ValueError
        If there is no score, or all labels are right or all are wrong.

    Example
    -------
    >>> path = getfixture("tmp_path") / "scores.png"
    >>> wrong = np.array([False, True, False, False])
    >>> figure = label_detection_plot({"a": [0.9, 0.1, 0.8, 0.7]}, wrong, path)
    >>> figure.legends[0].get_texts()[0].get_text()
    'a: AUC 1.000'
    """
    wrong = np.asarray(wrong, dtype=bool)
    if not scores or not 0 < wrong.sum() < len(wrong):
        raise ValueError(
            "A plot needs at least one score, and both right and wrong "
            f"labels, got {len(scores)} scores and {wrong.sum()} wrong labels "
            f"of {len(wrong)}."
        )
    figure = new_figure((9.0, 4.6))
    roc, precision = figure.subplots(1, 2)
    handles, texts = [], []
    for i, (name, values) in enumerate(scores.items()):
        values = np.asarray(values, dtype=float)
        style = {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": LINES[i % len(LINES)],
            "linewidth": 1.6,
        }
        dropped, found = _cumulated(values, wrong)
        lost = (dropped - found) / (~wrong).sum()
        roc.plot(100 * lost, 100 * found / wrong.sum(), **style)
        # the first few make the line jump
        shown = dropped >= max(1, 0.005 * len(wrong))
        handles += precision.plot(
            100 * dropped[shown] / len(wrong),
            100 * found[shown] / dropped[shown],
            **style,
        )
        area = ROC_AUC(values[~wrong], values[wrong])
        texts.append(f"{name}: AUC {area:.3f}")
    roc.plot([0, 100], [0, 100], color="0.75", linestyle="--", zorder=1)
    rate = 100 * wrong.mean()
    precision.axvline(rate, color="0.5", linewidth=1)
    precision.axhline(rate, color="0.75", linestyle="--", zorder=1)
    _label(roc, "Right labels that are lost (%)", "Wrong labels found (%)")
    _label(precision, "Labels dropped (%)", "Wrong among the dropped (%)")
    legend = figure.legend(
        handles,
        texts,
        loc="outside lower center",
        ncols=3,
        fontsize=FONT_SIZE,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    save_figure(figure, pathlib.Path(path))
    return figure


def _cumulated(values, wrong):
    """How many are dropped, and wrong among them, at each threshold."""
    order = np.argsort(values, kind="stable")
    last = np.flatnonzero(np.append(np.diff(values[order]) > 0, True))
    found = np.cumsum(wrong[order])[last]
    return np.append(0, last + 1), np.append(0, found)


def _label(axes, across, up):
    axes.set_xlabel(across, fontsize=FONT_SIZE + 1)
    axes.set_ylabel(up, fontsize=FONT_SIZE + 1)
    axes.set(xlim=(0, 100), ylim=(0, 101))
    axes.tick_params(labelsize=FONT_SIZE)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
