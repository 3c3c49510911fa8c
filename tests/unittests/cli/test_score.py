"""score: the scores of the back end, and lists that do not fit."""

import shutil

import numpy as np
import pytest
import torch
from command_runs import add_calibrations, answer, refusal, run

from speechbrain_ext.cli.encoders import open_verifier
from speechbrain_ext.dataio.score_files import read_scores
from speechbrain_ext.utils.metrics import EER


@pytest.fixture(scope="module")
def trials(corpus, tmp_path_factory):
    """A trial list of four trials of two speakers."""
    first, second = sorted((corpus / "wav").iterdir())[:2]
    one, other = sorted(first.rglob("*.wav"))[:2]
    third = min(second.rglob("*.wav"))
    root = corpus / "wav"
    names = [path.relative_to(root).as_posix() for path in (one, other, third)]
    path = tmp_path_factory.mktemp("lists") / "trials.txt"
    pairs = [(1, 0, 1), (0, 0, 2), (0, 1, 2), (1, 1, 0)]
    path.write_text(
        "".join(f"{label} {names[a]} {names[b]}\n" for label, a, b in pairs)
    )
    return path


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of the encoder, with calibrations and a cohort."""
    copied = shutil.copytree(exported, tmp_path / "pretrained")
    add_calibrations(copied)
    return copied


def embeddings_of(verifier, root, names):
    """One row for each name of a trial list."""
    rows = [
        verifier.encode_stream(root / f"{n}.wav").reshape(-1) for n in names
    ]
    return torch.stack(rows)


def test_scores_are_those_of_the_back_end(
    folder, corpus, trials, tmp_path, capsys
):
    words = ["score", trials, "--audio", corpus, "--encoder", folder]
    verifier, root = open_verifier(folder), corpus / "wav"
    for scoring in ("cosine", "asnorm"):
        out = tmp_path / f"{scoring}.txt"
        _, values = answer(capsys, *words, "--out", out, f"--scoring={scoring}")
        enrol, test, found, targets = read_scores(out)
        rows = embeddings_of(verifier, root, [*enrol, *test])
        expected = verifier.decisions.back_end.scores(
            scoring, rows, range(4), range(4, 8)
        )
        np.testing.assert_allclose(found, expected, atol=1e-4)
        eer, _ = EER(found[targets], found[~targets])
        assert values["eer"] == eer and values["trials"] == 4
        assert values["files"] == 3 and values["scoring"] == scoring
    plain = read_scores(tmp_path / "cosine.txt")[2]
    out = tmp_path / "ratios.txt"
    run(capsys, *words, "--out", out, "--scoring=cosine", "--llr")
    ratios = read_scores(out)[2]
    np.testing.assert_allclose(ratios, 10 * plain - 5, rtol=1e-9)
    # the default is that of SpeakerVerifier.verify
    _, values = answer(capsys, *words, "--out", tmp_path / "default.txt")
    assert values["scoring"] == "asnorm"
    run(capsys, *words, "--out", tmp_path / "k.txt", "--form=kaldi")
    assert len((tmp_path / "k.txt").read_text().split()) == 12


@pytest.mark.parametrize("kind", ["no labels", "targets alone"])
def test_lists_without_error_rates_are_scored(
    kind, exported, corpus, trials, tmp_path, capsys
):
    words = ["--audio", corpus, "--encoder", exported, "--out"]
    run(capsys, "score", trials, *words, tmp_path / "all.txt")
    _, _, expected, targets = read_scores(tmp_path / "all.txt")
    lines = trials.read_text().splitlines()
    if kind == "no labels":
        lines = [line.partition(" ")[2] for line in lines]
    else:
        lines = [line for line in lines if line.startswith("1")]
        expected = expected[targets]
    listed, out = tmp_path / "blind.txt", tmp_path / "blind_scores.txt"
    listed.write_text("\n".join(lines))
    code, values = answer(capsys, "score", listed, *words, out)
    assert code == 0 and values["trials"] == len(lines)
    assert "eer" not in values and "min_dcf" not in values
    fields = [line.split() for line in out.read_text().splitlines()]
    assert [float(field[2]) for field in fields] == expected.tolist()
    if kind == "no labels":
        assert {len(field) for field in fields} == {3}
        assert "targets" not in values
        asked = ["score", listed, *words, out, "--form=wespeaker"]
        assert "has none; leave --form out" in refusal(capsys, *asked)
    else:
        assert {field[3] for field in fields} == {"target"}
        assert values["targets"] == len(lines)


def test_models_are_the_mean_of_their_files(
    exported, corpus, trials, tmp_path, capsys
):
    lines = trials.read_text().split("\n")
    first, other = lines[0].split()[1:]
    third = lines[1].split()[2]
    (tmp_path / "models.txt").write_text(f"m {first} {other}\n")
    listed = tmp_path / "list.txt"
    listed.write_text(f"1 m {first}\n0 m {third}\n")
    out = tmp_path / "scores.txt"
    words = ["score", listed, "--audio", corpus / "wav", "--out", out]
    words += ["--encoder", exported, "--models", tmp_path / "models.txt"]
    assert run(capsys, *words)[0] == 0
    verifier = open_verifier(exported)
    names = [name.removesuffix(".wav") for name in (first, other, third)]
    rows = embeddings_of(verifier, corpus / "wav", names)
    unit = torch.nn.functional.normalize(rows, dim=1)
    model = torch.nn.functional.normalize(unit[:2].mean(dim=0), dim=0)
    expected = [model @ unit[0], model @ unit[2]]
    np.testing.assert_allclose(read_scores(out)[2], expected, atol=1e-4)


def test_a_model_that_is_missing_is_named_at_once(
    corpus, trials, tmp_path, capsys
):
    first, other = trials.read_text().split()[1:3]
    models = tmp_path / "models.txt"
    models.write_text(f"m {first}\no.wav {first}\n")
    listed = tmp_path / "list.txt"
    words = ["score", listed, "--audio", corpus / "wav", "--models", models]
    words += ["--out", tmp_path / "scores.txt", "--encoder", "no/such"]
    listed.write_text(f"1 m {other}\n0 o.wav {other}\n")
    assert "no/such has no hyperparams.yaml" in refusal(capsys, *words)
    listed.write_text(f"1 m {other}\n0 n {other}\n")
    said = refusal(capsys, *words)
    assert "names 1 model that " in said and "lacks, for example n;" in said


def test_what_is_missing_is_named(exported, corpus, trials, tmp_path, capsys):
    out = tmp_path / "scores.txt"
    words = ["score", trials, "--encoder", exported, "--out", out, "--audio"]
    one = next(iter((corpus / "wav").iterdir())).name
    said = refusal(capsys, *words, corpus / "wav" / one)
    assert "without an audio file in --audio" in said
    both = tmp_path / "both"
    for name in ("a", "b"):
        shutil.copytree(corpus / "wav", both / name)
    assert "has two files in --audio" in refusal(capsys, *words, both)
    said = refusal(capsys, *words, corpus, "--llr")
    assert "--llr needs a calibration of cosine" in said
    said = refusal(capsys, *words, corpus, "--scoring=asnorm")
    assert "The scoring asnorm is not available" in said
    path = next((both / "a").rglob(trials.read_text().split()[1]))
    path.write_bytes(b"")
    said = refusal(capsys, *words, both / "a")
    assert "1 of 3 files cannot be used" in said and str(path) in said
    out.write_text("a thesis")
    assert "scores.txt was not written by" in refusal(capsys, *words, corpus)
    assert out.read_text() == "a thesis"
