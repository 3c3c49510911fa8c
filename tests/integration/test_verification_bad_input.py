"""Verification, called in this process: what it remarks on and refuses."""

import functools
import html
import json
import shutil

import filelock
import numpy as np
import pytest
import torch
from small_corpus import contents
from speechbrain.dataio.encoder import CategoricalEncoder
from verification_runs import error_of, export_encoder, speakers_of

from speechbrain_ext.dataio.manifests import (
    scan_corpus,
    write_manifest,
)
from speechbrain_ext.processing import back_end
from speechbrain_ext.processing.calibration import Calibration
from speechbrain_ext.utils import experiment, files

COLUMNS = ["ID", "duration", "wav", "start", "stop", "spk_id"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder of the stored embeddings of all these tests."""
    return tmp_path_factory.mktemp("verification")


@pytest.fixture
def module(script, monkeypatch):
    """The script."""
    # which lists all packages that are installed, for a second
    monkeypatch.setattr(experiment, "describe_environment", lambda: "a machine")
    return script("speaker_verification_cosine")


@pytest.fixture
def options(recipe_folder, corpus, exported, shared, tmp_path):
    """A command line, whose options a test may change."""

    def line(**changes):
        values = {
            "data_folder": corpus,
            "pretrained_folder": exported,
            "output_folder": tmp_path / "out",
            "embeddings_folder": shared / "embeddings",
            "scorings": "[cosine]",
            "calibrate": "[]",
            "bootstrap": 5,
            "num_workers": 0,
            "calibration_trials": 40,
            **changes,
        }
        flags = [f"--{key}={value}" for key, value in values.items()]
        yaml = recipe_folder / "hparams" / "verification_resnet_small.yaml"
        return [str(yaml), "--device=cpu", *flags]

    return line


@pytest.fixture
def manifest(corpus):
    """All utterances of the corpus."""
    return scan_corpus([corpus])[0][COLUMNS]


def relabelled(exported, folder, speakers):
    """A copy of the encoder, with another label map."""
    shutil.copytree(exported, folder)
    labels = CategoricalEncoder()
    labels.update_from_iterable(speakers)
    labels.save(folder / "label_encoder.ckpt")
    (folder / "sums.json").unlink()
    return folder


def written(tmp_path):
    """The results, the log and the report."""
    out = tmp_path / "out"
    rows = json.loads((out / "results.json").read_text())
    log = (out / "log.txt").read_text()
    return rows, log, html.unescape((out / "report.html").read_text())


def test_speakers_of_training_and_cohort_are_remarked_on(
    module, options, exported, corpus, manifest, tmp_path
):
    train, tested = speakers_of(corpus)
    known = [*train[:4], tested[0], f"{tested[1]}#speed0.9"]
    folder = relabelled(exported, tmp_path / "seen", known)
    cohort = tmp_path / "cohort.csv"
    kept = manifest["spk_id"].isin([*train, tested[0]])
    write_manifest(manifest[kept], cohort)
    module.main(
        options(
            pretrained_folder=folder,
            cohort_manifest=cohort,
            scorings="[cosine,asnorm]",
        )
    )
    rows, log, report = written(tmp_path)
    assert [row["scoring"] for row in rows] == ["cosine", "AS-norm"]
    trained = "2 of the list's 3 speakers were seen in training"
    cohort = "1 of the list's 3 speakers is in the cohort"
    for row in rows:
        counts = row["speakers"]
        assert counts["list"] == 3
        assert counts["seen in training"] == 2
        assert counts["in the cohort"] == 1
        assert 0 < counts["trials in the cohort"] <= 40
        touched = counts["trials seen in training"]
        assert counts["trials in the cohort"] < touched <= 40
        assert f"({touched} of 40 trials" in row["notes"][0]
        assert row["notes"][0].startswith(trained)
        assert row["notes"][1].startswith(cohort)
    for text in (log, report):
        assert trained in text and cohort in text
    assert "WARNING" in next(x for x in log.splitlines() if trained in x)


def test_lists_are_resolved_once_and_prepare_json_is_not_read(
    module, options, corpus, monkeypatch
):
    # the script's own copy: other tests may have imported another one
    prepare = module.prepare_voxceleb.__globals__
    found, resolved = prepare["resolve_trial_lists"], []

    def counting(*arguments):
        lists = found(*arguments)
        resolved.append(lists)
        return lists

    def refuse(*_):
        raise AssertionError("prepare.json is read")

    for names in (vars(module), prepare):
        monkeypatch.setitem(names, "resolve_trial_lists", counting)
    monkeypatch.setitem(prepare, "read_prepared", refuse)
    (row,) = module.main(options())
    assert row["trials"] == "veri_toy"
    assert resolved == [[str(corpus / "meta" / "veri_toy.txt")]]


def test_a_preparation_can_be_skipped(module, options, corpus):
    first = module.main(options())
    # what was prepared counts, not what the data folder holds now
    again = module.main(options(skip_prep=True, data_folder=corpus / "wav"))
    assert first == again


def test_new_speakers_and_few_of_them_are_remarked_on(
    module, options, tmp_path, capsys
):
    # one name is a list of one, and False none
    module.main(options(scorings="cosine", calibrate=False))
    (row,), log, report = written(tmp_path)
    assert row["speakers"]["seen in training"] == 0
    new = "None of the list's 3 speakers was seen in training."
    assert new in log and new in report
    few = "20 target and 20 nontarget trials of 3 speakers are too few"
    assert [note[: len(few)] for note in row["notes"]] == [few]
    assert few in log
    assert "notes" not in capsys.readouterr().out


def test_encoder_without_a_label_map_is_said_not_to_be_known(
    module, options, tmp_path
):
    folder = export_encoder(tmp_path / "converted", [])
    module.main(
        options(pretrained_folder=folder, embeddings_folder=tmp_path / "stored")
    )
    (row,), log, report = written(tmp_path)
    assert row["speakers"]["seen in training"] is None
    assert row["speakers"]["list"] == 3
    for text in (log, report):
        assert "It is not known whether" in text


def test_cllr_far_above_its_least_is_remarked_on(
    module, options, exported, tmp_path, monkeypatch
):
    fitted = Calibration([1.0], 20.0, ["cosine"])
    monkeypatch.setattr(back_end, "calibrate_scoring", lambda *_: fitted)
    folder = shutil.copytree(exported, tmp_path / "pretrained")
    module.main(options(calibrate="[cosine]", pretrained_folder=folder))
    rows, log, _ = written(tmp_path)
    assert "Cllr is " in log
    assert any("calibration does not fit" in n for n in rows[-1]["notes"])
    assert not any("calibration" in note for note in rows[0]["notes"])


def test_calibration_that_contradicts_itself_is_not_kept(
    module, options, exported, tmp_path, monkeypatch
):
    plain = module.BackEnd.scores

    def scores(self, name, embeddings, enrol, test, speakers=None):
        found = plain(self, name, embeddings, enrol, test, speakers)
        if speakers is None:
            return found
        names = np.array(speakers)
        return found - 3 * torch.from_numpy(names[enrol] == names[test])

    monkeypatch.setattr(module.BackEnd, "scores", scores)
    folder = shutil.copytree(exported, tmp_path / "pretrained")
    module.main(options(calibrate="[cosine]", pretrained_folder=folder))
    rows, log, _ = written(tmp_path)
    assert [row["scoring"] for row in rows] == ["cosine"]
    assert "cosine is not calibrated: On these 40 trials a higher score" in log
    assert not (folder / "calibration.json").exists()
    assert not (tmp_path / "out" / "calibration.json").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"scorings": "[ploda]"}, "'ploda'"),
        ({"calibrate": "[ploda]"}, "'ploda'"),
        ({"scorings": "[]"}, "`scorings` must"),
        ({"score_forms": "[html]"}, "`score_forms` must"),
        ({"bootstrap": -1}, "`bootstrap` must be"),
        ({"bootstrap": 1}, "`bootstrap` must be"),
        ({"confidence": 2}, "got 2; pass fractions, not percent"),
        ({"p_targets": "[5]"}, "pass fractions, not percent"),
        ({"calibration_prior": 0}, "pass fractions, not percent"),
        ({"top_n": 1}, "`top_n` must be"),
        ({"cohort_by": "session"}, "`cohort_by` must be"),
        ({"conditions": "no.csv"}, "no.csv"),
        ({"calibration_manifest": "no.csv"}, "no.csv"),
        ({"cohort_manifest": "no.csv"}, "no.csv"),
        ({"enrolment": "no.txt"}, "no.txt"),
        ({"trial_lists": "no.txt"}, "no.txt"),
        ({"conditions": "/dev/null"}, "/dev/null is not a file"),
        ({"cohort_manifest": "/"}, "/ is not a file"),
        ({"skip_prep": True}, "prepare.json does not exist"),
        ({"pretrained_folder": "no/such"}, "no/such has no hyperparams.yaml"),
        ({"pretrained_folder": "speechbrain/spkrec"}, "no hyperparams.yaml"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_said(
    change, words, module, options, tmp_path
):
    assert words in error_of(module.main, *options(**change))
    assert not (tmp_path / "out").exists()


def test_device_that_is_not_there_is_said(module, options):
    line = [word.replace("=cpu", "=cuda:77") for word in options()]
    assert "cuda:77" in error_of(module.main, *line)


def test_the_encoder_is_not_replaced(module, options, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "pretrained")
    before = contents(folder)
    changes = {"output_folder": folder, "pretrained_folder": folder}
    said = error_of(module.main, *options(**changes))
    assert f"{folder} has the hyperparams.yaml of an encoder" in said
    assert contents(folder) == before


def test_lists_of_one_name_are_refused(module, options, corpus, tmp_path):
    first = corpus / "meta" / "veri_toy.txt"
    other = tmp_path / "veri_toy.txt"
    other.write_bytes(first.read_bytes())
    line = options(trial_lists=f"{first},{other}")
    assert "lists are called veri_toy" in error_of(module.main, *line)


def test_cohorts_that_cannot_be_used_are_said(
    module, options, corpus, manifest, tmp_path
):
    train, _ = speakers_of(corpus)
    path = tmp_path / "cohort.csv"

    def said(**changes):
        changes = {"cohort_manifest": path, "scorings": "[asnorm]", **changes}
        return error_of(module.main, *options(**changes))

    path.touch()
    assert "cohort.csv" in said()
    path.write_text(",".join(COLUMNS) + "\n")
    assert "cohort.csv has no rows" in said()
    path.unlink()
    one = manifest[manifest["spk_id"] == train[0]]
    write_manifest(one, path)
    assert "cohort.csv must have 2 speakers or more, got 1" in said()
    path.unlink()
    write_manifest(one.head(1), path)
    words = "cohort.csv must have 2 utterances or more, got 1"
    assert words in said(cohort_by="utterance")
    # a calibration alone may fail: it is said, and the rest goes on
    module.main(
        options(cohort_manifest=path, scorings="[cosine]", calibrate="[cosine]")
    )
    assert "cosine is not calibrated" in written(tmp_path)[1]


def test_tables_that_are_broken_are_said_before_anything_is_embedded(
    module, options, tmp_path
):
    path = tmp_path / "table"
    stored = tmp_path / "stored"
    for content in (b"", b"\xff\xfe\x00", b"spk_id,gender\nnobody,f\n"):
        path.write_bytes(content)
        line = options(conditions=path, embeddings_folder=stored)
        assert str(path) in error_of(module.main, *line)
    for text in ("a\n", "a b b\n", "\x00"):
        path.write_text(text)
        line = options(enrolment=path, embeddings_folder=stored)
        assert "table" in error_of(module.main, *line)
    for text in ("", "no table", "a,b\n1,2\n"):
        path.write_text(text)
        line = options(
            calibration_manifest=path,
            calibrate="[cosine]",
            embeddings_folder=stored,
        )
        assert str(path) in error_of(module.main, *line)
    assert not list(stored.rglob("*.npz"))


def test_crops_go_neither_with_models_nor_with_a_calibration(
    module, options, tmp_path
):
    path, stored = tmp_path / "models.txt", tmp_path / "stored"
    path.write_text("model a/1/1 a/1/2\n")
    for changes, words in (
        ({"enrolment": path}, f"`enrolment` has models: {path}"),
        ({"calibrate": "[crops]"}, "`calibrate` must be one of cosine"),
        ({"crops": 0}, "`crops` must be an integer from 1 to 1000, got 0"),
        ({"crop_seconds": 0.05}, "`crop_seconds` must be a number from 0.1"),
    ):
        changes = {"embeddings_folder": stored, **changes}
        line = options(scorings="[cosine,crops]", **changes)
        assert words in error_of(module.main, *line)
    assert not list(stored.rglob("*.npz"))


def test_audio_that_cannot_be_read_is_said(
    module, options, corpus, manifest, tmp_path
):
    train, _ = speakers_of(corpus)
    cohort = manifest[manifest["spk_id"].isin(train)].copy()
    bad = tmp_path / "bad.wav"
    cohort.loc[cohort.index[0], "wav"] = str(bad)
    write_manifest(cohort, tmp_path / "cohort.csv")
    changes = {"cohort_manifest": tmp_path / "cohort.csv"}
    changes["scorings"] = "[asnorm]"
    assert "bad.wav" in error_of(module.main, *options(**changes))
    bad.write_text("no audio")
    for workers in (0, 1):
        line = options(**changes, num_workers=workers)
        assert "bad.wav" in error_of(module.main, *line)


def test_failures_of_torch_and_of_the_disk_are_said(
    module, options, tmp_path, monkeypatch
):
    def run_out(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to")

    with monkeypatch.context() as patched:
        patched.setattr(module, "stored_embeddings", run_out)
        said = error_of(module.main, *options())
    assert "CUDA out of memory. Lower `batch_seconds`" in said
    with monkeypatch.context() as patched:
        patched.setattr(module.BackEnd, "scores", run_out)
        assert "CUDA out of memory." in error_of(module.main, *options())

    def full(*_):
        raise OSError("No space left while writing to /out")

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_score_files", full)
        said = error_of(module.main, *options())
    assert said == "error: No space left while writing to /out"

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "stored_embeddings", interrupt)
        assert "Interrupted" in error_of(module.main, *options())
    assert not (tmp_path / "out" / "results.json").exists()
    module.main(options())
    assert (tmp_path / "out" / "results.json").exists()


def test_a_run_in_a_busy_folder_leaves_the_lists_of_the_other_one(
    module, options, corpus, tmp_path, monkeypatch
):
    module.main(options(output_folder=tmp_path / "first"))
    shutil.copytree(tmp_path / "first", tmp_path / "out", symlinks=True)
    before = contents(tmp_path / "out" / "save")
    lines = (corpus / "meta" / "veri_toy.txt").read_text().splitlines()
    short = tmp_path / "short.txt"
    short.write_text("\n".join(lines[:20]))
    impatient = functools.partial(files.lock_output_folder, patience=0.1)
    monkeypatch.setattr(experiment, "lock_output_folder", impatient)
    with filelock.FileLock(tmp_path / "out" / files.LOCK):
        said = error_of(module.main, *options(trial_lists=short))
    assert "Another run" in said and "use another folder" in said
    assert contents(tmp_path / "out" / "save") == before
    module.main(options(trial_lists=short))
    assert contents(tmp_path / "out" / "save") != before
