"""Calibrated scorings of a back end."""

import numpy as np
import pandas as pd
import pytest
import torch

from speechbrain_ext.processing.back_end import BackEnd
from speechbrain_ext.processing.calibrated import (
    calibrate_scoring,
    fit_calibrations,
    scores_by_name,
)
from speechbrain_ext.utils.metrics import EER, Cllr


@pytest.fixture
def cohort():
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


def test_ratios_are_better_than_scores_and_order_stays(cohort):
    table, back_end = cohort
    names = ["cosine", "asnorm_qmf"]
    fitted = {n: calibrate_scoring(n, back_end, table, 2000) for n in names}
    enrol, test = torch.randint(
        180, (2, 3000), generator=torch.Generator().manual_seed(1)
    )
    found = {
        name: (words, scores, ratios)
        for name, words, scores, ratios in scores_by_name(
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
    assert [ratios for *_, ratios in found.values()] == [False, True, True]
    words = [words for words, *_ in found.values()]
    assert words[1:] == [
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


def test_draws_are_the_seeds_and_of_the_speakers_asked(cohort, caplog):
    table, back_end = cohort
    one, again, other = (
        calibrate_scoring("cosine", back_end, table, 500, seed)
        for seed in (1, 1, 2)
    )
    assert one.weights.tolist() == again.weights.tolist()
    assert one.weights.tolist() != other.weights.tolist()
    assert "nontarget trials alone" not in caplog.text
    calibrate_scoring("cosine", back_end, table, 59)
    assert "cosine is calibrated on 29 target and 30 nontarget" in caplog.text
    with pytest.raises(ValueError, match="speaker"):
        calibrate_scoring("cosine", back_end, table, 500, 1, 0.5, ["s00"])


def test_what_cannot_be_fitted_is_left_out_and_said(cohort, caplog):
    table, back_end = cohort
    found = fit_calibrations(["cosine", "ploda"], back_end, table, 500)
    assert list(found) == ["cosine"]
    assert "ploda is not calibrated: `scorings` must" in caplog.text
    assert fit_calibrations(["cosine"], back_end, table[:1], 500) == {}
