"""The plot of how well scores find wrong labels."""

import numpy as np
import pytest

from speechbrain_ext.utils.detection_plots import label_detection_plot


def test_curves_match_the_definition(tmp_path):
    rng = np.random.default_rng(0)
    wrong = rng.random(60) < 0.3
    values = np.round(rng.random(60) - 0.4 * wrong, 1)  # with ties
    figure = label_detection_plot({"a": values}, wrong, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    roc, precision = figure.axes
    points = {(0.0, 0.0)}
    shares = {}
    for threshold in values:
        low = values <= threshold
        lost, found = low[~wrong].mean(), low[wrong].mean()
        points.add((round(100 * lost, 6), round(100 * found, 6)))
        shares[round(100 * low.mean(), 6)] = 100 * wrong[low].mean()
    drawn = roc.lines[0].get_xydata().round(6).tolist()
    assert set(map(tuple, drawn)) == points
    for dropped, share in precision.lines[0].get_xydata():
        assert share == pytest.approx(shares[round(dropped, 6)])


def test_nothing_to_find_is_rejected(tmp_path):
    for scores, wrong in (({}, [0, 1]), ({"a": [1, 2]}, [0, 0])):
        with pytest.raises(ValueError, match="both right and wrong labels"):
            label_detection_plot(scores, wrong, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
