"""Encoders of the command line: with and without trust."""

import shutil

import pytest
import torch

from speechbrain_ext.cli.encoders import open_verifier, require_audio


def test_trust_changes_nothing_but_what_may_run(exported, corpus):
    path = str(min((corpus / "wav").rglob("*.wav")))
    found = [
        open_verifier(exported, trust=trust).encode_stream(path)
        for trust in (False, True)
    ]
    assert torch.equal(*found)


def test_code_in_a_folder_needs_trust(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "pretrained")
    (folder / "sums.json").unlink()
    with (folder / "hyperparams.yaml").open("a") as stream:
        stream.write("\nran: !apply:pathlib.Path.touch\n")
        stream.write(f"    - !new:pathlib.Path [{tmp_path / 'ran'}]\n")
    with pytest.raises(ValueError, match="!apply:pathlib.Path.touch is ref"):
        open_verifier(folder)
    assert not (tmp_path / "ran").exists()
    verifier = open_verifier(folder, trust=True)
    assert (tmp_path / "ran").exists()
    assert verifier.folder == folder and verifier.fingerprint


def test_a_device_that_is_not_there_is_named(exported):
    with pytest.raises(ValueError, match="`device` cuda:77 cannot be used"):
        open_verifier(exported, "cuda:77")


def test_headers_are_read_before_the_encoder(tmp_path):
    path = tmp_path / "text.wav"
    path.write_text("no audio")
    for wrong, words in (
        (path, "text.wav cannot be used"),
        (tmp_path, "is not a file"),
        (tmp_path / "no.wav", "does not exist"),
    ):
        with pytest.raises((ValueError, OSError), match=words):
            require_audio([wrong])
