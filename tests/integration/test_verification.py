"""Verification as a user runs it: again, by several processes, by models."""

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from processes import on_processes, run_script
from recipe_runs import put_into_hub_cache, run
from scipy.signal import resample_poly
from speechbrain.inference.speaker import SpeakerRecognition

from speechbrain_ext.dataio.manifests import (
    read_manifest,
    scan_corpus,
    write_manifest,
)
from speechbrain_ext.dataio.score_files import read_scores
from speechbrain_ext.dataio.trials import read_trials
from speechbrain_ext.inference.loading import load_encoder
from speechbrain_ext.inference.speaker import SpeakerVerifier
from speechbrain_ext.processing.calibration import load_calibrations
from speechbrain_ext.utils.distributed import (
    CommonFailureError,
    raise_on_all,
)
from speechbrain_ext.utils.metrics import EER

SCRIPT = "speaker_verification_cosine.py"
YAML = "verification_resnet_small.yaml"
FAST = {"num_workers": 0, "bootstrap": 20, "calibration_trials": 200}


@pytest.fixture(scope="module")
def first(recipe, corpus, trained, tmp_path_factory):
    """A run with every kind of scoring, by two processes."""
    folder = tmp_path_factory.mktemp("verified")
    scorings = "cosine,znorm,tnorm,asnorm2,plda,crops"
    conditions = folder / "conditions.csv"
    speakers = sorted(path.name for path in (corpus / "wav").iterdir())
    genders = [f"{name},{'fm'[i % 2]}" for i, name in enumerate(speakers)]
    conditions.write_text("\n".join(["spk_id,gender", *genders]))
    options = {
        "data_folder": corpus,
        "pretrained_folder": trained[0] / "pretrained",
        "output_folder": folder / "out",
        "scorings": f"[{scorings}]",
        "crops": 3,
        "crop_seconds": 0.9,  # some utterances are shorter
        "calibrate": "[cosine,asnorm,asnorm_qmf]",
        "conditions": conditions,
        "score_forms": "[wespeaker,kaldi]",
        "score_matrices": True,
        **FAST,
    }
    flags = [f"--{key}={value}" for key, value in options.items()]
    command = [sys.executable, "-m", "torch.distributed.run"]
    command += ["--standalone", "--nproc_per_node=2", SCRIPT]
    command += [f"hparams/{YAML}", "--device=cpu"]
    done = subprocess.run(
        [*command, *flags],
        cwd=recipe,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder / "out", options


def test_second_run_embeds_nothing_and_gives_the_same_bytes(
    recipe, first, tmp_path, monkeypatch
):
    folder, options = first
    # matrix products of more threads differ in the last digit
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = {
        **options,
        "output_folder": tmp_path,
        "embeddings_folder": folder / "embeddings",
    }
    done = run(recipe, SCRIPT, YAML, **options)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count(
        " 0 of "
    ) == 3  # test utterances, cohort and crops
    scores = sorted(path.name for path in folder.glob("scores_*"))
    assert len(scores) == 2 * 9
    for name in scores:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_everything_asked_is_written(first, trained):
    folder, _ = first
    results = json.loads((folder / "results.json").read_text())
    words = [row["scoring"] for row in results]
    assert words == [
        "cosine",
        "z-norm",
        "t-norm",
        "AS-norm2",
        "PLDA",
        "distance of crops",
        "cosine, calibrated",
        "AS-norm, calibrated",
        "AS-norm, calibrated with quality",
    ]
    *_, scores, _ = read_scores(folder / "scores_veri_toy_cosine.txt")
    lines = (folder / "scores_veri_toy_cosine.kaldi").read_text().splitlines()
    assert [float(line.split()[2]) for line in lines] == scores.tolist()
    matrix = np.load(folder / "matrix_veri_toy_cosine.npy")
    names = {
        side: (folder / f"matrix_veri_toy_{side}.txt").read_text().split()
        for side in ("enrol", "test")
    }
    assert matrix.shape == (len(names["enrol"]), len(names["test"]))
    enrol, test = lines[0].split()[:2]
    found = matrix[names["enrol"].index(enrol), names["test"].index(test)]
    assert found == pytest.approx(scores[0].item(), abs=1e-6)
    report = (folder / "report.html").read_text()
    for word in ("by session", "by gender", "data:image/png"):
        assert word in report
    # counts, settings of the training and the DET plot of the list
    for word in (" speakers and ", "SphereFace2 (", "95 % intervals"):
        assert word in report
    assert (folder / "det_veri_toy.png").read_bytes()[1:4] == b"PNG"
    assert report.count("<img ") == report.count("<figcaption>") == 1 + 9
    assert str(folder) not in report
    kept = load_calibrations(trained[0] / "pretrained" / "calibration.json")
    assert set(kept) == {"cosine", "asnorm", "asnorm_qmf"}
    assert len(kept["asnorm_qmf"].features) == 13
    *_, ratios, _ = read_scores(
        folder / "scores_veri_toy_cosine_calibrated.txt"
    )
    expected = kept["cosine"](scores.numpy())
    np.testing.assert_allclose(ratios, expected, rtol=1e-9)


def test_crops_are_scored_as_published(first, trained):
    folder, _ = first
    encoder = load_encoder(str(trained[0] / "pretrained"), {"device": "cpu"})
    table = read_manifest(folder / "save" / "test.csv").set_index("ID")
    assert table["duration"].min() < 0.9 < table["duration"].max()
    units = {}
    for name, path in table["wav"].items():
        audio, _ = soundfile.read(path)
        if len(audio) <= 14400:  # as loadWAV of Clova's trainer
            audio = np.pad(audio, (0, 14401 - len(audio)), "wrap")
        starts = [0, (len(audio) - 14400) // 2, len(audio) - 14400]
        crops = torch.tensor(np.stack([audio[i : i + 14400] for i in starts]))
        found = encoder.encode_batch(crops.float())[:, 0].double()
        units[name] = found / found.norm(dim=1, keepdim=True)
    enrol, test, scores, _ = read_scores(folder / "scores_veri_toy_crops.txt")
    expected = [
        -torch.cdist(units[one], units[other]).mean()
        for one, other in zip(enrol, test, strict=True)
    ]
    torch.testing.assert_close(
        scores.double(), torch.stack(expected), rtol=1e-3, atol=1e-4
    )


def test_the_figures_are_in_the_model_card(first, trained):
    results = json.loads((first[0] / "results.json").read_text())
    card = (trained[0] / "pretrained" / "README.md").read_text()
    assert "Not verified yet" not in card
    low, high = results[0]["EER % interval"]
    assert f"{results[0]['EER %']:.2f} [{low:.2f}, {high:.2f}]" in card
    assert "by gender" in card and "by session" in card


def test_models_are_enrolled_with_several_utterances(
    recipe, first, corpus, tmp_path
):
    folder, options = first
    trials = read_trials(corpus / "meta" / "veri_toy.txt")
    utterances = sorted({*trials["enrol"], *trials["test"]})
    models = {}
    for name in utterances:
        models.setdefault(name.split("/")[0], []).append(name)
    enrolment = tmp_path / "enrolment.txt"
    enrolment.write_text(
        "".join(f"{m} {' '.join(ids[:2])}\n" for m, ids in models.items())
    )
    lines = [
        f"{int(name.startswith(model))} {model} {name}.wav"
        for name in utterances
        for model in models
    ]
    (tmp_path / "models.txt").write_text("\n".join(lines))
    options = {
        **options,
        "output_folder": tmp_path / "out",
        "embeddings_folder": folder / "embeddings",
        "trial_lists": tmp_path / "models.txt",
        "enrolment": enrolment,
        "scorings": "[cosine]",
        "calibrate": "[]",
    }
    done = run(recipe, SCRIPT, YAML, **options)
    assert "`conditions` are those of utterances" in done.stderr
    del options["conditions"]
    done = run(recipe, SCRIPT, YAML, **options)
    assert done.returncode == 0, done.stderr
    written = tmp_path / "out" / "scores_models_cosine.txt"
    enrol, test, *_ = read_scores(written)
    assert len(enrol) == len(lines)
    assert set(enrol) == set(models)
    (tmp_path / "models.txt").write_text("1 nobody a\n0 id b\n")
    done = run(recipe, SCRIPT, YAML, **options)
    assert done.returncode == 1
    assert "2 models" in done.stderr
    assert "id, nobody" in done.stderr


def compare(recipe, *arguments):
    """Runs compare_systems.py."""
    return run_script(["compare_systems.py", *map(str, arguments)], recipe)


def test_systems_are_compared_on_the_same_trials(recipe, first, tmp_path):
    folder, _ = first
    one = folder / "scores_veri_toy_cosine.txt"
    other = folder / "scores_veri_toy_plda.txt"
    shuffled = tmp_path / "shuffled.txt"
    lines = other.read_text().splitlines(keepends=True)
    shuffled.write_text("".join(lines[::-1]))
    written = tmp_path / "found.json"
    done = compare(
        *(recipe, one, shuffled, "--replicates=50", f"--json={written}")
    )
    assert done.returncode == 0, done.stderr
    assert "minDCF 0.05" in done.stdout
    found = json.loads(written.read_text())
    # in whatever order the other file has them
    eers = [
        100 * EER(scores[targets], scores[~targets])[0]
        for *_, scores, targets in (read_scores(one), read_scores(other))
    ]
    assert [found["EER %"]["first"], found["EER %"]["second"]] == eers
    values = found["EER %"]
    assert values["difference"] == values["first"] - values["second"]
    shuffled.write_text("".join(lines[1:]))
    done = compare(recipe, one, shuffled)
    assert done.returncode == 1
    assert "lacks 1 trials" in done.stderr


def test_files_are_verified_by_the_calibrated_threshold(
    recipe, first, trained, corpus
):
    folder = trained[0] / "pretrained"
    files = sorted((corpus / "wav" / "id10001").rglob("*.wav"))[:2]
    words = ["verify_files.py", folder, *files, "--p_target=0.01"]
    done = run_script(list(map(str, words)), recipe)
    assert done.returncode == 0, done.stderr
    calibration = load_calibrations(folder / "calibration.json")["cosine"]
    assert f"threshold {calibration.threshold(0.01):.4f}" in done.stdout


def test_an_encoder_in_the_hubs_cache_is_verified(
    recipe, first, trained, tmp_path, monkeypatch
):
    kept = put_into_hub_cache(
        trained[0] / "pretrained", tmp_path / "hub", monkeypatch
    )
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*")}
    options = {**first[1], "pretrained_folder": "hf:owner/name"}
    options |= {"output_folder": tmp_path / "out", "score_matrices": False}
    options |= {"scorings": "[cosine,asnorm]", "calibrate": "[cosine]"}
    done = run(recipe, SCRIPT, YAML, **options)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    of_folder = json.loads((first[0] / "results.json").read_text())
    assert rows[0]["encoder"] == of_folder[0]["encoder"]
    assert rows[0]["EER %"] == of_folder[0]["EER %"]
    report = (tmp_path / "out" / "report.html").read_text()
    assert "owner/name" in report and "ResNet (" in report
    # the copy of the client stays as it was downloaded
    assert {path: path.stat().st_mtime_ns for path in kept.rglob("*")} == before


def test_verifier_gives_the_scores_of_the_recipe(first, trained, corpus):
    folder, pretrained = first[0], str(trained[0] / "pretrained")
    verifier = SpeakerVerifier.from_hparams(source=pretrained)
    plain = SpeakerRecognition.from_hparams(source=pretrained)
    slope = verifier.decisions.calibrations["cosine"].weights[0]
    scores = {}
    for kind in ("cosine", "cosine_calibrated", "asnorm_calibrated"):
        written = folder / f"scores_veri_toy_{kind}.txt"
        enrol, test, found, _ = read_scores(written)
        scores[kind] = found.tolist()
    for row in range(0, len(enrol), 8):
        one, other = (
            str(corpus / "wav" / f"{name[row]}.wav") for name in (enrol, test)
        )
        cosine, ratio, normalized = (found[row] for found in scores.values())
        found, _ = plain.verify_files(one, other)
        assert found.item() == pytest.approx(cosine, abs=1e-4)
        found, same = verifier.verify_files(one, other)
        assert found.item() == pytest.approx(cosine, abs=1e-4)
        assert same.item() == (ratio > 0)
        verifier.enrol("one", one, replace=True)
        found = verifier.verify("one", other, 0.01, "cosine")
        assert found.score == pytest.approx(cosine, abs=1e-4)
        error = 1e-4 * max(slope, 1)
        assert found.log_likelihood_ratio == pytest.approx(ratio, abs=error)
        found = verifier.verify("one", other)
        assert found.scoring == "asnorm"
        assert found.log_likelihood_ratio == pytest.approx(
            normalized, rel=1e-3, abs=1e-3
        )


def test_formats_of_the_same_speech_are_alike(trained, corpus, tmp_path):
    verifier = SpeakerVerifier.from_hparams(
        source=str(trained[0] / "pretrained")
    )
    for number, path in enumerate(sorted(corpus.rglob("*.wav"))[::9]):
        wave, _ = soundfile.read(path)
        made = {
            "44100.wav": resample_poly(wave, 441, 160),
            "24000.flac": resample_poly(wave, 3, 2),
            "16000.ogg": wave,
        }
        made["44100.wav"] = np.stack([made["44100.wav"]] * 2, 1)
        verifier.enrol(f"{number}", path)
        for name, samples in made.items():
            soundfile.write(tmp_path / name, samples, int(name.split(".")[0]))
            found = verifier.verify(
                f"{number}", tmp_path / name, scoring="cosine"
            )
            assert found.score > 0.95, (path, name)


def one_fails(recipe_folder, hparams, path):
    """What a process of two says where the other meets a broken file."""
    sys.path.insert(0, str(recipe_folder))
    script = importlib.import_module("speaker_verification_cosine")
    encoder = load_encoder(hparams["pretrained_folder"], {"device": "cpu"})
    manifests = {"trial lists": read_manifest(path)}
    try:
        raise_on_all(script.embed, hparams, encoder, manifests)
    except CommonFailureError as error:
        return [str(error)]


def test_all_processes_end_where_one_meets_a_broken_file(
    recipe_folder, exported, corpus, tmp_path
):
    four = scan_corpus([corpus])[0].head(4)
    four["duration"] = [4.0, 3.0, 2.0, 1.0]  # the batches' order
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    four.loc[3, "wav"] = str(bad)  # of the second process
    write_manifest(four, tmp_path / "test.csv")
    hparams = {
        "pretrained_folder": exported,
        "embeddings_folder": tmp_path / "stored",
        "batch_seconds": 0.1,
        "precision": "fp32",
        "num_workers": 0,
    }
    arguments = recipe_folder, hparams, tmp_path / "test.csv"
    said = on_processes(one_fails, 2, *arguments)
    assert "bad.wav" in said[0][0] and said[1] == said[0]
