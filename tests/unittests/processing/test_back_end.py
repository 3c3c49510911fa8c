"""Every scoring by its name, against the functions it stands for."""

import numpy as np
import pytest
import torch

from speechbrain_ext.processing.back_end import (
    SCORINGS,
    BackEnd,
    needs_cohort,
    scoring_label,
)
from speechbrain_ext.processing.plda import PLDAScorer
from speechbrain_ext.processing.score_normalization import normalise_scores
from speechbrain_ext.processing.scoring import (
    adaptive_s_norm,
    cosine_scores,
    speaker_means,
)


@pytest.fixture
def trials():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(20, 6, generator=generator) + 0.5
    return embeddings, *torch.randint(20, (2, 50), generator=generator)


@pytest.fixture
def cohort():
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(60, 6, generator=generator) + 0.4
    return embeddings, [f"s{i % 15}" for i in range(60)]


def expected(name, embeddings, enrol, test, cohort, speakers, top_n):
    """The scoring from the functions themselves."""
    mean = cohort.mean(dim=0) if name.endswith("_mean") else 0.0
    embeddings, base = embeddings - mean, name.removesuffix("_mean")
    if base == "plda":
        return PLDAScorer(cohort, speakers).scores(embeddings, enrol, test)
    scores = cosine_scores(embeddings, enrol, test)
    given = (
        scores,
        enrol,
        test,
        embeddings,
        speaker_means(cohort - mean, speakers)[0],
    )
    return {
        "cosine": lambda: scores,
        "znorm": lambda: normalise_scores(*given, kind="z"),
        "tnorm": lambda: normalise_scores(*given, kind="t"),
        "snorm": lambda: adaptive_s_norm(*given),
        "asnorm": lambda: adaptive_s_norm(*given, top_n=top_n),
        "asnorm2": lambda: normalise_scores(
            *given, top_n=top_n, selection="other"
        ),
    }[base]()


@pytest.mark.parametrize(
    "name", [*SCORINGS, *(f"{n}_mean" for n in SCORINGS if n != "plda")]
)
def test_scoring_is_what_its_name_says(name, trials, cohort):
    back_end = BackEnd(*cohort, top_n=5)
    torch.testing.assert_close(
        back_end.scores(name, *trials),
        expected(name, *trials, *cohort, top_n=5),
        rtol=1e-5,
        atol=1e-5,
    )


def test_cohort_can_be_of_utterances(trials, cohort):
    back_end = BackEnd(*cohort, top_n=5, by="utterance")
    scores = cosine_scores(*trials)
    torch.testing.assert_close(
        back_end.scores("asnorm", *trials),
        adaptive_s_norm(scores, *trials[1:], trials[0], cohort[0], 5),
    )


def test_own_speakers_can_be_left_out(cohort):
    back_end = BackEnd(*cohort, top_n=5)
    enrol, test = torch.arange(15), torch.arange(15, 30)  # of one speaker
    found = back_end.scores("asnorm", cohort[0], enrol, test, cohort[1])
    for trial in range(15):
        kept = torch.tensor([name != f"s{trial}" for name in cohort[1]])
        others = [name for name in cohort[1] if name != f"s{trial}"]
        alone = BackEnd(cohort[0][kept], others, top_n=5)
        rows = enrol[[trial]], test[[trial]]
        torch.testing.assert_close(
            found[[trial]],
            alone.scores("asnorm", cohort[0], *rows),
            rtol=1e-4,
            atol=1e-4,
        )


def test_quality_measures_are_those_of_both_sides(trials, cohort):
    embeddings, enrol, test = trials
    seconds = np.linspace(1, 30, 20)
    back_end = BackEnd(*cohort, top_n=5)
    found, names = back_end.qualities("asnorm_mean", *trials, seconds)
    assert found.shape == (50, 12)
    columns = dict(zip(names, found.T, strict=True))
    capped = np.minimum(seconds, 20)
    greater = np.maximum(capped[enrol], capped[test])
    np.testing.assert_allclose(columns["seconds max"], greater)
    norms = (embeddings - cohort[0].mean(dim=0)).norm(dim=1).numpy()
    np.testing.assert_allclose(
        columns["norm min"], np.minimum(norms[enrol], norms[test]), rtol=1e-5
    )
    assert len(BackEnd().qualities("cosine", *trials, seconds)[1]) == 8


def test_names_have_words_and_needs():
    assert scoring_label("snorm_mean") == "s-norm, mean subtracted"
    assert not needs_cohort(["cosine"])
    assert needs_cohort(["cosine", "cosine_mean"])
    for name in ("plda_mean", "cosin"):
        with pytest.raises(ValueError, match=f"`scorings` .* got '{name}'"):
            scoring_label(name)


def test_back_end_says_what_is_missing(trials, cohort):
    with pytest.raises(ValueError, match="snorm needs a cohort"):
        BackEnd().scores("snorm", *trials)
    with pytest.raises(ValueError, match="`by` must be .* got 'session'"):
        BackEnd(*cohort, by="session")
