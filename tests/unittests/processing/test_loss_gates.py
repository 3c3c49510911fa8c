"""The gates on the loss against their definitions, in plain loops."""

import math

import numpy as np
import pytest
import torch
from filter_runs import (
    CLASSES,
    OPTIONS,
    STEPS,
    UTTERANCES,
    drawn,
    filtered,
    head_of,
)

from speechbrain_ext.nnet.losses import AAMSoftmax, Softmax
from speechbrain_ext.processing.class_scores import ClassScores
from speechbrain_ext.processing.label_filters import make_label_filter
from speechbrain_ext.processing.loss_gates import gate_of_two_gaussians


def margin_losses(cosines, labels):
    """AAM-softmax with scale 30 and margin 0.2, of each utterance."""
    losses = []
    for own, label in zip(cosines, labels, strict=True):
        logits = [30 * cosine for cosine in own]
        logits[label] = 30 * math.cos(math.acos(own[label]) + 0.2)
        top = max(logits)
        total = sum(math.exp(logit - top) for logit in logits)
        losses.append(math.log(total) + top - logits[label])
    return losses


def losses_of_epochs():
    """(row, loss) of every utterance, in a list for each epoch."""
    head, epochs = head_of(), {}
    for epoch, _, x, labels, rows in drawn(4):
        cosines = head(x).squeeze(1).tolist()
        losses = margin_losses(cosines, labels.flatten().tolist())
        pairs = zip(rows.tolist(), losses, strict=True)
        epochs.setdefault(epoch, []).extend(pairs)
    return list(epochs.values())


def test_loss_gate_matches_its_definition():
    OPTIONS["LossGate"] = {"gate": 8.0}
    said, _ = filtered("LossGate")
    OPTIONS["LossGate"] = {}
    wanted = [
        loss <= 8 for epoch in losses_of_epochs()[1:] for _, loss in epoch
    ]
    found = [bool(w) for _, weights, _ in said[STEPS:] for w in weights]
    assert found == wanted and len(set(found)) == 2


def test_dynamic_loss_gate_is_fitted_to_the_epoch_before():
    said, state = filtered("LossGate")
    epochs = losses_of_epochs()
    gates = [
        math.exp(gate_of_two_gaussians(np.log([loss for _, loss in epoch])))
        for epoch in epochs
    ]
    found = [bool(w) for _, weights, _ in said[STEPS:] for w in weights]
    wanted = [
        loss <= gate
        for gate, epoch in zip(gates, epochs[1:], strict=False)
        for _, loss in epoch
    ]
    assert found == wanted and len(set(found)) == 2
    assert state["threshold"].item() == pytest.approx(gates[-1], rel=1e-4)


def test_gate_is_where_the_true_gaussians_intersect():
    rng = np.random.default_rng(2)
    low, high = rng.normal(-5, 0.5, 60000), rng.normal(1, 1.5, 40000)
    found = gate_of_two_gaussians(rng.permutation(np.concatenate([low, high])))
    grid = np.linspace(-5, 1, 60001)
    one = 0.6 * np.exp(-0.5 * ((grid + 5) / 0.5) ** 2) / 0.5
    other = 0.4 * np.exp(-0.5 * ((grid - 1) / 1.5) ** 2) / 1.5
    wanted = grid[np.argmin(np.abs(np.log(one / other)))]
    assert found == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize("values", [[], [1.0], [2.0] * 9])
def test_gate_of_equal_values_keeps_all(values):
    assert gate_of_two_gaussians(np.array(values)) == math.inf


def test_loss_gate_takes_logits_as_they_are():
    made = make_label_filter({"kind": "LossGate"})
    made.start(UTTERANCES, CLASSES, Softmax(), head_of())
    assert (made.scale, made.margin) == (1.0, 0.0)


def test_label_correction_matches_its_definition():
    OPTIONS["LabelCorrection"] = {"gate": 8.0, "confidence": 0.9}
    said, _ = filtered("LabelCorrection")
    OPTIONS["LabelCorrection"] = {}
    head, kinds = head_of(), []
    batches = list(drawn(4))[STEPS:]
    for (_, weights, new), (_, _, x, labels, _) in zip(
        said[STEPS:], batches, strict=True
    ):
        cosines = head(x).squeeze(1).tolist()
        labels = labels.flatten().tolist()
        losses = margin_losses(cosines, labels)
        for place, (own, loss) in enumerate(zip(cosines, losses, strict=True)):
            best = own.index(max(own))
            total = sum(math.exp(30 * cosine) for cosine in own)
            sure = math.exp(30 * own[best]) / total > 0.9
            kind = "kept" if loss <= 8 else "corrected" if sure else "dropped"
            kinds.append(kind)
            assert bool(weights[place]) == (kind != "dropped")
            wanted = best if kind == "corrected" else labels[place]
            assert new[place] == wanted
    assert set(kinds) == {"kept", "corrected", "dropped"}


@pytest.mark.parametrize(
    ("classes_found", "done", "warns"),
    [([2], 1.0, True), ([2], 0.0, False), (range(CLASSES), 1.0, False)],
)
def test_new_labels_of_one_class_are_remarked_on(
    classes_found, done, warns, caplog
):
    made = make_label_filter(
        {"kind": "LabelCorrection", "gate": 1e-9, "warm_up": 1}
    )
    made.start(UTTERANCES, CLASSES, AAMSoftmax(), head_of())
    rows = torch.arange(UTTERANCES)
    best = torch.tensor([*classes_found])[rows % len(classes_found)]
    cosines = torch.nn.functional.one_hot(best, CLASSES).float().unsqueeze(1)
    labels = ((best + 1 + rows // CLASSES) % CLASSES).unsqueeze(1)
    made(ClassScores(cosines, labels), rows, done)
    made.end_epoch()
    said = "replaced 100% of the labels, and 100% of the new ones are one class"
    assert (said in caplog.text) == warns
    assert ("LabelCorrection" in caplog.text) == warns
    assert not made.new_labels.any()
