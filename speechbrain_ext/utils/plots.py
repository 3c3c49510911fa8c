"""Detection error trade-off (DET) plots."""

import pathlib

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.special import ndtr, ndtri  # scipy.stats.norm.cdf and ppf

from speechbrain_ext.utils.files import atomic_path
from speechbrain_ext.utils.metrics import EER, error_curve

# Rates to label, in percent, the first first where there is no room for all.
TICKS = (
    *(1, 10, 40, 0.1, 0.01, 0.001, 0.0001, 90, 99, 99.9),
    *(5, 20, 60, 0.5, 0.05, 0.005, 0.0005, 80, 95, 99.5),
    *(2, 30, 70, 0.2, 0.02, 0.002, 0.0002, 50, 98, 99.8),
)
# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
LINES = ("-", "--", "-.", ":")
SIZE = 6.0  # inches, both ways
MOST_INSIDE = 4  # systems that the legend may name inside the axes
FONT_SIZE = 11.0  # points, 72 to the inch
MOST_POINTS = 4000
LEAST_RATE = 1e-6
LEAST_SPAN = 1.5  # probits


def det_plot(systems, path, title=None):
    """Draws the error curves of one or more systems on probit axes.

    Normally distributed scores make straight lines (Martin et al., "The DET
    Curve in Assessment of Detection Task Performance", Eurospeech 1997). A dot
    marks each equal error rate, on the dashed diagonal. The axes show where
    both rates are between one error and 50 %, further where an equal error
    rate is higher.

    Arguments
    ---------
    systems : dict
        Maps a label to (positive_scores, negative_scores), each as in
        ``speechbrain_ext.utils.metrics.error_curve``.
    path : str | pathlib.Path
        File to write, whole or not at all; its folder is made. The suffix
        tells the format, PNG where there is none.
    title : str
        Title of the plot, none where None.

    Returns
    -------
    figure : matplotlib.figure.Figure
        The drawn figure, for a logger.

    Raises
    ------
    ValueError
        If there is no system, a system's scores have no error curve, or the
        suffix is not a format that matplotlib writes.

    Example
    -------
    >>> path = getfixture("tmp_path") / "det.png"
    >>> systems = {"cosine": ([0.2, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4])}
    >>> figure = det_plot(systems, path)
    >>> figure.axes[0].get_legend().get_texts()[0].get_text()
    'cosine: EER 25.00 %'
    """
    if not systems:
        raise ValueError("`systems` must hold at least one system, got 0.")
    curves, equal = {}, {}
    for label, (positive_scores, negative_scores) in systems.items():
        try:
            curves[label] = error_curve(positive_scores, negative_scores)[1:]
            equal[label] = EER(positive_scores, negative_scores)[0]
        except ValueError as error:
            raise ValueError(f"system {label!r}: {error}") from error

    # Many names would hide the curves: these go below, few in their corner.
    below = len(systems) > MOST_INSIDE
    height = SIZE + below * (0.5 + 1.5 * len(systems) * FONT_SIZE / 72)
    figure = Figure((SIZE, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_curves(axes, curves, equal)
    _draw_axes(axes, *_probit_limits(curves.values(), equal.values()))
    place = "outside lower center" if below else "upper right"
    (figure if below else axes).legend(loc=place, fontsize=FONT_SIZE)
    if title is not None:
        axes.set_title(title, fontsize=FONT_SIZE + 2)
    _save(figure, pathlib.Path(path))
    return figure


def histogram_plot(samples, path, label, title=None):
    """Draws the histograms of one or more kinds of values over each other.

    Each histogram has an area of 1, so that kinds of which there are few can
    be seen too.

    Arguments
    ---------
    samples : dict
        Maps a name to its values, finite numbers.
    path : str | pathlib.Path
        File to write, whole or not at all; its folder is made.
    label : str
        What the values are.
    title : str
        Title of the plot, none where None.

    Returns
    -------
    figure : matplotlib.figure.Figure
        The drawn figure, for a logger.

    Raises
    ------
    ValueError
        If there is no kind, or one has no values.

    Example
    -------
    >>> path = getfixture("tmp_path") / "cosines.png"
    >>> samples = {"right": [0.8, 0.9], "wrong": [0.1, 0.2]}
    >>> figure = histogram_plot(samples, path, "cosine")
    >>> path.exists()
    True
    """
    values = {name: np.asarray(v, dtype=float) for name, v in samples.items()}
    if not values or not all(v.size for v in values.values()):
        raise ValueError("`samples` must hold kinds with values each.")
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), 60)
    figure = Figure((SIZE, 0.7 * SIZE), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, (name, found) in enumerate(values.items()):
        axes.hist(
            found,
            edges,
            density=True,
            histtype="stepfilled",
            alpha=0.45,
            edgecolor=COLOURS[i % len(COLOURS)],
            facecolor=COLOURS[i % len(COLOURS)],
            label=f"{name} ({found.size})",
        )
    axes.set_xlabel(label, fontsize=FONT_SIZE + 1)
    axes.set_ylabel("density", fontsize=FONT_SIZE + 1)
    axes.set_ylim(0, axes.get_ylim()[1] * (1 + 0.12 * len(values)))  # names
    axes.tick_params(labelsize=FONT_SIZE)
    axes.legend(fontsize=FONT_SIZE)
    if title is not None:
        axes.set_title(title, fontsize=FONT_SIZE + 2)
    _save(figure, pathlib.Path(path))
    return figure


def _draw_curves(axes, curves, equal):
    """One line a system, in the order given, and a dot at each EER."""
    for i, (label, curve) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(
            *_thinned(*curve),
            color=colour,
            linestyle=LINES[i // len(COLOURS) % len(LINES)],
            linewidth=1.8,
            label=f"{label}: EER {100 * equal[label]:.2f} %",
        )
        x, y = (_probit(equal[label], rates) for rates in curve)
        style = {"markersize": 7, "markeredgecolor": "w", "zorder": 3}
        axes.plot(x, y, "o", color=colour, **style)


def _draw_axes(axes, x_limits, y_limits):
    """Limits, ticks in percent, names, grid and the line of equal rates."""
    axes.set(xlim=x_limits, ylim=y_limits)
    _label_percents(axes.xaxis, x_limits, across=True)
    _label_percents(axes.yaxis, y_limits, across=False)
    axes.tick_params(labelsize=FONT_SIZE)
    axes.set_xlabel("False acceptance rate (%)", fontsize=FONT_SIZE + 1)
    axes.set_ylabel("False rejection rate (%)", fontsize=FONT_SIZE + 1)
    axes.set_axisbelow(True)
    axes.grid(color="0.9")
    axes.axline((0, 0), slope=1, color="0.75", linestyle="--", zorder=1)


def _probit(rate, rates):
    """Probit of an error rate, at most as extreme as ``rates`` can tell."""
    least = max(np.min(rates, where=rates > 0, initial=0.5), LEAST_RATE)
    return ndtri(np.clip(rate, least, 1 - least))


def _probit_limits(curves, equal):
    """Limits of both axes that frame what there is to see, in probits."""
    # Half a probit beyond the worst equal error rate, 50 % at the least.
    worst = ndtr(ndtri(min(max(equal), 1 - LEAST_RATE)) + 0.5)
    most = max(0.5, worst)
    seen = ([], [])
    for curve, rate in zip(curves, equal, strict=True):
        shown = np.ones(curve[0].shape, dtype=bool)
        for rates in curve:
            shown &= (rates >= LEAST_RATE) & (rates <= most)
        for values, rates in zip(seen, curve, strict=True):
            values.append(_probit(rate, rates))
            if shown.any():
                values.append(ndtri(rates[shown].min()))
                values.append(ndtri(rates[shown].max()))
    limits = []
    for values in seen:
        low, high = min(values), max(values)
        margin = max(0.04 * (high - low), (LEAST_SPAN - (high - low)) / 2)
        limits.append((low - margin, high + margin))
    return limits


def _thinned(acceptance_rates, rejection_rates):
    """A curve in probits, without what no one would see of it, [points]."""
    # Rates of 0 and 1, which are infinite, go to a place outside the picture.
    x = np.clip(ndtri(acceptance_rates), -6, 6)
    y = np.clip(ndtri(rejection_rates), -6, 6)
    if len(x) <= MOST_POINTS:
        return x, y
    way = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    kept = np.searchsorted(way, np.linspace(0, way[-1], MOST_POINTS // 2))
    # With both ends of every jump, which would be a slope otherwise.
    kept = np.unique(np.clip([kept - 1, kept], 0, len(x) - 1))
    return x[kept], y[kept]


def _label_percents(axis, limits, across):
    """Ticks an axis of probits in percent, labels only where they have room."""
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


def _save(figure, path):
    """Writes the figure; the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        figure.savefig(part, format=path.suffix[1:] or "png")
