"""A calibration that is fitted on utterances of another corpus."""

import json
import shutil

from recipe_runs import run
from verification_runs import export_encoder, speakers_of

from speechbrain_ext.processing.calibration import load_calibrations

SCRIPT = "speaker_verification_cosine.py"
YAML = "verification_resnet_small.yaml"


def test_speech_of_ones_own_calibrates_without_a_training_corpus(
    recipe, corpus, tmp_path
):
    others, tested = speakers_of(corpus)
    for name in tested:
        shutil.copytree(corpus / "wav" / name, tmp_path / "data" / "wav" / name)
    shutil.copytree(corpus / "meta", tmp_path / "data" / "meta")
    for name in others:  # other names than in the encoder's label map
        own = tmp_path / "own" / "wav" / f"my-{name}"
        shutil.copytree(corpus / "wav" / name, own)
    prepared = tmp_path / "prepared"
    options = {"data_folder": tmp_path / "own", "save_folder": prepared}
    done = run(recipe, "voxceleb_prepare.py", None, **options)
    assert done.returncode == 0, done.stderr

    # untrained, but by chance it knows one voice from another
    encoder = export_encoder(tmp_path / "encoder", others, seed=4)
    options = {
        "data_folder": tmp_path / "data",
        "pretrained_folder": encoder,
        "output_folder": tmp_path / "out",
        "scorings": "[cosine]",
        "calibrate": "[cosine]",
        "calibration_manifest": prepared / "train.csv",
        "calibration_trials": 100,
        "bootstrap": 0,
        "num_workers": 0,
    }
    done = run(recipe, SCRIPT, YAML, **options)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = {row["scoring"]: row for row in results}
    assert "Cllr" in rows["cosine, calibrated"]
    assert rows["cosine"]["cohort speakers"] == 0
    assert rows["cosine"]["speakers"]["in the calibration"] == 0
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "utterances of the calibration" in log
    assert "utterances of the cohort" not in log
    assert "that the encoder was trained on, so" not in log
    fitted = load_calibrations(encoder / "calibration.json")["cosine"]
    assert not (encoder / "normalization.npz").exists()

    # the speakers of the trials themselves give another one, and a warning
    options["calibration_manifest"] = tmp_path / "out" / "save" / "test.csv"
    done = run(recipe, SCRIPT, YAML, **options)
    assert done.returncode == 0, done.stderr
    said = "3 of the list's 3 speakers are in the calibration (40 of 40"
    assert said in (tmp_path / "out" / "log.txt").read_text()
    again = load_calibrations(encoder / "calibration.json")["cosine"]
    assert again.weights.tolist() != fitted.weights.tolist()
