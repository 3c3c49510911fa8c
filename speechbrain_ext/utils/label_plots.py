"""Plots of how training treated right and wrong labels."""

import pathlib

from speechbrain_ext.utils.plots import (
    COLOURS,
    FONT_SIZE,
    LINES,
    SIZE,
    new_figure,
    save_figure,
)

# Panels, each with the figures of a history and their names in the legend
PANELS = {
    "utterances (%)": {
        "train clean accuracy": "right label, speaker recognised",
        "train wrong accuracy": "wrong label, speaker recognised",
        "train memorised": "wrong label, memorised",
    },
    "label filter (%)": {
        "train filter precision": "precision of what it drops",
        "train filter recall": "recall of what it drops",
        "train relabelled well": "new labels that are right",
    },
    "ROC AUC of its weights": {"train filter AUC": None},
    "development EER (%)": {"valid EER": None},
}


def label_noise_curves(history, path):
    """Draws what training did with right and wrong labels over the epochs.

    Arguments
    ---------
    history : list of dict
        One dict per epoch, from
        ``speechbrain_ext.utils.train_logger.read_history``.
    path : str | pathlib.Path
        File to write atomically; its folder is created.

    Returns
    -------
    figure : matplotlib.figure.Figure
        The figure, for a logger; None if the history has no figures of right
        and wrong labels, and then no file is written.

    Example
    -------
    >>> history = [{"epoch": 1, "train memorised": 2.5}]
    >>> path = getfixture("tmp_path") / "label_noise.png"
    >>> [axes.get_ylabel() for axes in label_noise_curves(history, path).axes]
    ['utterances (%)']
    >>> label_noise_curves([{"epoch": 1, "valid EER": 2.5}], path) is None
    True
    """
    known = {key for epoch in history for key in epoch}
    panels = {
        title: {key: name for key, name in lines.items() if key in known}
        for title, lines in PANELS.items()
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    if not panels.keys() - {"development EER (%)"}:
        return None
    figure = new_figure((1.3 * SIZE, 2.3 * len(panels)), dpi=150)
    every = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (title, lines) in zip(every, panels.items(), strict=True):
        for i, (key, name) in enumerate(lines.items()):
            points = [(e["epoch"], e[key]) for e in history if key in e]
            axes.plot(
                *zip(*points, strict=True),
                color=COLOURS[i],
                linestyle=LINES[i],
                marker="o" if len(history) < 40 else None,
                markersize=4,
                label=name,
            )
        axes.set_ylabel(title, fontsize=FONT_SIZE)
        axes.tick_params(labelsize=FONT_SIZE)
        axes.grid(color="0.9")
        if "%" in title and "EER" not in title:
            axes.set_ylim(-4, 104)
        if any(lines.values()):
            axes.legend(
                fontsize=FONT_SIZE - 2,
                loc="lower left",
                bbox_to_anchor=(0, 1),
                borderaxespad=0.2,
                frameon=False,
                ncols=1,
            )
    every[-1].set_xlabel("epoch", fontsize=FONT_SIZE)
    every[-1].xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, pathlib.Path(path))
    return figure
