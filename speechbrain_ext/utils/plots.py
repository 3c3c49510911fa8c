"""Plots: detection error trade-off (DET), histograms, training curves."""

import pathlib
import textwrap
import warnings

import numpy as np
from scipy.special import ndtri  # scipy.stats.norm.ppf

from speechbrain_ext.utils.error_curve import ErrorCurve
from speechbrain_ext.utils.files import atomic_path
from speechbrain_ext.utils.probits import (
    coincide,
    least_cost_rates,
    probit,
    probit_limits,
    thinned_probits,
)

# Rates to label, in percent. Labels that would overlap an earlier one are left
# out, so the most important come first.
TICKS = [1, 10, 40, 0.1, 0.01, 0.001, 0.0001, 90, 99, 99.9]
TICKS += [5, 20, 60, 0.5, 0.05, 0.005, 0.0005, 80, 95, 99.5]
TICKS += [2, 30, 70, 0.2, 0.02, 0.002, 0.0002, 50, 98, 99.8]
# Okabe and Ito's colours, which colour-blind people can distinguish
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# Five line styles and six colours make 30 different curves
LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
MARKERS = ("s", "^", "D", "v", "P")  # for minDCF; EER has a dot
SIZE = 5.0  # inches, width and height
DPI = 190
FONT_SIZE = 11.0  # points, 1/72 inch
MOST_INSIDE = 4  # lines of a legend inside the axes
WIDTH_INSIDE, WIDTH_BELOW = 26, 46  # characters per line, inside and below
BINS = 60


def new_figure(size, dpi=DPI):
    """Makes an empty figure.

    Arguments
    ---------
    size : tuple of float
        Width and height, inches.
    dpi : int
        Dots per inch.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, which needs no window.

    Example
    -------
    >>> new_figure((4, 2), dpi=100).dpi
    100
    """
    # here, because they take long to import, and few runs draw
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(size, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def det_plot(systems, path, title=None, p_targets=()):
    """Draws the error curves of one or more systems on probit axes.

    Normally distributed scores give straight lines (Martin et al., "The DET
    Curve in Assessment of Detection Task Performance", Eurospeech 1997). A dot
    marks each equal error rate, on the dashed diagonal. The axes range from
    one error to 50 %. They are extended up to 90 % for a higher equal error
    rate or a minDCF point. A minDCF point outside the axes is marked on the
    frame. Systems whose curves coincide share one line, labelled ``a = b``.

    Arguments
    ---------
    systems : dict
        Maps a label to (positive_scores, negative_scores), see
        ``speechbrain_ext.utils.metrics.error_curve``.
    path : str | pathlib.Path
        File to write atomically; its folder is created. The format follows
        from the suffix and defaults to PNG.
    title : str
        Title of the plot; None for no title.
    p_targets : sequence of float
        Priors whose minDCF (both costs 1) is marked on each curve.

    Returns
    -------
    figure : matplotlib.figure.Figure
        The figure, for a logger.

    Raises
    ------
    ValueError
        If there is no system, a system has no scores of a class or a score of
        NaN, a prior is outside (0, 1), or matplotlib cannot write the format.

    Example
    -------
    >>> path = getfixture("tmp_path") / "det.png"
    >>> systems = {"cosine": ([0.2, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4])}
    >>> figure = det_plot(systems, path)
    >>> figure.axes[0].get_legend().get_texts()[0].get_text()
    'cosine: EER 25.00 %'
    """
    if not systems:
        raise ValueError("`systems` must have at least one system, got 0.")
    curves, equal, costs = {}, {}, {}
    for label, (positive_scores, negative_scores) in systems.items():
        try:
            curve = ErrorCurve.from_scores(positive_scores, negative_scores)
            costs[label] = [least_cost_rates(curve, p) for p in p_targets]
        except ValueError as error:
            raise ValueError(f"system {label!r}: {error}") from error
        curves[label], equal[label] = curve.rates(), curve.eer()[0]
    names = _shared_names(curves, equal)
    figure = new_figure((SIZE, SIZE))
    axes = figure.add_subplot()
    texts = [f"{name}: EER {100 * equal[n]:.2f} %" for n, name in names.items()]
    limits = probit_limits(
        curves.values(), equal.values(), sum(costs.values(), [])
    )
    lines = _draw_curves(axes, [(curves[n], equal[n]) for n in names], limits)
    _draw_axes(axes, *limits)
    if p_targets:
        texts += ["EER", *(f"minDCF {p_target}" for p_target in p_targets)]
        lines += [_mark("o"), *(_mark(m) for m in _cycle(MARKERS, p_targets))]
        for line, label in zip(lines, names, strict=False):
            _draw_costs(axes, line.get_color(), costs[label], p_targets)
    _add_legend(figure, axes, lines, texts)
    if title is not None:
        axes.set_title(title, fontsize=FONT_SIZE + 2, parse_math=False)
    save_figure(figure, pathlib.Path(path))
    return figure


def histogram_plot(samples, path, label, title=None, thresholds=None):
    """Draws the histograms of one or more kinds of values in one plot.

    Each histogram sums to 100 %, so that kinds with few values are visible.

    Arguments
    ---------
    samples : dict
        Maps a name to its values, finite numbers.
    path : str | pathlib.Path
        File to write atomically; its folder is created.
    label : str
        Label of the axis of values.
    title : str
        Title of the plot; None for no title.
    thresholds : dict
        Maps a name to a value that is marked by a line; None for no lines.
        The legend shows the value. It also shows on which side a threshold
        outside the axes lies.

    Returns
    -------
    figure : matplotlib.figure.Figure
        The figure, for a logger.

    Raises
    ------
    ValueError
        If ``samples`` is empty, or a kind has no values.

    Example
    -------
    >>> path = getfixture("tmp_path") / "cosines.png"
    >>> samples = {"right": [0.8, 0.9], "wrong": [0.1, 0.2]}
    >>> figure = histogram_plot(samples, path, "cosine", None, {"EER": 0.5})
    >>> figure.legends[0].get_texts()[-1].get_text()
    'EER: 0.500'
    """
    values = {name: np.asarray(v, dtype=float) for name, v in samples.items()}
    if not values or not all(v.size for v in values.values()):
        raise ValueError(
            "`samples` must have at least one kind, and each kind at least "
            "one value."
        )
    from matplotlib.colors import to_rgba  # late, see `new_figure`

    edges = _bin_edges(np.concatenate(list(values.values())))
    figure = new_figure((SIZE, 0.6 * SIZE))
    axes = figure.add_subplot()
    handles, texts = [], []
    for i, (name, found) in enumerate(values.items()):
        colour = COLOURS[i % len(COLOURS)]
        *_, (patch,) = axes.hist(
            found,
            edges,
            weights=np.full(found.size, 100 / found.size),
            histtype="stepfilled",
            edgecolor=colour,
            facecolor=to_rgba(colour, 0.35),
            linestyle=LINES[i % len(LINES)],
            linewidth=1.3,
        )
        handles.append(patch)
        texts.append(f"{name} ({found.size})")
    for i, (name, value) in enumerate((thresholds or {}).items()):
        style = {"color": "0.15", "linestyle": LINES[i % len(LINES)]}
        handles.append(_line(linewidth=1.6, **style))
        side = _side(value, edges)
        texts.append(f"{name}: {value:.3f}{side}")
        if not side:
            axes.axvline(value, linewidth=1.6, gid=name, **style)
    axes.set_xlabel(label, fontsize=FONT_SIZE + 1, parse_math=False)
    axes.set_ylabel("Share of each kind (%)", fontsize=FONT_SIZE + 1)
    axes.tick_params(labelsize=FONT_SIZE)
    _add_legend(figure, axes, handles, texts, below=True)
    if title is not None:
        axes.set_title(title, fontsize=FONT_SIZE + 2, parse_math=False)
    save_figure(figure, pathlib.Path(path))
    return figure


def _bin_edges(values):
    """Edges of the bins of a histogram, [BINS + 1]."""
    low, high = float(values.min()), float(values.max())
    # scores of a collapsed network differ only in the last digits
    least = 1e-6 * max(1.0, abs(low), abs(high))
    margin = max(0.0, least - (high - low) / 2)
    return np.linspace(low - margin, high + margin, BINS + 1)


def _side(value, edges):
    """The side of a threshold that is too far outside to be drawn, or ""."""
    room = 0.3 * (edges[-1] - edges[0])
    if edges[0] - room <= value <= edges[-1] + room:
        return ""
    return " (further left)" if value < edges[0] else " (further right)"


def _shared_names(curves, equal):
    """Maps the first label of each line to all labels that share the line."""
    names = {}
    for label, curve in curves.items():
        for first in names:
            # the legend shows one EER for all of them
            same = f"{equal[label]:.4f}" == f"{equal[first]:.4f}"
            if same and coincide(curve, curves[first]):
                names[first] += f" = {label}"
                break
        else:
            names[label] = str(label)
    return names


def _draw_curves(axes, curves, limits):
    """Draws one line per curve, in order, and a dot at each EER."""
    lines = []
    # an EER of 0 is drawn at the lowest rate above 0
    rates = [np.concatenate([c[i] for c, _ in curves]) for i in range(2)]
    for i, (curve, equal) in enumerate(curves):
        colour = COLOURS[i % len(COLOURS)]
        style = {"linestyle": LINES[i % len(LINES)], "linewidth": 1.8}
        lines += axes.plot(*thinned_probits(*curve), color=colour, **style)
        x, y = (
            np.clip(probit(equal, known), *ends)
            for known, ends in zip(rates, limits, strict=True)
        )
        style = {"markersize": 7.5, "markeredgecolor": "w", "zorder": 3}
        axes.plot(x, y, "o", color=colour, **style)
    return lines


def _draw_costs(axes, colour, costs, p_targets):
    """Marks the minDCF of each prior; on the frame if it is outside."""
    markers = _cycle(MARKERS, p_targets)
    for p_target, marker, point in zip(p_targets, markers, costs, strict=True):
        x = np.clip(ndtri(point[0]), *axes.get_xlim())
        y = np.clip(ndtri(point[1]), *axes.get_ylim())
        mark = _mark(marker, colour, gid=f"minDCF {p_target}")
        mark.set(data=([x], [y]), clip_on=False, zorder=4)
        axes.add_line(mark)


def _mark(marker, colour="0.35", gid=None):
    """A marker without a line."""
    style = {"markersize": 7.5, "markeredgecolor": "w", "linestyle": ""}
    return _line(marker=marker, color=colour, gid=gid, **style)


def _line(**style):
    """A line without points, for a legend."""
    from matplotlib.lines import Line2D  # late, see `new_figure`

    return Line2D([], [], **style)


def _cycle(values, others):
    """Repeats ``values`` until there are as many as ``others``."""
    return [values[i % len(values)] for i in range(len(others))]


def _draw_axes(axes, x_limits, y_limits):
    """Sets limits, ticks in percent, labels, grid and the diagonal."""
    axes.set(xlim=x_limits, ylim=y_limits)
    _label_percents(axes.xaxis, x_limits, across=True)
    _label_percents(axes.yaxis, y_limits, across=False)
    axes.tick_params(labelsize=FONT_SIZE)
    axes.set_xlabel("False acceptance rate (%)", fontsize=FONT_SIZE + 1)
    axes.set_ylabel("False rejection rate (%)", fontsize=FONT_SIZE + 1)
    axes.set_axisbelow(True)
    axes.grid(color="0.9")
    axes.axline((0, 0), slope=1, color="0.75", linestyle="--", zorder=1)


def _label_percents(axis, limits, across):
    """Adds ticks in percent to an axis of probits; labels never overlap."""
    line = FONT_SIZE / 72
    inch = (limits[1] - limits[0]) / (0.85 * SIZE)  # in probits
    labelled, bare = {}, []
    for percent in TICKS:
        place, text = ndtri(percent / 100), f"{percent:g}"
        if not limits[0] <= place <= limits[1]:
            continue
        width = 0.6 * line * len(text) if across else line
        if all(
            abs(place - other) > inch * ((width + other_width) / 2 + line / 2)
            for other, (_, other_width) in labelled.items()
        ):
            labelled[place] = text, width
        else:
            bare.append(place)
    axis.set_ticks(list(labelled), [text for text, _ in labelled.values()])
    axis.set_ticks(bare, minor=True)


def _add_legend(figure, axes, handles, texts, below=False):
    """Adds a legend inside the axes if it is small, otherwise below them."""
    # matplotlib leaves out names that begin with an underscore
    texts = [f" {text}" if text.startswith("_") else text for text in texts]
    width = max(len(text) for text in texts)
    below |= len(texts) > MOST_INSIDE or width > WIDTH_INSIDE
    texts = [textwrap.fill(text, WIDTH_BELOW) for text in texts]
    if below:
        lines = sum(text.count("\n") + 1 for text in texts)
        more = 0.3 + 1.45 * lines * FONT_SIZE / 72
        figure.set_figheight(figure.get_figheight() + more)
    legend = (figure if below else axes).legend(
        handles,
        texts,
        loc="outside lower center" if below else "upper right",
        fontsize=FONT_SIZE,
        labelspacing=0.35,
        handlelength=2.8,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may have a dollar sign


def save_figure(figure, path):
    """Writes a figure atomically.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        The figure.
    path : pathlib.Path
        The file; its folder is created. The format follows from the suffix
        and defaults to PNG.

    Example
    -------
    >>> path = getfixture("tmp_path") / "plots" / "empty.png"
    >>> save_figure(new_figure((1, 1)), path)
    >>> path.exists()
    True
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part, warnings.catch_warnings():
        # characters that the font lacks are drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(part, format=path.suffix[1:] or "png")


def training_curves(history, path):
    """Draws loss, development EER, learning rate and margin over the epochs.

    Arguments
    ---------
    history : list of dict
        One dict per epoch, from
        ``speechbrain_ext.utils.train_logger.read_history``. A quantity that
        no epoch has gets no panel.
    path : str | pathlib.Path
        File to write atomically; its folder is created.

    Returns
    -------
    figure : matplotlib.figure.Figure
        The figure, for a logger.

    Raises
    ------
    ValueError
        If no epoch has one of these quantities.

    Example
    -------
    >>> history = [{"epoch": 1, "train loss": 4.0}, {"epoch": 2, "lr": 0.1}]
    >>> figure = training_curves(history, getfixture("tmp_path") / "t.png")
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['training loss', 'learning rate']
    """
    panels = {
        "train loss": "training loss",
        "valid EER": "development EER (%)",
        "lr": "learning rate",
        "margin": "margin",
    }
    panels = {
        key: name
        for key, name in panels.items()
        if any(key in epoch for epoch in history)
    }
    if not panels:
        raise ValueError(
            "`history` must have an epoch with a loss, an EER, a learning "
            f"rate or a margin, got {len(history)} epochs without them."
        )
    figure = new_figure((SIZE, 2 * len(panels)), dpi=150)
    every = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (i, key) in zip(every, enumerate(panels), strict=True):
        points = [(e["epoch"], e[key]) for e in history if key in e]
        style = "o-" if len(points) < 40 else "-"
        axes.plot(*zip(*points, strict=True), style, color=COLOURS[i], ms=4)
        axes.set_ylabel(panels[key], fontsize=FONT_SIZE)
        axes.tick_params(labelsize=FONT_SIZE)
        axes.grid(color="0.9")
        if key == "valid EER":
            epoch, lowest = min(points, key=lambda point: point[1])
            label = f"lowest: {lowest:.2f} %, epoch {epoch}"
            axes.plot(epoch, lowest, "ko", ms=7, mfc="none", label=label)
            axes.legend(fontsize=FONT_SIZE)
    every[-1].set_xlabel("epoch", fontsize=FONT_SIZE)
    every[-1].xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, pathlib.Path(path))
    return figure
