"""The report on wrong labels: what it finds, and a sentence for each fault."""

import json
import shutil

import pandas as pd
import pytest
import torch
from verification_runs import error_of, export_encoder, speakers_of

from speechbrain_ext.dataio.manifests import (
    read_manifest,
    scan_corpus,
    write_manifest,
)

COLUMNS = ["ID", "duration", "wav", "start", "stop", "spk_id"]


@pytest.fixture
def main(script):
    """The script's function."""
    return script("noisy_label_report").main


@pytest.fixture(scope="module")
def manifest(corpus):
    """Twelve utterances of the training speakers."""
    table, _, _ = scan_corpus([corpus])
    table = table[table["spk_id"].isin(speakers_of(corpus)[0])]
    return table[COLUMNS].groupby("spk_id").head(2).reset_index(drop=True)


@pytest.fixture
def written(manifest, tmp_path):
    """The manifest as a file, with a label in four wrong."""
    noisy = manifest.assign(spk_id_clean=manifest["spk_id"])
    names = noisy["spk_id"].tolist()
    noisy["spk_id"] = [*names[1:], names[0]]
    path = tmp_path / "train_noisy.csv"
    noisy.to_csv(path, index=False)
    return path


def test_wrong_labels_are_reported(main, exported, written, tmp_path):
    main([str(exported), str(written), str(tmp_path / "out"), "--drop=0.25"])
    report = json.loads((tmp_path / "out" / "label_report.json").read_text())
    assert report["utterances"] == 12 and report["wrong"] == 6
    assert 0 <= report["ROC AUC"] <= 1 and report["dropped"] == 3
    assert len(read_manifest(tmp_path / "out" / "cleaned.csv")) == 9


@pytest.mark.parametrize("column", [True, False])
def test_manifest_without_wrong_labels_is_reported(
    column, main, exported, manifest, tmp_path
):
    path = tmp_path / "train.csv"
    if column:
        manifest = manifest.assign(spk_id_clean=manifest["spk_id"])
    write_manifest(manifest, path)
    main([str(exported), str(path), str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "label_report.json").read_text())
    assert report.get("wrong", 0) == 0 and "ROC AUC" not in report
    assert (tmp_path / "out" / "label_cosines.png").exists()


def test_faults_are_said(main, exported, written, corpus, tmp_path):
    out = tmp_path / "out"
    said = error_of(main, tmp_path / "no", written, out)
    assert "no has no hyperparams.yaml" in said
    said = error_of(main, exported, tmp_path / "no.csv", out)
    assert "no.csv does not exist" in said
    (tmp_path / "bad.csv").write_text("ID,wav\na,b\n")
    assert "bad.csv" in error_of(main, exported, tmp_path / "bad.csv", out)
    for drop in ("1", "-0.1", "nan"):
        said = error_of(main, exported, written, out, f"--drop={drop}")
        assert "`--drop` must be a share" in said
    said = error_of(main, exported, written, out, "--device=cuda:77")
    assert "`device` cuda:77" in said
    assert not out.exists()
    said = error_of(main, exported, written, written)
    assert f"Cannot write to the folder {written}" in said
    table = pd.read_csv(written)
    table["wav"] = str(tmp_path / "gone.wav")
    table.to_csv(tmp_path / "gone.csv", index=False)
    assert "gone.wav" in error_of(main, exported, tmp_path / "gone.csv", out)


def test_encoders_of_other_speakers_are_said(
    main, exported, written, corpus, tmp_path
):
    train, tested = speakers_of(corpus)
    other = export_encoder(tmp_path / "other", tested)
    said = error_of(main, other, written, tmp_path / "out")
    assert "was not trained on 6 of the labels" in said
    empty = export_encoder(tmp_path / "empty", [])
    main([str(empty), str(written), str(tmp_path / "means")])
    assert (tmp_path / "means" / "label_report.json").exists()
    mixed = shutil.copytree(exported, tmp_path / "mixed")
    (mixed / "label_encoder.ckpt").write_bytes(
        (exported / "label_encoder.ckpt").read_bytes()
    )
    state = torch.load(mixed / "classifier.ckpt")
    yaml = (mixed / "hyperparams.yaml").read_text()
    state["weight"] = state["weight"][:2]
    torch.save(state, mixed / "classifier.ckpt")
    (mixed / "hyperparams.yaml").write_text(
        yaml.replace(f"out_neurons: {len(train)}", "out_neurons: 2")
    )
    said = error_of(main, mixed, written, tmp_path / "out")
    assert "has 6 speakers, but its head has 2 classes" in said
