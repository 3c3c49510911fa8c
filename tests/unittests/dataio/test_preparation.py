"""Records of preparations: what is read again, and what is refused."""

import json
import logging
import pathlib

import pytest

from speechbrain_ext.dataio.preparation import (
    expand_trial_lists,
    log_summary,
    prepared_corpus,
    read_prepared,
    require_trial_lists,
)
from speechbrain_ext.dataio.text_files import text_digest
from speechbrain_ext.dataio.trials import read_trials


def test_a_finished_preparation_is_read_again(tmp_path):
    lists = ["/data/O.txt", "/data/E.txt"]
    (tmp_path / "prepare.json").write_text(json.dumps({"trial_lists": lists}))
    found = read_prepared(tmp_path)
    assert found == prepared_corpus(tmp_path, lists)
    assert found.trial_lists == tuple(map(pathlib.Path, lists))
    assert found.dev_trials == tmp_path / "dev_trials.txt"


def test_other_trial_lists_than_the_prepared_ones_are_refused(tmp_path):
    lists = [str(tmp_path / name) for name in ("O.txt", "E.txt")]
    for path in lists:
        pathlib.Path(path).write_text("1 a b\n")
    digests = {path: text_digest(path, "trial list") for path in lists}
    summary = {"trial_list_digests": digests}
    record = json.dumps({"trial_lists": lists, "summary": summary})
    (tmp_path / "prepare.json").write_text(record)
    for wanted in (None, lists, lists[::-1]):
        assert len(read_prepared(tmp_path, wanted).trial_lists) == 2
    with pytest.raises(ValueError, match="for other `trial_lists`.*False"):
        read_prepared(tmp_path, lists[:1])
    pathlib.Path(lists[1]).write_text("0 a b\n")
    with pytest.raises(ValueError, match=r"E.txt has changed since; set"):
        read_prepared(tmp_path)
    pathlib.Path(lists[1]).unlink()  # a training does not read it
    assert read_prepared(tmp_path) == prepared_corpus(tmp_path, lists)


def test_the_lists_of_an_enrolment_are_not_those_of_utterances(tmp_path):
    lists = [str(tmp_path / "enrolment" / "O.txt")]
    (tmp_path / "prepare.json").write_text(json.dumps({"trial_lists": lists}))
    assert read_prepared(tmp_path, lists).trial_lists
    with pytest.raises(ValueError, match="lists of an `enrolment`; set"):
        read_prepared(tmp_path)


def test_without_a_record_no_list_is_known(tmp_path):
    found = read_prepared(tmp_path)
    assert found.trial_lists is None
    assert found.train == tmp_path / "train.csv"
    with pytest.raises(FileNotFoundError, match="prepare.json .* `skip_prep`"):
        require_trial_lists(found, "/data")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", '{"trial_lists": 5}'),
        '{"trial_lists": [], "summary": 5}',
        '{"trial_lists": [], "summary": {"trial_list_digests": 5}}',
    ],
)
def test_a_broken_record_is_refused(tmp_path, text):
    path = tmp_path / "prepare.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path} is broken .*delete it"):
        read_prepared(tmp_path)


def test_lists_to_verify_are_required(tmp_path):
    with pytest.raises(ValueError, match="/data has no trial lists"):
        require_trial_lists(prepared_corpus(tmp_path, []), "/data")
    twice = prepared_corpus(tmp_path, ["/one/O.txt", "/two/O.txt"])
    with pytest.raises(ValueError, match="lists are called O,"):
        require_trial_lists(twice, "/data")


def test_lists_of_models_are_expanded_under_their_names(tmp_path):
    models = {"m": ["a/s/1", "a/s/2"]}
    for name in ("O", "E"):
        (tmp_path / f"{name}.txt").write_text(f"1 m {name}/s/1\n0 m b/s/1\n")
    lists = [str(tmp_path / "O.txt"), str(tmp_path / "E.txt")]
    found = expand_trial_lists(lists, models, tmp_path / "new")
    assert found == [str(tmp_path / "new" / n) for n in ("O.txt", "E.txt")]
    trials = read_trials(found[1])
    assert trials.test.tolist() == ["E/s/1", "E/s/1", "b/s/1", "b/s/1"]
    with pytest.raises(ValueError, match="lists are called O,"):
        expand_trial_lists(lists[:1] * 2, models, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_log_tells_what_was_left_out(caplog):
    summary = dict.fromkeys(("files", "speakers", "sessions", "test"), 3)
    summary |= {"seconds": 7200.0, "sample_rates": {"8000": 1, "16000": 2}}
    summary |= {"stereo": 1, "rejected": 2, "misplaced": 0, "trial_lists": 1}
    summary |= {"other_formats": {"m4a": 4}}
    with caplog.at_level(logging.INFO):
        log_summary(summary, "save/rejected.csv")
    said = caplog.text
    for words in (
        "3 sessions, 2.00 hours",
        "8000 Hz (1 files), 16000 Hz (2 files)",
        "2 unreadable files are left out: see save/rejected.csv",
        "other audio files left out: 4 m4a",
        "3 utterances, their speakers held out; trial lists: 1",
    ):
        assert words in said
    assert "training:" not in said
