"""Plots of right and wrong labels."""

from speechbrain_ext.utils.label_plots import label_noise_curves

HISTORY = [
    {"epoch": 1, "train clean accuracy": 40.0, "train memorised": 2.0},
    {
        "epoch": 2,
        "train clean accuracy": 80.0,
        "train memorised": 9.0,
        "train filter precision": 90.0,
        "train filter AUC": 0.9,
        "valid EER": 20.0,
    },
]


def test_each_figure_of_the_log_is_drawn_as_it_is(tmp_path):
    path = tmp_path / "new" / "label_noise.png"
    figure = label_noise_curves(HISTORY, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    drawn = {
        axes.get_ylabel(): {
            line.get_label(): line.get_xydata().tolist() for line in axes.lines
        }
        for axes in figure.axes
    }
    assert list(drawn) == [
        "utterances (%)",
        "label filter (%)",
        "ROC AUC of its weights",
        "development EER (%)",
    ]
    assert drawn["utterances (%)"] == {
        "right label, speaker recognised": [[1, 40], [2, 80]],
        "wrong label, memorised": [[1, 2], [2, 9]],
    }
    assert list(drawn["ROC AUC of its weights"].values()) == [[[2, 0.9]]]


def test_no_figures_are_no_file(tmp_path):
    path = tmp_path / "label_noise.png"
    assert label_noise_curves([], path) is None
    assert label_noise_curves([{"epoch": 1, "valid EER": 3.0}], path) is None
    assert not path.exists()
