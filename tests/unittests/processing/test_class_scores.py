"""The scores that label filters see, against plain loops."""

import functools
import math

import pytest
import torch
from processes import on_processes

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.sharded import sharded
from speechbrain_ext.processing.class_scores import ClassScores
from speechbrain_ext.utils.distributed import rank

CLASSES, SUB_CENTERS = 7, 3


def looked_up(split=False):
    """What the scores say, of one process or of two with a split head."""
    torch.manual_seed(3)
    head = functools.partial(
        CosineClassifier, input_size=5, sub_centers=SUB_CENTERS
    )
    head = (sharded(head) if split else head)(out_neurons=CLASSES)
    head.keeps_sub_cosines = True
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(6, 1, 5, generator=rng)
    labels = torch.randint(CLASSES, (6, 1), generator=rng)
    mine = slice(3 * rank(), 3 * rank() + 3) if split else slice(None)
    shard = getattr(head, "shard", None)
    outputs = head(x[mine])
    scores = ClassScores(outputs, labels[mine], shard, head.sub_cosines)
    torch.testing.assert_close(
        scores.mine(scores.labels), labels[mine].squeeze(1)
    )
    return {
        "outputs": outputs.detach().squeeze(1),
        "sub": head.sub_cosines.squeeze(1),
        "labels": scores.labels,
        "own": scores.own,
        "place": scores.place(),
        "place with a margin": scores.place(0.2),
        "best": scores.best[0],
        "best class": scores.best[1],
        "loss": scores.cross_entropy(30.0, 0.2),
        "logit loss": scores.cross_entropy(1.0, 0),
        "probability": scores.best_probability(30.0),
        "sub-centers": scores.label_sub_cosines(),
    }


def test_scores_match_loops():
    found = looked_up()
    for i, label in enumerate(found["labels"].tolist()):
        row = found["outputs"][i].tolist()
        assert found["own"][i] == row[label]
        others = row[:label] + row[label + 1 :]
        assert found["place"][i] == sum(other > row[label] for other in others)
        assert found["place with a margin"][i] == sum(
            other > row[label] - 0.2 for other in others
        )
        assert found["best"][i] == max(row)
        assert found["best class"][i] == row.index(max(row))
        angle = math.acos(row[label]) + 0.2
        logits = [30 * other for other in row]
        total = sum(math.exp(other) for other in logits)
        assert found["probability"][i].item() == pytest.approx(
            math.exp(max(logits)) / total, rel=1e-4
        )
        logits[label] = 30 * math.cos(angle)
        total = sum(math.exp(other) for other in logits)
        assert found["loss"][i].item() == pytest.approx(
            math.log(total) - logits[label], rel=1e-3, abs=1e-6
        )
        total = sum(math.exp(other) for other in row)
        assert found["logit loss"][i].item() == pytest.approx(
            math.log(total) - row[label], rel=1e-4
        )
        assert torch.equal(found["sub-centers"][i], found["sub"][i, label])


def test_two_processes_with_a_split_head_say_the_same():
    wanted = looked_up()
    for found in on_processes(looked_up, 2, True):
        for name in wanted.keys() - {"outputs", "sub"}:
            torch.testing.assert_close(found[name], wanted[name])


def test_a_small_loss_is_exact():
    outputs = torch.tensor([[[1.0, -1.0]]])
    scores = ClassScores(outputs, torch.tensor([[0]]))
    found = scores.cross_entropy(30.0, 0.0).item()
    assert found == pytest.approx(math.exp(-60), rel=1e-4)


def test_logits_of_half_precision_become_float32():
    outputs = torch.zeros(1, 1, 2, dtype=torch.bfloat16)
    assert ClassScores(outputs, torch.tensor([[0]])).own.dtype == torch.float32
