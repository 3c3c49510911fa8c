"""The synthetic corpus: its layout, its bytes, its trials and its voices."""

import collections
import json

import numpy as np
import pytest
import soundfile

from speechbrain_ext.synthetic import toy_corpus
from speechbrain_ext.synthetic.toy_corpus import synthesise_corpus

SMALL = {
    "train_speakers": 2,
    "test_speakers": 3,
    "sessions": 2,
    "utterances": 2,
    "seconds": (0.5, 0.8),
    "trials": 24,  # every target pair there is
    "workers": 1,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A small corpus, written once by one process."""
    return synthesise_corpus(tmp_path_factory.mktemp("toy") / "one", **SMALL)


def contents(folder):
    """Every file of a folder with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def trial_rows(folder):
    """The columns of the trial list, one row a trial."""
    lines = (folder / "meta/veri_toy.txt").read_text().splitlines()
    return [line.split(" ") for line in lines]


def long_term_spectrum(signal):
    """Level-free mean log spectrum in 40 bands [bands]."""
    cut = np.lib.stride_tricks.sliding_window_view(signal, 512)[::160]
    power = np.abs(np.fft.rfft(cut * np.hanning(512))) ** 2
    bands = power[:, 1:241].reshape(len(cut), 40, 6).sum(axis=2)
    spectrum = np.log(bands.mean(axis=0))
    return spectrum - spectrum.mean()


def test_layout_is_that_of_voxceleb(corpus):
    expected = {
        f"wav/id{speaker}/s{session:02d}/{utterance:05d}.wav"
        for speaker in (10001, 10002, 20001, 20002, 20003)
        for session in (1, 2)
        for utterance in (1, 2)
    }
    extra = {"meta/veri_toy.txt", "toy_corpus.json"}
    assert set(contents(corpus)) == expected | extra


def test_recordings_are_16_bit_mono_of_the_durations_asked_for(corpus):
    for path in corpus.rglob("*.wav"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels) == (16000, 1)
        assert info.subtype == "PCM_16"
        assert 0.49 <= info.duration <= 0.81
        signal, _ = soundfile.read(path, dtype="int16")
        assert 3000 < np.max(np.abs(signal.astype(int))) < 32767


def test_sample_rate_is_honoured(tmp_path):
    options = {**SMALL, "seconds": (0.5, 0.5), "sample_rate": 8000}
    folder = synthesise_corpus(tmp_path / "toy", **options)
    info = soundfile.info(folder / "wav/id10001/s01/00001.wav")
    assert (info.samplerate, info.frames) == (8000, 62 * 64)


def test_bytes_do_not_depend_on_run_workers_or_size(corpus, tmp_path):
    two = synthesise_corpus(tmp_path / "two", **{**SMALL, "workers": 2})
    assert contents(two) == contents(corpus)
    options = {**SMALL, "train_speakers": 1, "utterances": 1, "trials": 4}
    fewer = contents(synthesise_corpus(tmp_path / "fewer", **options))
    everything = contents(corpus)
    recordings = [name for name in fewer if name.endswith(".wav")]
    assert len(recordings) == 8
    assert all(fewer[name] == everything[name] for name in recordings)


def test_recordings_and_seeds_all_differ(corpus, tmp_path):
    other = synthesise_corpus(tmp_path / "other", **SMALL, seed=7)
    recordings = [
        data
        for folder in (corpus, other)
        for name, data in contents(folder).items()
        if name.endswith(".wav")
    ]
    assert len(recordings) == len(set(recordings)) == 40
    assert trial_rows(other) != trial_rows(corpus)


def test_trials_are_of_test_speakers_alone(corpus):
    trained = {"id10001", "id10002"}
    for _, *paths in trial_rows(corpus):
        for path in paths:
            assert (corpus / "wav" / path).is_file()
            assert path.startswith("id2000")
            assert path.split("/")[0] not in trained


def test_trials_are_balanced_and_targets_cross_sessions(corpus):
    rows = trial_rows(corpus)
    labels = collections.Counter(label for label, _, _ in rows)
    assert labels == {"1": 12, "0": 12}
    assert len({frozenset(paths) for _, *paths in rows}) == len(rows)
    for label, enrol, test in rows:
        speakers, sessions = zip(
            enrol.split("/")[:2], test.split("/")[:2], strict=True
        )
        assert (speakers[0] == speakers[1]) == (label == "1")
        assert label == "0" or sessions[0] != sessions[1]
    assert [row[0] for row in rows] != sorted(row[0] for row in rows)


def test_finished_corpus_is_kept(corpus, monkeypatch):
    def fail(*arguments):
        raise AssertionError("written again")

    monkeypatch.setattr(toy_corpus, "_write_speaker", fail)
    assert synthesise_corpus(str(corpus), **SMALL) == corpus


def test_interrupted_run_leaves_nothing_and_can_be_repeated(
    corpus, tmp_path, monkeypatch
):
    write = toy_corpus._write_speaker

    def interrupt(folder, options, speaker):
        if speaker == 20001:
            raise KeyboardInterrupt
        write(folder, options, speaker)

    with monkeypatch.context() as patch:
        patch.setattr(toy_corpus, "_write_speaker", interrupt)
        with pytest.raises(KeyboardInterrupt):
            synthesise_corpus(tmp_path / "toy", **SMALL)
    assert list(tmp_path.iterdir()) == []
    again = synthesise_corpus(tmp_path / "toy", **SMALL)
    assert contents(again) == contents(corpus)


def test_corpus_finished_by_another_process_meanwhile_is_kept(
    tmp_path, monkeypatch
):
    build = toy_corpus._build

    def build_twice(folder, marker, workers):
        build(folder, marker, workers)
        build(tmp_path / "toy", marker, workers)

    monkeypatch.setattr(toy_corpus, "_build", build_twice)
    folder = synthesise_corpus(tmp_path / "toy", **SMALL)
    assert list(tmp_path.iterdir()) == [folder]


def test_folder_rejects_foreign_contents(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="no finished toy corpus"):
        synthesise_corpus(tmp_path, **SMALL)
    with pytest.raises(FileExistsError, match="thesis.txt"):
        synthesise_corpus(tmp_path / "thesis.txt", **SMALL)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_folder_rejects_a_corpus_of_other_options(corpus):
    before = contents(corpus)
    with pytest.raises(FileExistsError, match="'seed': 1234"):
        synthesise_corpus(corpus, **SMALL, seed=99)
    assert contents(corpus) == before


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("train_speakers", 0, "`train_speakers`.*got 0"),
        ("test_speakers", 1, "`test_speakers`.*got 1"),
        ("sessions", 1, "`sessions`.*got 1"),
        ("utterances", 0, "`utterances`.*got 0"),
        ("utterances", 1.5, "`utterances`.*got 1.5"),
        ("seconds", (-1.0, 2.0), r"`seconds`.*got \[-1.0, 2.0\]"),
        ("seconds", (3.0, 2.0), r"`seconds`.*got \[3.0, 2.0\]"),
        ("seconds", (float("nan"), 2.0), r"`seconds`.*got \[nan, 2.0\]"),
        ("seconds", 2.5, r"`seconds`.*got \[2.5\]"),
        ("trials", 23, "`trials` must be even.*got 23"),
        ("trials", 26, "`trials`.*at most 24.*got 26"),
        ("trials", 0, "`trials`.*got 0"),
        ("seed", -1, "`seed`.*got -1"),
        ("sample_rate", 4000, "`sample_rate`.*got 4000"),
        ("workers", 0, "`workers`.*got 0"),
        ("workers", True, "`workers`.*got True"),
    ],
)
def test_options_reject(tmp_path, name, value, match):
    with pytest.raises(ValueError, match=match):
        synthesise_corpus(tmp_path / "toy", **{**SMALL, name: value})
    assert list(tmp_path.iterdir()) == []


def test_sessions_change_the_sound_of_a_speaker(tmp_path):
    options = {**SMALL, "test_speakers": 2, "seconds": (1.5, 1.5), "trials": 2}
    folder = synthesise_corpus(tmp_path / "toy", **options)
    within, across = [], []
    for speaker in sorted((folder / "wav").iterdir()):
        first, second = (
            [
                long_term_spectrum(soundfile.read(path)[0])
                for path in sorted((speaker / session).iterdir())
            ]
            for session in ("s01", "s02")
        )
        within.append(np.linalg.norm(first[0] - first[1]))
        across.append(np.linalg.norm(first[0] - second[0]))
    assert np.mean(across) > 1.2 * np.mean(within)


def test_command_line_says_that_voices_are_synthetic(tmp_path, capsys):
    sizes = "--train_speakers 1 --test_speakers 2 --sessions 2 --trials 4"
    sizes += " --utterances 1 --seconds 0.5 0.6 --workers 1"
    toy_corpus.main([str(tmp_path / "toy"), *sizes.split()])
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "6 utterances" in printed and "synthetic" in printed
    marker = json.loads((tmp_path / "toy/toy_corpus.json").read_text())
    assert marker["options"]["seconds"] == [0.5, 0.6]


def test_command_line_rejects_with_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        toy_corpus.main([str(tmp_path / "toy"), "--sessions", "1"])
    assert "`sessions` must be" in capsys.readouterr().err
