"""Each label filter against its definition, in plain loops."""

import functools
import math

import pytest
import torch
from filter_runs import (
    CLASSES,
    OPTIONS,
    STEPS,
    SUB_CENTERS,
    UTTERANCES,
    drawn,
    filtered,
    head_of,
)

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import GE2E, AMSoftmax, Softmax, SphereFace2
from speechbrain_ext.nnet.losses.base import ClassificationLoss
from speechbrain_ext.nnet.sharded import ShardedCosineClassifier
from speechbrain_ext.processing.class_scores import ClassScores
from speechbrain_ext.processing.filter_base import LabelFilter
from speechbrain_ext.processing.label_filters import (
    FILTERS,
    check_label_filter,
    make_label_filter,
)


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
            own[label] -= 0.2
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
        ({"kind": ["ORGate"]}, r"must be one of ORGate.*got \['ORGate'\]"),
        ({"kind": "ORGate", "top_k": 2.5}, "`top_k`.*whole number.*got 2.5"),
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


def test_or_gate_rejects_a_k_that_keeps_all():
    made = make_label_filter({"kind": "ORGate", "top_k": CLASSES})
    with pytest.raises(ValueError, match="below the number of classes, 5"):
        made.start(UTTERANCES, CLASSES, Softmax(), head_of())


def test_or_gate_subtracts_what_the_loss_subtracts():
    for loss, margin in (
        (AMSoftmax(0.3), 0.3),
        (SphereFace2("C", 0.1), 0.1),
        (SphereFace2("M", 1.7, form="face", out_neurons=CLASSES), 0.0),
        (Softmax(), 0.0),
    ):
        made = make_label_filter({"kind": "ORGate", "top_k": 2})
        made.start(UTTERANCES, CLASSES, loss, head_of())
        assert made.margin() == margin
        if margin:  # as its schedule changes it
            loss.margin = 0.05
            assert made.margin() == 0.05


def test_a_filter_that_leaves_out_everything_warns(caplog):
    made = make_label_filter({"kind": "LossGate", "gate": 1e-9, "warm_up": 0})
    loss, head = AMSoftmax(), head_of()
    made.start(UTTERANCES, CLASSES, loss, head)
    for _, _, x, labels, rows in drawn(1):
        made(ClassScores(head(x), labels), rows, 0.0)
    made.end_epoch()
    assert "LossGate left out every label of this epoch" in caplog.text


def test_what_was_not_drawn_or_is_replaced_is_not_what_is_left_out(caplog):
    options = {"kind": "LabelCorrection", "confidence": 0.0, "warm_up": 0}
    gate = {"kind": "LossGate", "gate": 1e-9, "warm_up": 0}
    for asked, warns in ((options, False), (gate, True)):
        made = make_label_filter(asked)
        head = head_of()
        made.start(UTTERANCES + 1, CLASSES, AMSoftmax(), head)
        for _, _, x, _, rows in drawn(1):  # never the last row
            given = (head(x).argmax(-1) + 1) % CLASSES
            made(ClassScores(head(x), given), rows, 0.0)
        made.end_epoch()
        assert ("left out every label" in caplog.text) == warns


class Plain(ClassificationLoss):
    """A loss as a user writes it, without weights."""

    def _loss(self, cosines, targets):
        return -cosines.gather(1, targets).mean()


def test_a_loss_without_weights_is_refused_before_the_warm_up():
    made = make_label_filter({"kind": "LossGate"})
    with pytest.raises(ValueError, match="Plain does not support weights"):
        made.start(UTTERANCES, CLASSES, Plain(), head_of())


def test_no_filter_and_one_of_ones_own_are_kept():
    own = make_label_filter({"kind": "ORGate"})
    assert make_label_filter(None) is None
    assert make_label_filter(own) is own
    check_label_filter(None, GE2E(), None)
