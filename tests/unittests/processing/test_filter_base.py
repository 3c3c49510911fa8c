"""What every label filter does, on one process and on two."""

import functools

import pytest
import torch
from filter_runs import (
    STEPS,
    UTTERANCES,
    drawn,
    filtered,
)
from processes import on_processes

from speechbrain_ext.nnet.losses import GE2E
from speechbrain_ext.processing.label_filters import FILTERS, check_label_filter


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


@pytest.mark.parametrize("name", FILTERS)
def test_filter_rejects_metric_losses(name):
    for loss in (GE2E(), GE2E, functools.partial(GE2E)):
        with pytest.raises(ValueError, match="metric loss GE2E.*set it to nul"):
            check_label_filter({"kind": name}, loss, torch.nn.Identity())
