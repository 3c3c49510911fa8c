"""What training says of right and wrong labels, against plain loops."""

import numpy as np
import pytest
import torch

from speechbrain_ext.processing.class_scores import ClassScores
from speechbrain_ext.processing.label_statistics import LabelStatistics
from speechbrain_ext.utils.metrics import ROC_AUC

UTTERANCES, SPEAKERS, SPEEDS = 20, 4, 2


@pytest.fixture
def data():
    """Given and true classes at two speeds; one true speaker is unknown."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, SPEAKERS, UTTERANCES)
    given = np.where(rng.random(UTTERANCES) < 0.4, (true + 1) % SPEAKERS, true)
    wrong = given != true
    unknown = np.flatnonzero(wrong)[0]
    given = np.stack([given, given + SPEAKERS], axis=1)
    true = np.stack([true, true + SPEAKERS], axis=1)
    true[unknown] = -1
    return given, true, wrong


def test_figures_match_loops(data):
    given, true, wrong = data
    statistics = LabelStatistics(given, true, wrong)
    rng = np.random.default_rng(1)
    hits = {name: [] for name in ("clean", "wrong", "memorised")}
    drops, dropped_wrong, well = [], [], []
    for _ in range(3):
        rows = rng.permutation(UTTERANCES)[:10]
        speed = rng.integers(0, SPEEDS, 10)
        outputs = torch.rand(10, 1, SPEAKERS * SPEEDS)
        labels = torch.tensor(given[rows, speed]).unsqueeze(1)
        weights = torch.tensor(rng.integers(0, 2, 10)).float()
        new = torch.tensor(rng.integers(0, SPEAKERS * SPEEDS, 10))
        scores = ClassScores(outputs, labels)
        statistics.count(scores, torch.tensor(rows), weights, new)
        for place, (row, at) in enumerate(zip(rows, speed, strict=True)):
            found = int(outputs[place, 0].argmax())
            kind = "wrong" if wrong[row] else "clean"
            hits[kind].append(found == true[row, at])
            if wrong[row]:
                hits["memorised"].append(found == given[row, at])
            changed = weights[place] == 1 and new[place] != given[row, at]
            if changed:
                well.append(int(new[place]) == true[row, at])
            drops.append(bool(weights[place] == 0 or changed))
            dropped_wrong.append(drops[-1] and wrong[row])
    trust = torch.rand(UTTERANCES)
    figures = statistics.figures(trust)
    right = sum(dropped_wrong)
    wanted = {
        "clean accuracy": np.mean(hits["clean"]),
        "wrong accuracy": np.mean(hits["wrong"]),
        "memorised": np.mean(hits["memorised"]),
        "filter precision": right / sum(drops),
        "filter recall": right / len(hits["wrong"]),
        "relabelled well": np.mean(well),
    }
    auc = figures.pop("filter AUC")
    assert auc == pytest.approx(ROC_AUC(trust[~wrong], trust[wrong]), abs=1e-4)
    assert figures == {
        name: pytest.approx(100 * value, abs=0.01)
        for name, value in wanted.items()
    }
    assert statistics.figures() == {}  # the epoch has ended


def test_no_filter_has_no_figures_of_one(data):
    statistics = LabelStatistics(*data)
    rows = torch.arange(UTTERANCES)
    scores = ClassScores(
        torch.rand(UTTERANCES, 1, 8), torch.tensor(data[0][:, :1])
    )
    statistics.count(scores, rows)
    names = set(statistics.figures())
    assert names == {"clean accuracy", "wrong accuracy", "memorised"}


def test_the_checkpoint_has_the_counts_alone(data):
    assert list(LabelStatistics(*data).state_dict()) == ["counts"]
