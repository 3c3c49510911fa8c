"""The fingerprint of an encoder: what changes it, and what does not."""

import json

import pytest

from speechbrain_ext.inference import embedding_store
from speechbrain_ext.inference.embedding_store import model_fingerprint
from speechbrain_ext.utils.journal import JOURNAL
from speechbrain_ext.utils.seals import checksums
from speechbrain_ext.utils.temporaries import LOCK


def test_fingerprint_follows_what_makes_embeddings(tmp_path):
    (tmp_path / "hyperparams.yaml").write_text("a: 1")
    (tmp_path / "embedding_model.ckpt").write_bytes(b"weights")
    first = model_fingerprint(tmp_path)
    others = ["LICENSE", "README.md", "calibration.json", "encoder.onnx"]
    others += ["encoder.pt2", "normalization.npz", "sums.json"]
    for name in [*embedding_store.APART, JOURNAL, LOCK, *others]:
        (tmp_path / name).write_text("other")
    assert model_fingerprint(tmp_path) == first
    (tmp_path / "embedding_model.ckpt").write_bytes(b"Weights")
    assert model_fingerprint(tmp_path) != first
    # a folder from the Hub may have only one of the two forms
    (tmp_path / "embedding_model.safetensors").write_bytes(b"weights")
    sums = checksums(tmp_path, ["embedding_model.ckpt"])
    (tmp_path / "sums.json").write_text(json.dumps(sums))
    both = model_fingerprint(tmp_path)
    # without trust nobody loads a changed twin, with trust it is loaded
    (tmp_path / "embedding_model.ckpt").write_bytes(b"changed")
    assert model_fingerprint(tmp_path) != both
    (tmp_path / "embedding_model.ckpt").unlink()
    assert model_fingerprint(tmp_path) == both
    (tmp_path / "embedding_model.safetensors").write_bytes(b"Weights")
    assert model_fingerprint(tmp_path) != both
    # what no encoder of this folder reads
    names = ["hyperparams.yaml", "embedding_model.safetensors"]
    sums = checksums(tmp_path, names)
    (tmp_path / "sums.json").write_text(json.dumps(sums))
    sealed = model_fingerprint(tmp_path)
    for name in ("thesis.ckpt", "run.py", "notes.yaml"):
        (tmp_path / name).write_text("mine")
    assert model_fingerprint(tmp_path) == sealed
    (tmp_path / "hyperparams.yaml").write_text("a: !include:notes.yaml")
    changed = model_fingerprint(tmp_path)
    (tmp_path / "notes.yaml").write_text("other")
    assert model_fingerprint(tmp_path) != changed
    with pytest.raises(FileNotFoundError, match="no hyperparams"):
        model_fingerprint(tmp_path / "none")
