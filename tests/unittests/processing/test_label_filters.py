"""Each label filter against its definition, in plain loops."""

import functools
import math

import numpy as np
import pytest
import torch
from processes import on_processes

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import GE2E, AAMSoftmax, Softmax
from speechbrain_ext.nnet.sharded import ShardedCosineClassifier, sharded
from speechbrain_ext.processing.class_scores import ClassScores
from speechbrain_ext.processing.filter_base import LabelFilter
from speechbrain_ext.processing.label_filters import (
    FILTERS,
    check_label_filter,
    make_label_filter,
)
from speechbrain_ext.processing.loss_gates import gate_of_two_gaussians
from speechbrain_ext.utils.distributed import rank

UTTERANCES, CLASSES, BATCH, STEPS, SUB_CENTERS = 12, 5, 4, 3, 3
OPTIONS = {"ORGate": {"top_k": 2}}


def head_of(split=False):
    """A head with sub-centers, the same on any number of processes."""
    torch.manual_seed(8)
    make = functools.partial(
        CosineClassifier, input_size=6, sub_centers=SUB_CENTERS
    )
    return (sharded(make) if split else make)(out_neurons=CLASSES)


def drawn(epochs):
    """Embeddings, labels and rows of each batch, by (epoch, step)."""
    rng = torch.Generator().manual_seed(4)
    label_of = torch.randint(CLASSES, (UTTERANCES,), generator=rng)
    for epoch in range(epochs):
        order = torch.randperm(UTTERANCES, generator=rng)
        for step in range(STEPS):
            rows = order[BATCH * step : BATCH * (step + 1)]
            x = torch.randn(BATCH, 1, 6, generator=rng)
            yield epoch, step, x, label_of[rows].unsqueeze(1), rows


def filtered(name, warm_up=1.0, epochs=4, split=None, stop=None, state=None):
    """Weights and labels of every batch, and the state at the end.

    ``split`` is None, "head" or "batch", for one process and two kinds of
    two. ``stop`` ends after some batches, and ``state`` goes on from there.
    """
    head = head_of(split == "head")
    loss = AAMSoftmax()
    loss.shard = getattr(head, "shard", None)
    made = make_label_filter(
        {"kind": name, "warm_up": warm_up, **OPTIONS.get(name, {})}
    )
    made.start(UTTERANCES, CLASSES, loss, head)
    if state is not None:
        made.load_state_dict(state)
    said = []
    for number, (epoch, step, x, labels, rows) in enumerate(drawn(epochs)):
        if number == stop:
            break
        if state is not None and number < 5:
            continue
        if split:
            half = slice(2 * rank(), 2 * rank() + 2)
            x, labels, rows = x[half], labels[half], rows[half]
        scores = ClassScores(head(x), labels, loss.shard, head.sub_cosines)
        weights, new = made(scores, rows, epoch + step / STEPS)
        new = labels.squeeze(1) if new is None else new
        said.append((rows, weights, new))
        if step == STEPS - 1:
            made.end_epoch()
    return said, made.state_dict()


def test_or_gate_matches_its_definition():
    head, top_k = head_of(), 2
    counted, found = set(), []
    for epoch, _, x, labels, rows in drawn(4):
        cosines = head(x).squeeze(1).tolist()
        weights = [float(row in counted) for row in rows.tolist()]
        found.append(None if epoch < 1 else weights)
        for row, label, own in zip(
            rows.tolist(), labels.flatten().tolist(), cosines, strict=True
        ):
            if label in sorted(range(CLASSES), key=lambda c: -own[c])[:top_k]:
                counted.add(row)
    said, state = filtered("ORGate")
    for (_, weights, _), wanted in zip(said, found, strict=True):
        assert (weights is None) == (wanted is None)
        if wanted is not None:
            assert weights.tolist() == wanted
    assert set(state["counted"].nonzero().flatten().tolist()) == counted
    kept = {w for weights in found if weights for w in weights}
    assert len(kept) == 2  # some are left out, and some are not


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


@pytest.mark.parametrize("angle", [75.0, 50, None])
def test_sub_center_drop_matches_its_definition(angle):
    OPTIONS["SubCenterDrop"] = {"angle": angle}
    said, state = filtered("SubCenterDrop")
    OPTIONS["SubCenterDrop"] = {}
    head, found, wanted = head_of(), [], []
    dominant, counts = {}, {}
    unit = torch.nn.functional.normalize
    for (_, weights, _), (epoch, step, x, labels, _) in zip(
        said, drawn(4), strict=True
    ):
        for place, label in enumerate(labels.flatten().tolist()):
            centers = head.weight.view(CLASSES, SUB_CENTERS, 6)[label]
            cosines = (unit(centers, dim=1) @ unit(x[place, 0], dim=0)).tolist()
            nearest = cosines.index(max(cosines))
            counts.setdefault(label, [0] * SUB_CENTERS)[nearest] += 1
            if epoch < 1:
                continue
            found.append(bool(weights[place]))
            main = dominant[label]
            degrees = math.degrees(math.acos(cosines[main]))
            near = nearest == main if angle is None else degrees < angle
            wanted.append(near)
        if step == STEPS - 1:
            dominant |= {
                label: count.index(max(count))
                for label, count in counts.items()
            }
            counts = {}
    assert found == wanted and len(set(found)) == 2
    for label, main in dominant.items():
        assert state["dominant"][label] == main


def test_sub_center_drop_rejects_one_center():
    for head in (
        CosineClassifier(6, 5),
        functools.partial(CosineClassifier, input_size=6),
        ShardedCosineClassifier(6, 5),
    ):
        with pytest.raises(ValueError, match="`sub_centers` of 2 or more"):
            check_label_filter({"kind": "SubCenterDrop"}, Softmax(), head)
    head = functools.partial(CosineClassifier, input_size=6, sub_centers=3)
    check_label_filter({"kind": "SubCenterDrop"}, Softmax, head)


@pytest.mark.parametrize("name", FILTERS)
def test_warm_up_has_no_weights_but_remembers(name):
    said, state = filtered(name, warm_up=2)
    for number, (_, weights, _) in enumerate(said):
        assert (weights is None) == (number < 2 * STEPS)
    _, shorter = filtered(name, warm_up=0)
    for key in state.keys() - {"trust"}:
        assert torch.equal(state[key], shorter[key])
    _, warm = filtered(name, warm_up=9)
    assert (warm["trust"] == 1).all()


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_that_resumes_ends_as_one_left_alone(name):
    said, state = filtered(name)
    _, half = filtered(name, stop=5)
    again, resumed = filtered(name, state=half)
    for (_, one, label), (_, other, same) in zip(said[5:], again, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
        assert torch.equal(label, same)
    assert all(torch.equal(state[key], resumed[key]) for key in state)


def on_two():
    return {
        (name, split): filtered(name, split=split)
        for name in FILTERS
        for split in ("head", "batch")
    }


def test_two_processes_filter_as_one():
    found = on_processes(on_two, 2)
    for name in FILTERS:
        said, state = filtered(name)
        for split in ("head", "batch"):
            parts = [result[name, split][0] for result in found]
            for (rows, weights, labels), *both in zip(
                said, *parts, strict=True
            ):
                assert torch.equal(torch.cat([b[0] for b in both]), rows)
                assert torch.equal(torch.cat([b[2] for b in both]), labels)
                if weights is None:
                    assert [b[1] for b in both] == [None, None]
                else:
                    got = torch.cat([b[1] for b in both])
                    torch.testing.assert_close(got, weights)
            for result in found:
                for key, value in result[name, split][1].items():
                    torch.testing.assert_close(value, state[key])


@pytest.mark.parametrize("name", FILTERS)
def test_trust_is_the_mean_weight_of_the_given_labels(name):
    said, state = filtered(name, epochs=4)
    label_of = {
        row: label
        for _, _, _, labels, rows in drawn(1)
        for row, label in zip(
            rows.tolist(), labels.flatten().tolist(), strict=True
        )
    }
    trust = {}
    for rows, weights, labels in said[-STEPS:]:
        for row, weight, label in zip(
            rows.tolist(), weights.tolist(), labels.tolist(), strict=True
        ):
            trust[row] = weight * (label == label_of[row])
    wanted = [trust[row] for row in range(UTTERANCES)]
    torch.testing.assert_close(state["trust"], torch.tensor(wanted))


def test_every_filter_has_a_definition_here():
    assert set(OPTIONS) <= set(FILTERS)
    assert all(issubclass(kind, LabelFilter) for kind in FILTERS.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (5, "must be a mapping with a kind.*got 5"),
        ({"top_k": 3}, "must be a mapping with a kind"),
        ({"kind": "XGate"}, "must be one of ORGate.*got 'XGate'"),
        ({"kind": "ORGate", "topk": 3}, "unknown option 'topk'; ORGate takes"),
        ({"kind": "ORGate", "top_k": True}, "`top_k`.*1 or more, got True"),
        ({"kind": "LossGate", "gate": 0}, "`gate`.*a loss above 0, got 0"),
        ({"kind": "LossGate", "gate": True}, "`gate`.*above 0, got True"),
        (
            {"kind": "LabelCorrection", "confidence": 7},
            r"`confidence`.*in \[0, 1\], got 7",
        ),
        (
            {"kind": "SubCenterDrop", "angle": 181},
            r"`angle`.*in \[0, 180\], got 181",
        ),
        ({"kind": "ORGate", "warm_up": -1}, "`warm_up`.*0 or more, got -1"),
    ],
)
def test_filter_rejects_options(options, said):
    with pytest.raises(ValueError, match=said):
        make_label_filter(options)


@pytest.mark.parametrize("name", FILTERS)
def test_filter_rejects_metric_losses(name):
    for loss in (GE2E(), GE2E, functools.partial(GE2E)):
        with pytest.raises(ValueError, match="metric loss GE2E.*set it to nul"):
            check_label_filter({"kind": name}, loss, torch.nn.Identity())


def test_or_gate_rejects_a_k_that_keeps_all():
    made = make_label_filter({"kind": "ORGate", "top_k": CLASSES})
    with pytest.raises(ValueError, match="below the number of classes, 5"):
        made.start(UTTERANCES, CLASSES, Softmax(), head_of())


def test_no_filter_and_one_of_ones_own_are_kept():
    own = make_label_filter({"kind": "ORGate"})
    assert make_label_filter(None) is None
    assert make_label_filter(own) is own
    check_label_filter(None, GE2E(), None)
