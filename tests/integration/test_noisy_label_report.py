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
    noisy["session"] = "a column of the user, named as a score"
    path = tmp_path / "train_noisy.csv"
    noisy.to_csv(path, index=False)
    return path


def test_wrong_labels_are_reported(main, exported, written, tmp_path):
    main([str(exported), str(written), str(tmp_path / "out"), "--drop=0.25"])
    report = json.loads((tmp_path / "out" / "label_report.json").read_text())
    assert report["utterances"] == 12 and report["wrong"] == 6
    assert 0 <= report["ROC AUC"] <= 1 and report["dropped"] == 3
    assert len(read_manifest(tmp_path / "out" / "cleaned.csv")) == 9


def test_every_score_is_reported_and_marks_are_read_back(
    main, exported, written, tmp_path, capsys
):
    folder = tmp_path / "out"
    argv = [str(exported), str(written), str(folder)]
    main([*argv, "--score=margin", "--drop=0.25", "--listen=5"])
    report = json.loads((folder / "label_report.json").read_text())
    assert report["score"] == "margin"
    assert set(report["scores"]) == {"cosine", "margin", "session"}
    assert report["ROC AUC"] == report["scores"]["margin"]["ROC AUC"]
    table = pd.read_csv(folder / "label_scores.csv", dtype={"spk_id": str})
    assert {"ID", "spk_id", "spk_id_clean", "best_other"} < set(table)
    lowest = table.sort_values("margin", kind="stable")["ID"].tolist()
    kept = read_manifest(folder / "cleaned.csv")["ID"].tolist()
    assert set(kept) == set(lowest[3:])
    page = (folder / "labels.html").read_text()
    assert page.count("<audio") == 5 and lowest[4] in page
    assert lowest[5] not in page
    assert (folder / "label_scores.png").exists()
    # without its embeddings it would need the audio again
    label = table.set_index("ID")["spk_id"]
    marks = tmp_path / "label_marks.csv"
    marks.write_text(
        f"ID,spk_id,mark\n{lowest[0]},{label[lowest[0]]},right\n"
        f"{lowest[9]},{label[lowest[9]]},wrong\n"
    )
    main([*argv, "--score=margin", "--drop=0.25", f"--marks={marks}"])
    kept = read_manifest(folder / "cleaned.csv")["ID"].tolist()
    assert set(kept) == {lowest[0], *lowest[3:]} - {lowest[9]}
    assert 'value="right" checked' in (folder / "labels.html").read_text()
    main([*argv, f"--marks={marks}", "--listen=0"])
    assert len(read_manifest(folder / "cleaned.csv")) == 11
    assert not (folder / "labels.html").exists()  # of the report before
    assert "earlier report" not in capsys.readouterr().out
    main([*argv, "--listen=0"])
    assert "cleaned.csv there is of an earlier r" in capsys.readouterr().out
    said = error_of(main, exported, folder / "cleaned.csv", folder)
    assert "would be replaced" in said
    said = error_of(main, exported, written, folder, "--score=sub_center")
    assert "no sub-centers" in said  # the report before is still whole
    assert len(read_manifest(folder / "cleaned.csv")) == 11


def test_losses_of_the_run_are_reported(main, trained, tmp_path):
    folder, _ = trained
    argv = [str(folder / "pretrained"), str(folder / "save" / "train.csv")]
    argv += [str(tmp_path), "--score=loss", f"--checkpoints={folder / 'save'}"]
    main([*argv, "--drop=0.2"])
    table = pd.read_csv(tmp_path / "label_scores.csv")
    mean = table[["loss_epoch_1", "loss_epoch_2"]].mean(axis=1)
    assert table["loss"].to_numpy() == pytest.approx(mean.to_numpy())
    assert {"session", "margin"} < set(table)
    kept = read_manifest(tmp_path / "cleaned.csv")["ID"]
    left = table[~table["ID"].isin(kept)]
    rest = table[table["ID"].isin(kept)]
    assert len(left) and left["loss"].min() >= rest["loss"].max()


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
    assert report["utterances of labels with one session"] == 12
    said = error_of(main, exported, path, tmp_path / "out", "--score=session")
    assert "no label has two sessions" in said
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
    for flag, words in (
        ("--score=cosin", "`--score` must be one of cosine, margin"),
        ("--score=loss", "needs `--checkpoints`"),
        ("--listen=-1", "`--listen` must be 0 or more, got -1"),
        (f"--marks={tmp_path / 'no.csv'}", "no.csv"),
    ):
        assert words in error_of(main, exported, written, out, flag)
    said = error_of(main, exported, written, out, "--device=cuda:77")
    assert "`device` cuda:77" in said
    assert not out.exists()
    for flag, words in (
        ("--score=sub_center", "the encoder's classifier has no sub-centers"),
        (f"--checkpoints={tmp_path}", "no checkpoint of a whole epoch"),
    ):
        assert words in error_of(main, exported, written, out, flag)
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
    assert "has 6 speakers, but its classifier has 2 classes" in said
