"""Every scoring by its name, against its functions, and calibrated scores."""

import numpy as np
import pandas as pd
import pytest
import torch

from speechbrain_ext.processing.back_end import (
    BackEnd,
    calibrate_scoring,
    fit_calibrations,
    scores_by_name,
)
from speechbrain_ext.processing.cosine import cosine_scores, speaker_means
from speechbrain_ext.processing.plda import PLDAScorer
from speechbrain_ext.processing.score_normalization import (
    adaptive_s_norm,
    normalize_scores,
    trial_statistics,
)
from speechbrain_ext.processing.scoring import SCORINGS
from speechbrain_ext.utils.metrics import EER, Cllr


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
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    rows = enrol, test, embeddings, speaker_means(cohort - mean, speakers)[0]
    whole = trial_statistics(*rows)
    crossed = trial_statistics(*rows, top_n=top_n, selection="other")
    return {
        "cosine": lambda: scores,
        "znorm": lambda: normalize_scores(scores, whole, ["enrol"]),
        "tnorm": lambda: normalize_scores(scores, whole, ["test"]),
        "snorm": lambda: adaptive_s_norm(scores, *rows),
        "asnorm": lambda: adaptive_s_norm(scores, *rows, top_n=top_n),
        "asnorm2": lambda: normalize_scores(scores, crossed),
        "crops": lambda: -(unit[enrol] - unit[test]).norm(dim=1),
    }[base]()


@pytest.mark.parametrize("name", SCORINGS)
def test_scoring_is_what_its_name_says(name, trials, cohort):
    back_end = BackEnd(*cohort, top_n=5)
    embeddings, *rows = trials
    if name == "crops":  # one of each
        embeddings = embeddings[:, None]
    torch.testing.assert_close(
        back_end.scores(name, embeddings, *rows),
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


def test_back_end_says_what_is_missing(trials, cohort):
    with pytest.raises(ValueError, match="snorm needs a cohort"):
        BackEnd().scores("snorm", *trials)
    with pytest.raises(ValueError, match="`by` must be .* got 'session'"):
        BackEnd(*cohort, by="session")


@pytest.fixture
def calibration_set():
    """A manifest of 30 speakers with six utterances, and a back end."""
    generator = torch.Generator().manual_seed(0)
    speakers = [f"s{i // 6:02}" for i in range(180)]
    centers = torch.randn(30, 16, generator=generator)
    noise = torch.randn(180, 16, generator=generator)
    embeddings = centers.repeat_interleave(6, dim=0) + 0.6 * noise
    table = pd.DataFrame(
        {
            "ID": [f"{s}/{i}/1" for i, s in enumerate(speakers)],
            "spk_id": speakers,
            "duration": np.linspace(1, 9, 180),
        }
    )
    return table, BackEnd(embeddings, speakers, top_n=10)


def test_ratios_are_better_than_scores_and_order_stays(calibration_set):
    table, back_end = calibration_set
    names = ["cosine", "asnorm_qmf"]
    fitted = {n: calibrate_scoring(n, back_end, table, 2000) for n in names}
    enrol, test = torch.randint(
        180, (2, 3000), generator=torch.Generator().manual_seed(1)
    )
    found = {
        name: (label, scores, calibration)
        for name, label, scores, calibration in scores_by_name(
            ["cosine"],
            fitted,
            back_end,
            back_end.embeddings,
            enrol,
            test,
            table["duration"].to_numpy(),
        )
    }
    assert list(found) == ["cosine", "cosine_calibrated", "asnorm_qmf"]
    used = [calibration for *_, calibration in found.values()]
    assert used == [None, fitted["cosine"], fitted["asnorm_qmf"]]
    labels = [label for label, *_ in found.values()]
    assert labels == [
        "cosine",
        "cosine, calibrated",
        "AS-norm, calibrated with quality",
    ]
    speakers = table["spk_id"].to_numpy()
    targets = speakers[enrol.numpy()] == speakers[test.numpy()]
    plain, ratios = found["cosine"][1], found["cosine_calibrated"][1]
    assert EER(plain[targets], plain[~targets])[0] == pytest.approx(
        EER(ratios[targets], ratios[~targets])[0]
    )
    assert Cllr(ratios[targets], ratios[~targets]) < 0.5
    assert Cllr(plain[targets], plain[~targets]) > 0.5


def test_draws_are_the_seeds_and_of_the_speakers_asked(calibration_set, caplog):
    table, back_end = calibration_set
    one, again, other = (
        calibrate_scoring("cosine", back_end, table, 500, seed)
        for seed in (1, 1, 2)
    )
    assert one.weights.tolist() == again.weights.tolist()
    assert one.weights.tolist() != other.weights.tolist()
    assert "is calibrated on only" not in caplog.text
    calibrate_scoring("cosine", back_end, table, 59)
    assert "calibrated on only 29 target and 30 nontarget" in caplog.text
    one = table[table["spk_id"] == "s00"]
    embeddings = back_end.embeddings[one.index]
    with pytest.raises(ValueError, match="speaker"):
        calibrate_scoring("cosine", back_end, one, 500, 1, 0.5, embeddings)


def test_a_calibration_of_other_speakers_needs_no_cohort(calibration_set):
    table, back_end = calibration_set
    of_cohort = calibrate_scoring("cosine", back_end, table, 500)
    given = table, 500, 0, 0.5, back_end.embeddings
    alone = calibrate_scoring("cosine", BackEnd(), *given)
    assert alone.weights.tolist() == of_cohort.weights.tolist()
    found = fit_calibrations(["cosine", "asnorm"], BackEnd(), *given)
    assert list(found) == ["cosine"]
    # the same speakers in a cohort are left out of their own trials
    both = calibrate_scoring("asnorm", back_end, *given)
    assert both.weights.tolist() == (
        calibrate_scoring("asnorm", back_end, table, 500).weights.tolist()
    )


def test_what_cannot_be_fitted_is_left_out_and_said(calibration_set, caplog):
    table, back_end = calibration_set
    found = fit_calibrations(["cosine", "ploda"], back_end, table, 500)
    assert list(found) == ["cosine"]
    assert "ploda is not calibrated: `calibrate` must" in caplog.text
    assert fit_calibrations(["cosine"], back_end, table[:1], 500) == {}
