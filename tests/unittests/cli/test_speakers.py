"""verify, enrol and identify: the numbers of SpeakerVerifier."""

import shutil

import pytest
import soundfile
import torch
from command_runs import add_calibrations, answer, refusal, run, unusable

from speechbrain_ext.cli.encoders import open_verifier
from speechbrain_ext.cli.speakers import compare_files
from speechbrain_ext.inference.speaker import SpeakerVerifier


@pytest.fixture(scope="module")
def files(corpus):
    """Files of two speakers: a, a and b."""
    first, second = sorted((corpus / "wav").iterdir())[:2]
    one, other = sorted(first.rglob("*.wav"))[:2]
    return [str(one), str(other), str(min(second.rglob("*.wav")))]


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of the encoder, with calibrations and a cohort."""
    copied = shutil.copytree(exported, tmp_path / "pretrained")
    add_calibrations(copied)
    return copied


@pytest.fixture
def people(tmp_path):
    """The options of a file of enrolments."""
    return tmp_path / "people" / "enrolled.npz"


def test_cosine_is_that_of_the_verifier(exported, files, capsys):
    verifier = SpeakerVerifier.from_folder(exported)
    for other in files:
        expected = verifier.verify_files(files[0], other)[0].item()
        _, values = answer(
            capsys, "verify", files[0], other, "--encoder", exported
        )
        assert values["cosine"] == pytest.approx(expected, abs=1e-6)
        assert values["score"] == values["cosine"]


def test_exit_code_is_the_decision(exported, files, capsys):
    words = ["verify", *files[:2], "--encoder", exported]
    _, values = answer(capsys, *words)
    score = values["score"]
    assert values["threshold"] == 0.25
    for shift, code, said in ((-1e-4, 0, "the same"), (1e-4, 1, "different")):
        found, out, err = run(capsys, *words, f"--threshold={score + shift}")
        assert (found, err) == (code, "")
        assert said in out and f"cosine {score:.4f}" in out


def test_calibration_decides(folder, files, capsys):
    words = ["verify", *files[:2], "--encoder", folder]
    code, values = answer(capsys, *words, "--p-target=0.1")
    assert values["scoring"] == "asnorm" and values["p_target"] == 0.1
    ratio = 2 * values["score"] - 1
    assert values["log_likelihood_ratio"] == pytest.approx(ratio)
    assert values["same_speaker"] == (code == 0)
    _, out, _ = run(capsys, *words, "--scoring=cosine", "--p-target=0.1")
    assert "at a prior of 0.1" in out and f"{values['cosine']:.4f}" in out
    wrong = refusal(capsys, *words, "--p-target=5")
    assert "(`p_target`, `p_known`) must be a probability in (0, 1)" in wrong
    assert "must be one of" in refusal(capsys, *words, "--scoring=no")


def test_a_score_without_a_threshold_is_no_decision(folder, files, capsys):
    words = ["verify", *files[:2], "--encoder", folder, "--scoring=snorm"]
    assert "pass --threshold" in refusal(capsys, *words)
    code, values = answer(capsys, *words, "--threshold=1e9")
    assert code == 1 and values["same_speaker"] is False


def test_formats_and_rates_are_read(exported, files, tmp_path, capsys):
    speech, rate = soundfile.read(files[0])
    for name in ("flac", "ogg"):
        soundfile.write(tmp_path / f"same.{name}", speech, rate)
        words = ["verify", files[0], tmp_path / f"same.{name}"]
        code, values = answer(capsys, *words, "--encoder", exported)
        assert code == 0 and values["cosine"] > 0.95


def test_enrolled_speakers_are_found(folder, files, people, capsys):
    options = ["--encoder", folder, "--enrolments", people]
    _, values = answer(capsys, "enrol", "ada", *files[:2], *options)
    assert values["speakers"] == ["ada"]
    _, out, _ = run(capsys, "enrol", "bob b", files[2], *options)
    assert out == f"bob b enrolled with 1 file in {people} (2 speakers)\n"
    verifier = SpeakerVerifier.from_folder(folder)
    verifier.use_enrolments(people)
    expected = verifier.identify(files[2], top=1)
    code, values = answer(
        capsys, "identify", files[2], "--top=1", "--p-known=0.5", *options
    )
    (best,) = values["candidates"]
    assert best["name"] == expected.candidates[0].name
    assert best["score"] == expected.candidates[0].score
    assert values["p_nobody"] == expected.p_nobody
    assert (code == 0) == (expected.name is not None)
    expected = verifier.verify("ada", files[1], 0.2)
    code, values = answer(
        capsys, "verify", "ada", files[1], "--p-target=0.2", *options
    )
    assert values["score"] == expected.score
    assert (code == 0) == expected.same_speaker
    _, values = answer(capsys, "enrol", "ada", "--remove", *options)
    assert values["speakers"] == ["bob b"]


def test_nobody_is_another_exit_code_than_an_error(
    exported, files, people, capsys
):
    options = ["--encoder", exported, "--enrolments", people]
    run(capsys, "enrol", "ada", files[0], *options)
    verifier = open_verifier(exported)
    verifier.use_enrolments(people)
    row = verifier.enrolments.read()["ada"]
    verifier.enrolments.add({"ada": -row}, replace=True)
    code, out, err = run(capsys, "identify", files[0], *options)
    assert (code, err) == (1, "")
    assert "nobody who is enrolled" in out
    code, values = answer(capsys, "identify", files[0], *options)
    assert code == 1 and values["name"] is None


def test_files_that_cannot_be_used_are_named(
    exported, files, people, tmp_path, capsys
):
    options = ["--encoder", exported]
    kept = [*options, "--enrolments", people]
    run(capsys, "enrol", "ada", files[0], *kept)
    before = people.read_bytes()
    for path, words in unusable(tmp_path):
        for call in (
            ["verify", path, files[0], *options],
            ["verify", files[0], path, *options],
            ["verify", "ada", path, *kept],
            ["enrol", "bob", files[0], path, *kept],
            ["identify", path, *kept],
        ):
            said = refusal(capsys, *call)
            assert words in said and path.name in said
    assert people.read_bytes() == before


def test_enrolments_that_cannot_be_used_are_named(
    exported, folder, files, people, tmp_path, capsys
):
    options = ["--encoder", exported, "--enrolments", people]
    words = ["identify", files[0], *options]
    assert f"{people} does not exist" in refusal(capsys, *words)
    run(capsys, "enrol", "ada", files[0], *options)
    again = ["enrol", "ada", files[1], *options]
    assert "'ada' is enrolled already in" in refusal(capsys, *again)
    assert "--replace" in refusal(capsys, *again)
    assert run(capsys, *again, "--replace")[0] == 0
    words = ["verify", "eve", files[0], *options]
    assert "'eve' is not enrolled in" in refusal(capsys, *words)
    words = ["enrol", "eve", "--remove", *options]
    assert "'eve' is not enrolled in" in refusal(capsys, *words)
    words = ["enrol", "ada", files[0], "--remove", *options]
    assert "--remove takes no audio files" in refusal(capsys, *words)
    assert "needs one audio file" in refusal(capsys, "enrol", "eve", *options)
    state = torch.load(folder / "embedding_model.ckpt")
    state["embedding.bias"] += 1
    torch.save(state, folder / "embedding_model.ckpt")
    (folder / "sums.json").unlink()
    (folder / "normalization.npz").unlink()
    other = ["--encoder", folder, "--enrolments", people]
    said = refusal(capsys, "identify", files[0], *other)
    assert "has the enrolments of another encoder" in said
    mine = tmp_path / "mine.npz"
    mine.write_text("a thesis")
    other = ["--encoder", exported, "--enrolments", mine]
    said = refusal(capsys, "enrol", "ada", files[0], *other)
    assert "mine.npz is damaged, or not a file of enrolments" in said
    assert mine.read_text() == "a thesis"


def test_compare_files_takes_a_threshold(exported, files):
    verifier = open_verifier(exported)
    found, cosine = compare_files(verifier, *files[:2], threshold=2.0)
    assert found.same_speaker is False and found.score == cosine
