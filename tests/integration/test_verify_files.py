"""Two files compared by the command line: decisions, and a sentence each."""

import json
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch
from verification_runs import error_of

from speechbrain_ext.processing.calibration import (
    Calibration,
    save_calibrations,
)


@pytest.fixture
def main(script):
    """The script's function."""
    return script("verify_files").main


@pytest.fixture(scope="module")
def files(corpus):
    """Two files of speech."""
    return sorted((corpus / "wav").rglob("*.wav"))[:2]


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of the encoder."""
    return shutil.copytree(exported, tmp_path / "pretrained")


def printed(main, capsys, *argv):
    """The cosine that is printed, and the line."""
    main([str(word) for word in argv])
    line = capsys.readouterr().out.strip()
    return float(re.match(r"cosine (-?\d\.\d{4}): ", line)[1]), line


def test_order_channels_and_repetition_change_nothing(
    main, folder, files, tmp_path, capsys
):
    one, other = files
    found, line = printed(main, capsys, folder, one, other)
    assert "by SpeechBrain's threshold of 0.25" in line
    assert printed(main, capsys, folder, other, one)[0] == found
    assert printed(main, capsys, folder, one, one)[0] == 1.0
    speech, rate = soundfile.read(one)
    stereo = tmp_path / "stereo=1 .flac"
    soundfile.write(stereo, np.stack([speech, speech], 1), rate)
    assert printed(main, capsys, folder, stereo, other)[0] == found
    soundfile.write(tmp_path / "8k.wav", speech[::2], rate // 2)
    assert printed(main, capsys, folder, tmp_path / "8k.wav", other)


def test_cosine_is_that_of_speechbrains_interface(main, folder, files, capsys):
    from speechbrain.inference.speaker import SpeakerRecognition

    verification = SpeakerRecognition.from_hparams(source=str(folder))
    wavs = [
        torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
        for path in files
    ]
    score, _ = verification.verify_batch(*wavs)
    found, _ = printed(main, capsys, folder, *files)
    assert found == pytest.approx(score.item(), abs=1e-4)


def test_decision_is_that_of_the_calibration(main, folder, files, capsys):
    cosine, _ = printed(main, capsys, folder, *files)
    for shift, words in ((-0.01, "the same"), (0.01, "different")):
        fitted = Calibration(
            [10.0], -10 * (cosine + shift), ["cosine"], 0.5, [-1.0, 1.0]
        )
        (folder / "calibration.json").unlink(missing_ok=True)
        save_calibrations(folder / "calibration.json", {"cosine": fitted})
        _, line = printed(main, capsys, folder, *files)
        assert words in line and "log-likelihood ratio" in line
        assert "extrapolation" not in line
        _, line = printed(main, capsys, folder, *files, "--p_target=0.001")
        assert "different" in line and "a prior of 0.001" in line
    fitted = Calibration([1.0], 0.0, ["cosine"], 0.5, [-1.0, cosine - 0.01])
    (folder / "calibration.json").unlink()
    save_calibrations(folder / "calibration.json", {"cosine": fitted})
    assert (
        "so the ratio is an extrapolation"
        in printed(main, capsys, folder, *files)[1]
    )


def test_a_prior_without_a_calibration_is_said(main, folder, files):
    (folder / "calibration.json").unlink(missing_ok=True)
    said = error_of(main, folder, *files, "--p_target=0.01")
    assert "needs a calibration" in said


@pytest.mark.parametrize("p_target", ["0", "1", "5", "-0.5", "nan", "inf"])
def test_prior_that_is_no_probability_is_said(p_target, main, folder, files):
    said = error_of(main, folder, *files, f"--p_target={p_target}")
    assert f"must be a probability in (0, 1), got {p_target}" in said


def broken_audio(folder):
    """Files that cannot be compared, and what is said of each."""
    rate, seconds = 16000, np.random.default_rng(0).normal(0, 0.1, 16000)
    nan = seconds.copy()
    nan[5000] = np.nan
    made = {
        "nan.wav": (nan, "FLOAT", "finite"),
        "silence.wav": (np.zeros(16000), "PCM_16", "silence"),
        "short.wav": (seconds[:300], "PCM_16", "0.1 s"),
        "one.wav": (seconds[:1], "PCM_16", "silence"),
        "nothing.wav": (seconds[:0], "PCM_16", "no samples"),
    }
    for name, (samples, kind, words) in made.items():
        soundfile.write(folder / name, samples, rate, kind)
        yield name, words
    (folder / "empty.wav").touch()
    yield "empty.wav", "empty.wav cannot be used"
    (folder / "text.wav").write_text("no audio" * 1000)
    yield "text.wav", "text.wav cannot be used"
    soundfile.write(folder / "cut.wav", seconds, rate)
    whole = (folder / "cut.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[:5000])
    yield "cut.wav", "cut.wav cannot be used"
    (folder / "folder.wav").mkdir()
    yield "folder.wav", "is not a file"
    yield "missing.wav", "does not exist"


def test_files_that_cannot_be_compared_are_said(main, folder, files, tmp_path):
    for name, words in broken_audio(tmp_path):
        for pair in ((tmp_path / name, files[0]), (files[0], tmp_path / name)):
            said = error_of(main, folder, *pair)
            assert words in said, said
            assert name in said


def test_folders_that_cannot_be_used_are_said(
    main, folder, files, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (tmp_path / "no", "speechbrain/spkrec", files[0], tmp_path):
        said = error_of(main, name, *files)
        assert f"{name} has no hyperparams.yaml" in said
    state = torch.load(folder / "embedding_model.ckpt")
    state["embedding.weight"][0, 0] = torch.nan
    torch.save(state, folder / "embedding_model.ckpt")
    assert "embedding_model.ckpt has weights that are not finite" in error_of(
        main, folder, *files
    )
    assert "`device`" in error_of(main, folder, *files, "--device=cuda:77")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"cosine": 1}', '{"cosine": {"weights": [NaN]}}']
)
def test_calibrations_that_are_broken_are_said(text, main, folder, files):
    path = folder / "calibration.json"
    path.write_text(text)
    assert f"{path} is not a file of calibrations" in error_of(
        main, folder, *files
    )


def test_calibration_of_no_or_negative_weight_is_said(main, folder, files):
    path = folder / "calibration.json"
    kept = {"weights": [-1.0], "bias": 0.0, "features": ["cosine"]}
    path.write_text(json.dumps({"cosine": kept}))
    assert "must not be negative, got -1" in error_of(main, folder, *files)
    path.write_text(json.dumps({"cosine": {**kept, "weights": [0.0]}}))
    assert "One threshold needs" in error_of(main, folder, *files)
    path.unlink()
    path.mkdir()
    assert "calibration.json" in error_of(main, folder, *files)
