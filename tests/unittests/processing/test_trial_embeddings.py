"""Rows of embeddings by the names in trial lists."""

import pandas as pd
import pytest
import torch

from speechbrain_ext.processing.cosine import unit_length
from speechbrain_ext.processing.trial_embeddings import (
    TrialEmbeddings,
    require_models,
)

TABLE = pd.DataFrame(
    {
        "ID": ["a/s/1", "b/s/1", "a/t/1", "b/t/1"],
        "spk_id": ["a", "b", "a", "b"],
        "duration": [1.0, 2.0, 3.0, 4.0],
    }
)
EMBEDDINGS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def test_utterances_are_found_and_doubled_trials_count_twice(tmp_path):
    path = tmp_path / "list"
    path.write_text("0 b/t/1 a/s/1\n1 a/s/1 a/t/1\n0 b/t/1 a/s/1\n")
    rows = TrialEmbeddings(TABLE, EMBEDDINGS)
    trials, (enrol, test) = rows.trials(path)
    assert enrol.tolist() == [3, 0, 3] and test.tolist() == [0, 2, 0]
    assert trials["target"].tolist() == [False, True, False]
    path.write_text("0 b/t/1 x/s/1\n1 a/s/1 a/t/1\n")
    with pytest.raises(
        ValueError, match="1 test utterance without embeddings, .* x/s/1;"
    ):
        rows.trials(path)


def test_models_are_rows_behind_the_utterances(tmp_path):
    path = tmp_path / "list"
    path.write_text("0 m b/t/1\n1 m a/s/1\n")
    models = {"m": ["a/s/1", "a/t/1"], "gone": ["c/s/1"]}
    rows = TrialEmbeddings(TABLE, EMBEDDINGS, models)
    (tmp_path / "other").write_text("0 gone b/t/1\n1 m a/s/1\n")
    with pytest.raises(
        ValueError, match="1 enrolment without embeddings, .* gone;"
    ):
        rows.trials(tmp_path / "other")
    _, (enrol, test) = rows.trials(path)
    assert enrol.tolist() == [4, 4] and test.tolist() == [3, 0]
    assert rows.speakers[4] == "a" and rows.seconds[4] == 4.0
    assert len(rows.embeddings) == 5
    speakers = rows.trial_speakers((enrol, test))
    assert [side.tolist() for side in speakers] == [["a", "a"], ["b", "a"]]
    one, other = unit_length("embeddings", EMBEDDINGS)[[0, 2]]
    direction = torch.nn.functional.normalize(one + other, dim=0)
    made = torch.nn.functional.normalize(rows.embeddings[4], dim=0)
    torch.testing.assert_close(made, direction)


def test_odd_models_are_warned_of(tmp_path, caplog):
    path = tmp_path / "list"
    path.write_text("1 m b/s/1\n0 n a/s/1\n1 n a/t/1\n")
    models = {"m": ["a/s/1", "b/s/1"], "n": ["a/s/1"]}
    rows = TrialEmbeddings(TABLE, EMBEDDINGS, models)
    assert "of several speakers: 1, for example m" in caplog.text
    rows.trials(path)
    assert "the test utterance of 2 trials enrols the model" in caplog.text


def test_what_models_do_not_have_is_refused():
    require_models(None, ["crops"], "genders.csv")
    with pytest.raises(ValueError, match="scoring crops"):
        require_models("m.txt", ["cosine", "crops"])
    with pytest.raises(ValueError, match="`conditions`"):
        require_models("m.txt", ["cosine"], "genders.csv")
