"""embed: the embeddings of SpeakerVerifier, and files that fail."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from command_runs import answer, refusal, run, unusable

from speechbrain_ext.cli.embed import (
    embed_files,
    most_failures,
    require_few,
    write_embeddings,
)
from speechbrain_ext.cli.encoders import open_verifier
from speechbrain_ext.dataio.audio_files import list_audio


@pytest.fixture(scope="module")
def audio(corpus, tmp_path_factory):
    """A folder with five files."""
    folder = tmp_path_factory.mktemp("audio")
    for number, path in enumerate(sorted((corpus / "wav").rglob("*.wav"))[:5]):
        shutil.copy(path, folder / f"{number}.wav")
    return folder


def test_embeddings_are_those_of_the_verifier(
    exported, audio, tmp_path, capsys
):
    out = tmp_path / "made.npz"
    code, values = answer(
        capsys, "embed", audio, "--encoder", exported, "--out", out
    )
    assert code == 0 and values["embeddings"] == 5 and values["failed"] == {}
    held, verifier = np.load(out), open_verifier(exported)
    assert held["ids"].tolist() == [f"{number}.wav" for number in range(5)]
    assert str(held["fingerprint"]) == verifier.fingerprint
    for name, row in zip(held["ids"], held["embeddings"], strict=True):
        expected = verifier.encode_stream(audio / str(name)).reshape(-1)
        torch.testing.assert_close(
            torch.from_numpy(row), expected, rtol=0, atol=1e-5
        )


def test_pieces_of_files_are_embedded(exported, audio, tmp_path):
    table = tmp_path / "pieces.csv"
    table.write_text(f"ID,wav,start,stop\nb,{audio}/0.wav,3000,-1\n")
    verifier = open_verifier(exported)
    found, rows, failures = embed_files(verifier, list_audio([table]))
    speech, rate = soundfile.read(audio / "0.wav", dtype="float32")
    expected = verifier.encode_batch(torch.from_numpy(speech[3000:])[None])
    assert not failures and found.start.tolist() == [3000]
    assert np.allclose(rows[0], expected.reshape(-1), atol=1e-5)
    table.write_text(f"ID,wav,start,stop\nb,{audio}/0.wav,3000,{10**7}\n")
    _, _, failures = embed_files(verifier, list_audio([table]))
    assert "fewer than its list says" in failures["b"]


def test_long_files_are_embedded_in_blocks(exported, audio, tmp_path):
    speech, rate = soundfile.read(audio / "0.wav")
    tiled = np.tile(speech, 1 + 61 * rate // len(speech))
    soundfile.write(tmp_path / "long.wav", tiled, rate)
    soundfile.write(tmp_path / "lost.wav", 0 * tiled, rate)
    verifier, seen = open_verifier(exported), []
    verifier.mods.compute_features.front_end.register_forward_hook(
        lambda module, given, out: seen.append(given[0].shape[1])
    )
    found, rows, failures = embed_files(verifier, list_audio([tmp_path]))
    assert max(seen) == 36 * rate
    assert found.ID.tolist() == ["long.wav"]
    assert "0.000 s of sound" in failures["lost.wav"]
    expected = verifier.encode_stream(tmp_path / "long.wav").reshape(-1)
    assert np.array_equal(rows[0], expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_files_that_fail_are_named(workers, exported, audio, tmp_path, capsys):
    folder, out = tmp_path / "audio", tmp_path / "made.npz"
    shutil.copytree(audio, folder)
    bad = dict(unusable(folder))
    words = ["embed", folder, "--encoder", exported, "--out", out]
    words += ["--workers", workers]
    said = refusal(capsys, *words, "--max-failed=5")
    assert "6 of 11 files cannot be used, and --max-failed allows 5" in said
    for path, reason in bad.items():
        assert path.name in said and reason in said
    assert "prepare.json" not in said and not out.exists()
    code, text, err = run(capsys, *words, "--max-failed=6")
    assert code == 0 and "5 embeddings of 8 numbers, 6 files left" in text
    code, values = answer(capsys, *words, "--max-failed=60%")
    assert code == 0
    assert set(values["failed"]) == {path.name for path in bad}
    assert np.load(out)["ids"].tolist() == [f"{n}.wav" for n in range(5)]
    for path in folder.glob("?.wav"):
        path.unlink()
    assert "No file can be used" in refusal(capsys, *words, "--max-failed=99")


def test_outputs_replace_no_file_of_the_user(exported, audio, tmp_path, capsys):
    out = tmp_path / "made.npz"
    words = ["embed", audio, "--encoder", exported, "--out"]
    out.write_text("a thesis")
    assert "made.npz was not written by" in refusal(capsys, *words, out)
    assert out.read_text() == "a thesis"
    for wrong, said in (
        (tmp_path / "made.txt", "must end in .npz, .parquet or .ark"),
        (tmp_path / "no" / "made.npz", "does not exist"),
    ):
        assert said in refusal(capsys, *words, wrong)
    words += [tmp_path / "new.npz"]
    for option, said in (
        ("--max-failed=many", "--max-failed must be a number of files"),
        ("--max-failed=101%", "--max-failed must be a number of files"),
        ("--workers=-1", "--workers must be 0 or more"),
        ("--batch-seconds=nan", "--batch-seconds must be 0 or more"),
        ("--device=gpu", "`device` gpu cannot be used"),
    ):
        assert said in refusal(capsys, *words, option)
    assert not (tmp_path / "new.npz").exists()


def test_the_share_of_failures_is_exact():
    assert most_failures("50%", 3) == 1 and most_failures("0.1%", 1000) == 1
    failures = {f"{number}.wav": "silence." for number in range(30)}
    with pytest.raises(ValueError, match="and 10 more. Nothing is written"):
        require_few(failures, 100, "29")
    require_few(failures, 100, "30%")


def test_parquet_has_a_row_for_each_file(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    write_embeddings(tmp_path / "made.parquet", ["a", "b b", "c"], rows, "0f")
    table = pd.read_parquet(tmp_path / "made.parquet")
    assert table["id"].tolist() == ["a", "b b", "c"]
    assert np.array_equal(np.stack(table["embedding"]), rows)


def test_ark_is_read_by_kaldiio(tmp_path):
    kaldiio = pytest.importorskip("kaldiio", reason="it is not installed")
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    path = tmp_path / "made.ark"
    write_embeddings(path, ["a/1", "b", "c"], rows, "0f")
    for found in (
        dict(kaldiio.load_ark(str(path))),
        kaldiio.load_scp(str(tmp_path / "made.scp")),
    ):
        assert list(found) == ["a/1", "b", "c"]
        assert np.array_equal(np.stack([found[key] for key in found]), rows)
    with pytest.raises(ValueError, match="cannot have the ID 'a b'"):
        write_embeddings(path, ["a b"], rows[:1], "0f")
    (tmp_path / "other.scp").write_text("a thesis")
    with pytest.raises(FileExistsError, match="other.scp was not written"):
        write_embeddings(tmp_path / "other.ark", ["a"], rows[:1], "0f")
    assert not (tmp_path / "other.ark").exists()


def test_an_old_index_does_not_name_new_vectors(tmp_path, monkeypatch):
    pytest.importorskip("kaldiio", reason="it is not installed")
    path = tmp_path / "made.ark"
    write_embeddings(path, ["a", "b"], np.ones((2, 4), np.float32), "0f")

    def killed(source, target):
        assert not (tmp_path / "made.scp").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_embeddings(path, ["longer"], np.zeros((1, 4), np.float32), "0f")
    monkeypatch.undo()
    write_embeddings(path, ["longer"], np.zeros((1, 4), np.float32), "0f")
    assert (tmp_path / "made.scp").read_text().startswith("longer ")


@pytest.mark.parametrize("name", ["pyarrow", "kaldiio"])
def test_a_package_that_is_missing_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    suffix = {"pyarrow": "parquet", "kaldiio": "ark"}[name]
    rows = np.ones((1, 4), np.float32)
    with pytest.raises(ImportError, match=f"pip install {name}"):
        write_embeddings(tmp_path / f"made.{suffix}", ["a"], rows, "0f")
