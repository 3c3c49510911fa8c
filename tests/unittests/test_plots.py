"""Tests of the DET plot."""

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.stats import norm

from speechbrain_ext.utils.journal import JOURNAL
from speechbrain_ext.utils.metrics import EER, error_curve
from speechbrain_ext.utils.plots import det_plot


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
    det_plot({"older": gaussian_scores()}, path)
    det_plot({"a": gaussian_scores()}, path)
    assert path.read_bytes()[:5] == b"%PDF-"
    det_plot({"a": gaussian_scores()}, tmp_path / "det")
    assert (tmp_path / "det").read_bytes()[1:4] == b"PNG"
    with pytest.raises(ValueError, match="xyz"):
        det_plot({"a": gaussian_scores()}, tmp_path / "det.xyz")
    assert {p.name for p in tmp_path.iterdir()} - {JOURNAL} == {
        "det.pdf",
        "det",
    }


def test_det_plot_rejects_systems_without_a_curve(tmp_path):
    with pytest.raises(ValueError, match="`systems` .* got 0"):
        det_plot({}, tmp_path / "det.png")
    with pytest.raises(ValueError, match="system 'bad': `negative_.* got 0"):
        det_plot({"bad": ([1.0], [])}, tmp_path / "det.png")
    assert not list(tmp_path.iterdir())
