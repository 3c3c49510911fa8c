"""Tests of the DET plot and of histograms."""

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.stats import norm

from speechbrain_ext.utils.metrics import EER, error_curve, minDCF
from speechbrain_ext.utils.plots import (
    det_plot,
    histogram_plot,
    training_curves,
)


def gaussian_scores(distance=3.0, positives=400, negatives=5000, seed=0):
    generator = np.random.default_rng(seed)
    positive = generator.normal(distance, 1.0, positives)
    return positive, generator.normal(0.0, 1.0, negatives)


def lines(figure):
    """The drawn curves and EER dots, a list of [points, 2] each."""
    drawn = [line.get_xydata() for line in figure.axes[0].get_lines()[:-1]]
    return drawn[::2], drawn[1::2]


def labels(axis):
    return [
        text.get_text() for text in axis.get_ticklabels() if text.get_text()
    ]


def test_det_plot_writes_a_png_that_is_not_blank(tmp_path):
    path = tmp_path / "results" / "det.png"
    det_plot({"cosine": gaussian_scores()}, path, title="VoxCeleb1-O")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    pixels = imread(path)[..., :3]
    assert min(pixels.shape[:2]) > 600
    blue = np.abs(pixels - np.array([0, 0x72, 0xB2]) / 255).max(-1) < 0.02
    across = np.flatnonzero(blue.any(0))
    down = np.flatnonzero(blue.any(1))
    # The curve runs through most of the picture, both ways.
    assert np.ptp(across) > 0.7 * pixels.shape[1]
    assert np.ptp(down) > 0.7 * pixels.shape[0]


def test_det_plot_draws_the_error_curve(tmp_path):
    systems = {"a": gaussian_scores(), "b": gaussian_scores(2.0, seed=1)}
    curves, dots = lines(det_plot(systems, tmp_path / "det.png"))
    for scores, curve, dot in zip(systems.values(), curves, dots, strict=True):
        _, accepted, rejected = error_curve(*scores)
        points = {
            (round(a, 9), round(r, 9))
            for a, r in zip(accepted, rejected, strict=True)
        }
        rates = norm.cdf(curve)
        inside = ((rates > 1e-6) & (rates < 1 - 1e-6)).all(1)
        assert inside.sum() > 50
        for a, r in rates[inside]:
            assert (round(a, 9), round(r, 9)) in points
        np.testing.assert_allclose(norm.cdf(dot), [[EER(*scores)[0]] * 2])


def test_det_plot_of_normal_scores_is_a_straight_line(tmp_path):
    # FAR = Phi(-t) and FRR = Phi(t - d): x + y = -d in probits.
    scores = gaussian_scores(3.0, 100_000, 100_000)
    ((curve,), _) = lines(det_plot({"a": scores}, tmp_path / "det.png"))
    rates = norm.cdf(curve)
    middle = ((rates > 0.01) & (rates < 0.5)).all(1)
    np.testing.assert_allclose(curve[middle].sum(1), -3.0, atol=0.1)


def test_det_plot_thins_and_keeps_the_shape(tmp_path):
    scores = gaussian_scores(3.0, 30_000, 30_000)
    ((curve,), _) = lines(det_plot({"a": scores}, tmp_path / "det.png"))
    assert len(curve) <= 4000
    _, accepted, rejected = error_curve(*scores)
    full = np.clip(norm.ppf([accepted, rejected]), -6, 6)
    # Along x - y, which grows along the curve, the way between is as before.
    along = (full[0] - full[1])[::-1]
    across = np.interp(along, *(curve @ [[1, 1], [-1, 1]])[::-1].T)
    difference = across - full.sum(0)[::-1]
    assert np.abs(difference).max() < 0.02


def test_det_plot_legend_has_names_and_eer(tmp_path):
    systems = {"cosine": ([1.0, 3.0, 4.0, 5.0], [0.0, 0.5, 0.7, 2.0])}
    figure = det_plot(systems, tmp_path / "det.png", title="a title")
    (text,) = figure.axes[0].get_legend().get_texts()
    assert text.get_text() == "cosine: EER 25.00 %"
    assert figure.axes[0].get_title() == "a title"


def test_det_plot_puts_a_long_legend_below(tmp_path):
    systems = {f"system {i}": gaussian_scores(seed=i) for i in range(7)}
    figure = det_plot(systems, tmp_path / "det.png")
    assert figure.axes[0].get_legend() is None
    (legend,) = figure.legends
    names = [text.get_text().split(":")[0] for text in legend.get_texts()]
    assert names == list(systems)
    box = legend.get_window_extent()
    assert box.y1 < figure.axes[0].get_window_extent().y0
    assert box.y0 >= 0


@pytest.mark.parametrize("distance", [0.0, 1.0, 3.0, 5.0])
@pytest.mark.parametrize("negatives", [50, 100_000])
def test_det_plot_ticks_have_room(tmp_path, distance, negatives):
    scores = gaussian_scores(distance, 3000, negatives)
    figure = det_plot({"a": scores}, tmp_path / "det.png")
    axes = figure.axes[0]
    for axis, limits, edge in (
        (axes.xaxis, axes.get_xlim(), "x"),
        (axes.yaxis, axes.get_ylim(), "y"),
    ):
        assert len(labels(axis)) >= 3
        places = sorted(axis.get_majorticklocs())
        assert limits[0] <= places[0] and places[-1] <= limits[1]
        percents = sorted(float(text) for text in labels(axis))
        np.testing.assert_allclose(norm.cdf(places) * 100, percents)
        boxes = [t.get_window_extent() for t in axis.get_ticklabels()]
        ends = sorted(
            (getattr(b, edge + "0"), getattr(b, edge + "1")) for b in boxes
        )
        for left, right in zip(ends, ends[1:], strict=False):
            assert left[1] < right[0]


@pytest.mark.parametrize(
    "scores",
    [
        ([1.0, 2.0], [-1.0, 0.0]),
        ([1.0], [1.0]),
        ([0.0, 1.0], [2.0, 3.0]),
        ([np.inf, 1.0], [-np.inf, 2.0]),
    ],
    ids=["perfect", "constant", "reversed", "infinite"],
)
def test_det_plot_frames_extreme_systems(tmp_path, scores):
    figure = det_plot({"a": scores}, tmp_path / "det.png")
    limits = [figure.axes[0].get_xlim(), figure.axes[0].get_ylim()]
    assert np.isfinite(limits).all()
    (dot,) = lines(figure)[1]
    for place, (low, high) in zip(dot[0], limits, strict=True):
        assert low < place < high


def test_det_plot_writes_by_suffix_and_atomically(tmp_path):
    path = tmp_path / "det.pdf"
    det_plot({"a": gaussian_scores()}, path)
    older = path.read_bytes()
    det_plot({"b": gaussian_scores(2.0)}, path)
    assert path.read_bytes()[:5] == older[:5] == b"%PDF-"
    assert path.read_bytes() != older
    det_plot({"a": gaussian_scores()}, tmp_path / "det")
    assert (tmp_path / "det").read_bytes()[1:4] == b"PNG"
    with pytest.raises(ValueError, match="xyz"):
        det_plot({"a": gaussian_scores()}, tmp_path / "det.xyz")
    written = {p.name for p in tmp_path.iterdir()}
    assert {name for name in written if name[0] != "."} == {"det.pdf", "det"}
    path.write_text("a thesis")
    with pytest.raises(FileExistsError, match="det.pdf"):
        det_plot({"a": gaussian_scores()}, path)
    assert path.read_text() == "a thesis"


def test_det_plot_rejects_systems_without_a_curve(tmp_path):
    with pytest.raises(ValueError, match="`systems` .* got 0"):
        det_plot({}, tmp_path / "det.png")
    with pytest.raises(ValueError, match="system 'bad': `negative_.* got 0"):
        det_plot({"bad": ([1.0], [])}, tmp_path / "det.png")
    assert not list(tmp_path.iterdir())


def marks(figure, p_target):
    """The marks of a minDCF in probits, [systems, 2]."""
    gid = f"minDCF {p_target}"
    found = [m for m in figure.axes[0].get_lines() if m.get_gid() == gid]
    return np.concatenate([mark.get_xydata() for mark in found])


def legend_texts(figure):
    """The lines of the legend, without the breaks of long ones."""
    (legend,) = figure.legends or [figure.axes[0].get_legend()]
    return [text.get_text().replace("\n", " ") for text in legend.get_texts()]


def test_det_plot_marks_min_dcf_points(tmp_path):
    systems = {"a": gaussian_scores(), "b": gaussian_scores(2.0, seed=1)}
    priors = (0.5, 0.05)
    figure = det_plot(systems, tmp_path / "det.png", p_targets=priors)
    shapes = []
    for p_target in priors:
        found = norm.cdf(marks(figure, p_target))
        for (positive, negative), point in zip(
            systems.values(), found, strict=True
        ):
            _, threshold = minDCF(positive, negative, p_target=p_target)
            rates = (
                (negative > threshold).mean(),
                (positive <= threshold).mean(),
            )
            np.testing.assert_allclose(point, rates, atol=1e-9)
        line = next(
            mark
            for mark in figure.axes[0].get_lines()
            if mark.get_gid() == f"minDCF {p_target}"
        )
        shapes.append(line.get_marker())
    assert len({"o", *shapes}) == 3
    assert legend_texts(figure)[2:] == ["EER", "minDCF 0.5", "minDCF 0.05"]


def test_det_plot_marks_points_outside_on_the_frame(tmp_path):
    # without a false acceptance, and with all targets rejected
    systems = {
        "perfect": ([2.0, 3.0], [0.0, 1.0]),
        "useless": ([0.0, 1.0], [2.0, 3.0]),
    }
    figure = det_plot(systems, tmp_path / "det.png", p_targets=[0.01])
    left = figure.axes[0].get_xlim()[0]
    low, high = figure.axes[0].get_ylim()
    np.testing.assert_allclose(
        marks(figure, 0.01), [[left, low], [left, high]], atol=1e-12
    )


def test_det_plot_rejects_a_prior(tmp_path):
    with pytest.raises(ValueError, match=r"system 'a'.*\(0, 1\), got 5"):
        det_plot({"a": gaussian_scores()}, tmp_path / "a.png", p_targets=[5])
    assert not list(tmp_path.iterdir())


def test_det_plot_says_which_curves_coincide(tmp_path):
    positive, negative = gaussian_scores()
    systems = {
        "cosine": (positive, negative),
        "calibrated": (3 * positive - 1, 3 * negative - 1),
        "other": gaussian_scores(2.0, seed=1),
        "exponential": (np.exp(positive), np.exp(negative)),
    }
    figure = det_plot(systems, tmp_path / "det.png", p_targets=[0.01])
    names = [text.split(":")[0] for text in legend_texts(figure)]
    assert names[:2] == ["cosine = calibrated = exponential", "other"]
    assert len(marks(figure, 0.01)) == 2
    # an equal EER alone is not enough
    systems = {"a": ([0, 2, 3, 4], [-1, 0, 0, 1]), "b": ([1, 3], [0, 2])}
    assert EER(*systems["b"])[0] == 0.5
    systems["c"] = ([1, 1, 3, 3], [0, 0, 2, 2])  # each trial twice
    systems["d"] = ([0, 1, 3, 4], [-9, 2, 2, 2])
    texts = legend_texts(det_plot(systems, tmp_path / "det.png"))
    assert len(texts) == 3
    assert texts[1].startswith("b = c")


def test_det_plot_tells_fifteen_systems_with_long_names_apart(tmp_path):
    systems = {
        f"list of the call centre {i}, AS-norm by the other's nearest, mean "
        f"subtracted, number {i}": gaussian_scores(1 + i / 5, 100, 300, seed=i)
        for i in range(15)
    }
    figure = det_plot(systems, tmp_path / "det.png", p_targets=[0.01, 0.05])
    curves = [
        line for line in figure.axes[0].get_lines() if len(line.get_xdata()) > 2
    ]
    looks = {(line.get_color(), str(line._dash_pattern)) for line in curves}
    assert len(curves) == len(looks) == 15
    assert len(legend_texts(figure)) == 15 + 3
    box = figure.legends[0].get_window_extent()
    assert box.y1 < figure.axes[0].get_window_extent().y0
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.bbox.x1
    # and the axes keep their size
    assert figure.axes[0].get_window_extent().height > 0.7 * 5 * figure.dpi


HOSTILE = ["$\\frac{$", "_hidden", "<b>&amp;", "a\\b", "\u8a71\u8005", "$x$ $y"]


@pytest.mark.parametrize("name", HOSTILE)
def test_pictures_take_any_name(tmp_path, name, recwarn):
    figure = det_plot({name: gaussian_scores()}, tmp_path / "a.png", name)
    assert [text.strip() for text in legend_texts(figure)] == [
        f"{name}: EER {100 * EER(*gaussian_scores())[0]:.2f} %"
    ]
    samples = dict(zip((name, "other"), gaussian_scores(), strict=True))
    path = tmp_path / "b.png"
    figure = histogram_plot(samples, path, name, name, {name: 1.0})
    texts = [text.strip() for text in legend_texts(figure)]
    assert texts == [f"{name} (400)", "other (5000)", f"{name}: 1.000"]
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_histogram_sums_to_a_hundred_percent(tmp_path):
    samples = {"target": [0.1, 0.5, 0.6], "nontarget": np.linspace(0, 1, 700)}
    figure = histogram_plot(samples, tmp_path / "a.png", "cosine")
    axes = figure.axes[0]
    assert axes.get_ylabel().endswith("(%)")
    for patch in axes.patches:
        x, y = patch.get_xy().T
        # the outline of the bars, forth and back on zero
        area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
        np.testing.assert_allclose(area / (1 / 60), 100)
    looks = {(p.get_edgecolor(), p.get_linestyle()) for p in axes.patches}
    assert len(looks) == 2


def test_histogram_draws_thresholds(tmp_path):
    positive, negative = gaussian_scores()
    thresholds = {
        "EER threshold": 1.5,
        "near": positive.max() + 0.5,
        "far": 99.0,
        "low": -99.0,
        "none": -np.inf,
    }
    figure = histogram_plot(
        {"target": positive, "nontarget": negative},
        tmp_path / "a.png",
        "cosine",
        thresholds=thresholds,
    )
    drawn = {
        line.get_gid(): line.get_xdata()[0]
        for line in figure.axes[0].get_lines()
    }
    assert drawn == {
        name: thresholds[name] for name in ("EER threshold", "near")
    }
    assert legend_texts(figure)[2:] == [
        "EER threshold: 1.500",
        f"near: {thresholds['near']:.3f}",
        "far: 99.000 (further right)",
        "low: -99.000 (further left)",
        "none: -inf (further left)",
    ]
    low, high = figure.axes[0].get_xlim()
    assert low > -10
    assert high < 20


@pytest.mark.parametrize(
    "values", [[1.0, 1.0], [1.0, np.nextafter(1, 2)], [1e9, 1e9 + 1e-6], [0, 0]]
)
def test_histogram_takes_scores_that_hardly_differ(tmp_path, values):
    samples = {"target": values[:1], "nontarget": values[1:]}
    figure = histogram_plot(samples, tmp_path / "a.png", "cosine")
    low, high = figure.axes[0].get_xlim()
    assert low < values[0] < high
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"


def test_histogram_rejects_a_kind_without_values(tmp_path):
    with pytest.raises(ValueError, match="`samples`"):
        histogram_plot(
            {"target": [0.5], "nontarget": []}, tmp_path / "a.png", ""
        )
    assert not list(tmp_path.iterdir())


def test_training_curves_show_what_the_history_has(tmp_path):
    history = [
        {"epoch": 1, "lr": 0.1, "train loss": 4.0, "valid EER": 9.0},
        {"epoch": 2, "lr": 0.2, "train loss": 3.0, "valid EER": 7.5},
        {"epoch": 3, "lr": 0.1, "train loss": 2.5, "valid EER": 8.0},
    ]
    path = tmp_path / "training.png"
    figure = training_curves(history, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    loss, eer, rate = figure.axes  # no margin
    assert loss.get_ylabel() == "training loss"
    assert list(loss.lines[0].get_xdata()) == [1, 2, 3]
    assert list(loss.lines[0].get_ydata()) == [4.0, 3.0, 2.5]
    assert list(rate.lines[0].get_ydata()) == [0.1, 0.2, 0.1]
    (text,) = eer.get_legend().get_texts()
    assert text.get_text() == "lowest: 7.50 %, epoch 2"
    training_curves(history[:1], path)  # its own file is replaced
    with pytest.raises(ValueError, match="got 0 epochs"):
        training_curves([], path)
