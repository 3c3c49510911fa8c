"""PLDA trial by trial against SpeechBrain's scoring of every pair."""

import numpy as np
import pytest
import torch
from speechbrain.processing.PLDA_LDA import (
    Ndx,
    StatObject_SB,
    fast_PLDA_scoring,
)

from speechbrain_ext.processing.plda import PLDAScorer
from speechbrain_ext.utils.metrics import EER


def voices(speakers=40, utterances=6, size=12, seed=0):
    """Embeddings whose speakers differ in half of the dimensions."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(speakers, size, generator=generator) + 1.0
    means[:, size // 2 :] = 0
    noise = torch.randn(speakers * utterances, size, generator=generator)
    noise[:, size // 2 :] *= 3
    names = [f"s{i // utterances}" for i in range(speakers * utterances)]
    return means.repeat_interleave(utterances, 0) + 0.7 * noise, names


def stats(vectors):
    names = np.array([str(i) for i in range(len(vectors))], "O")
    none = np.full(len(vectors), None)
    ones = np.ones((len(vectors), 1))
    return StatObject_SB(names, names, none, none, ones, vectors), names


def test_scores_match_speechbrains():
    embeddings, names = voices()
    scorer = PLDAScorer(embeddings, names, rank=5)
    enrol, test = torch.randint(len(names), (2, 50))
    found = scorer.scores(embeddings, enrol, test, block_size=7)
    mean = embeddings.double().mean(dim=0)
    vectors = torch.nn.functional.normalize(embeddings.double() - mean)
    one, names = stats(vectors.numpy())
    other, _ = stats(vectors.numpy())
    model = scorer.model
    expected = fast_PLDA_scoring(
        *(one, other, Ndx(models=names, testsegs=names)),
        *(model.mean, model.F, model.Sigma),
        check_missing=False,
    ).scoremat
    np.testing.assert_allclose(found, expected[enrol, test], atol=1e-9)


def test_plda_finds_the_dimensions_that_tell_speakers():
    embeddings, names = voices()
    scorer = PLDAScorer(embeddings, names, rank=6)
    unseen, names = voices(seed=1)
    rows = torch.arange(len(names))
    enrol, test = torch.cartesian_prod(rows, rows).T
    target = torch.tensor(
        [names[e] == names[t] for e, t in zip(enrol, test, strict=True)]
    )
    target, others = target & (enrol != test), ~target
    scores = scorer.scores(unseen, enrol, test)
    unit = torch.nn.functional.normalize(unseen)
    cosines = (unit @ unit.T).flatten()
    errors = [EER(s[target], s[others])[0] for s in (scores, cosines)]
    assert errors[0] < 0.8 * errors[1]


def test_scores_do_not_depend_on_the_order_of_a_trial():
    embeddings, names = voices(10)
    scorer = PLDAScorer(embeddings, names, rank=100)
    torch.testing.assert_close(
        scorer.scores(embeddings, [0, 1], [7, 2]),
        scorer.scores(embeddings, [7, 2], [0, 1]),
    )


@pytest.mark.parametrize(
    "names", [["a"] * 50 + ["b"] * 50, [str(i) for i in range(100)]]
)
def test_plda_rejects_too_few_speakers_or_utterances(names):
    with pytest.raises(ValueError, match="PLDA needs 3 speakers"):
        PLDAScorer(torch.randn(100, 4), names)
    with pytest.raises(ValueError, match="100 dimensions, got 3 speakers"):
        PLDAScorer(torch.randn(9, 100), list("aaabbbccc"))
