"""The recipe as a user runs it: real files, real processes, a tiny network."""

import json
import shutil

import pytest
import torch
from processes import run_script
from recipe_runs import run, train
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.inference.speaker import SpeakerRecognition

from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.score_files import read_scores
from speechbrain_ext.dataio.trials import read_trials
from speechbrain_ext.inference.embedding_store import model_fingerprint
from speechbrain_ext.utils.metrics import EER
from speechbrain_ext.utils.yaml_files import read_yaml


@pytest.fixture(scope="module")
def verified(recipe, corpus, trained, tmp_path_factory):
    """The output folder of a verification, and what it said."""
    folder = tmp_path_factory.mktemp("results") / "verified"
    done = run(
        recipe,
        "speaker_verification_cosine.py",
        "verification_resnet_small.yaml",
        data_folder=corpus,
        pretrained_folder=trained[0] / "pretrained",
        output_folder=folder,
        num_workers=0,
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def losses(folder):
    """The training losses of a run's epochs, as logged."""
    lines = (folder / "train_log.txt").read_text().splitlines()
    return [line.split("train loss: ")[1].split(",")[0] for line in lines]


def weights(folder):
    """The encoder that a run exported."""
    return torch.load(folder / "pretrained" / "embedding_model.ckpt")


def test_training_logs_what_a_user_wants_to_see(trained):
    folder, done = trained
    lines = (folder / "train_log.txt").read_text().splitlines()
    assert len(lines) == 2
    for word in ("loss", "lr", "margin", "EER", "utterances/s", "data wait"):
        assert all(f"{word}: " in line for line in lines), word
    assert float(losses(folder)[1]) < float(losses(folder)[0])
    assert "speaker_verification_cosine.py" in done.stdout
    assert "Development EER" in done.stdout
    assert (folder / "hyperparams.yaml").is_file()
    # two to average, and the best one where it is not among them
    assert len(list((folder / "save").glob("CKPT*"))) in (2, 3)


def test_offered_command_works(trained, recipe, tmp_path):
    lines = trained[1].stdout.splitlines()
    command = next(
        line.split(" - ", 1)[1]
        for line in lines
        if "python speaker_verification_cosine.py" in line
    )
    words = command.split()
    words += ["--num_workers=0", f"--output_folder={tmp_path}"]
    done = run_script(words[1:], recipe)
    assert done.returncode == 0, done.stderr
    # the held-out speakers calibrate
    assert "utterances of the calibration" in (tmp_path / "log.txt").read_text()


def test_results_are_those_of_the_score_files(verified, trained):
    folder, done = verified
    fingerprint = model_fingerprint(trained[0] / "pretrained")
    results = json.loads((folder / "results.json").read_text())
    # six scorings, and the calibrated cosine and AS-norm
    assert len(results) == 8
    for row in results:
        _, _, scores, targets = read_scores(folder / row["scores"])
        assert len(scores) == 40
        eer, _ = EER(scores[targets], scores[~targets])
        assert row["EER %"] == pytest.approx(100 * eer)
        assert 0 <= row["minDCF 0.01"] <= 1
        assert row["scoring"] in done.stdout
        assert row["encoder"] == fingerprint and row["cohort speakers"] > 1
        low, high = row["EER % interval"]
        assert low <= row["EER %"] <= high
    assert [row["scoring"] for row in results if "Cllr" in row] == [
        "cosine, calibrated",
        "AS-norm, calibrated",
    ]
    picture = (folder / "det.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert "AS-norm, calibrated" in (folder / "report.html").read_text()
    assert "NaN" not in (folder / "results.json").read_text()
    assert "speakers that the encoder was trained on" in done.stdout
    assert " - DEBUG - " not in (folder / "log.txt").read_text()


@pytest.mark.parametrize("interface", [SpeakerRecognition, EncoderClassifier])
def test_pretrained_interface_gives_the_scripts_cosines(
    interface, verified, trained, corpus
):
    encoder = interface.from_hparams(
        source=str(trained[0] / "pretrained"), run_opts={"device": "cpu"}
    )
    enrol, test, scores, _ = read_scores(
        verified[0] / "scores_veri_toy_cosine.txt"
    )
    cosine = torch.nn.CosineSimilarity(dim=-1)
    for one, other, score in list(zip(enrol, test, scores, strict=True))[:10]:
        files = [str(corpus / "wav" / f"{name}.wav") for name in (one, other)]
        if interface is SpeakerRecognition:
            found, _ = encoder.verify_files(*files)
        else:
            signals = [encoder.load_audio(file) for file in files]
            found = cosine(*(encoder.encode_batch(s)[0] for s in signals))
        assert found.item() == pytest.approx(score.item(), abs=1e-5)


def test_pretrained_interface_honours_lengths_and_labels(trained, corpus):
    encoder = EncoderClassifier.from_hparams(
        source=str(trained[0] / "pretrained"), run_opts={"device": "cpu"}
    )
    files = sorted((corpus / "wav" / "id10001").rglob("*.wav"))
    signals = [encoder.load_audio(str(file)) for file in files]
    wavs = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True)
    lengths = torch.tensor([len(s) for s in signals]) / wavs.shape[1]
    batch = encoder.encode_batch(wavs, lengths)
    for signal, embedding in zip(signals, batch, strict=True):
        alone = encoder.encode_batch(signal)[0]
        assert (embedding - alone).norm() / alone.norm() < 1e-4
    normalised = encoder.encode_batch(wavs, lengths, normalize=True)
    torch.testing.assert_close(normalised, batch)
    _, _, _, names = encoder.classify_batch(wavs, lengths)
    assert len(names) == len(files)
    assert all(name.startswith("id1000") for name in names)


def test_pretrained_folder_may_move(trained, tmp_path):
    moved = tmp_path / "elsewhere"
    (trained[0] / "pretrained").rename(moved)
    try:
        SpeakerRecognition.from_hparams(source=str(moved))
    finally:
        moved.rename(trained[0] / "pretrained")
    assert (
        str(tmp_path.parent)
        not in (trained[0] / "pretrained" / "hyperparams.yaml").read_text()
    )


def test_workers_change_no_loss(recipe, corpus, trained, tmp_path):
    options = "{num_workers: 3, persistent_workers: True}"
    done = train(recipe, corpus, tmp_path, train_dataloader_opts=options)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path) == losses(trained[0])
    for key, value in weights(trained[0]).items():
        assert torch.equal(value, weights(tmp_path)[key]), key


def test_stopped_run_goes_on_to_the_same_weights(
    recipe, corpus, trained, tmp_path
):
    # the schedules are those of two epochs, the run stops after the first
    done = train(
        recipe,
        corpus,
        tmp_path,
        epoch_counter="{limit: 1}",
    )
    assert done.returncode == 0, done.stderr
    done = train(recipe, corpus, tmp_path)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path) == losses(trained[0])
    for key, value in weights(trained[0]).items():
        assert torch.equal(value, weights(tmp_path)[key]), key


def test_select_exports_the_average_or_the_best_epoch(
    recipe, corpus, trained, tmp_path
):
    shutil.copytree(trained[0], tmp_path, symlinks=True, dirs_exist_ok=True)
    kept = [
        (
            (yaml["EER"], -yaml["epoch"]),  # of equal ones, the latest
            torch.load(path.parent / "embedding_model.ckpt"),
        )
        for path in sorted((tmp_path / "save").glob("CKPT*/CKPT.yaml"))
        for yaml in [read_yaml(path)]
    ]
    assert len(kept) == 2  # those of both epochs
    for key, value in weights(trained[0]).items():
        mean = sum(state[key].double() for _, state in kept) / 2
        torch.testing.assert_close(value.double(), mean.to(value).double())
    done = train(recipe, corpus, tmp_path, select="lowest_eer")
    assert done.returncode == 0, done.stderr
    best = min(kept, key=lambda pair: pair[0])[1]
    for key, value in weights(tmp_path).items():
        assert torch.equal(value, best[key]), key


def test_speeds_triple_the_classes_and_fine_tuning_keeps_them(
    recipe, corpus, tmp_path
):
    first = tmp_path / "first"
    options = {"number_of_epochs": 1, "dev_speakers": 0}
    done = train(recipe, corpus, first, speeds="[1.0, 0.9, 1.1]", **options)
    assert done.returncode == 0, done.stderr
    assert "6 speakers (18 classes)" in done.stdout
    options |= {"start_from": first / "pretrained", "sentence_len": 1.0}
    yaml = "resnet_csphereface2_large_margin.yaml"
    done = train(recipe, corpus, tmp_path / "lm", yaml=yaml, **options)
    assert done.returncode == 0, done.stderr
    for folder in (first, tmp_path / "lm"):
        head = torch.load(folder / "pretrained" / "classifier.ckpt")
        assert head["weight"].shape[0] == 18
        labels = (folder / "pretrained" / "label_encoder.ckpt").read_text()
        assert "'id10001' => 0" in labels
        assert "'id10001#speed1.1' => 12" in labels


def test_label_noise_is_simulated_recorded_and_trained_on(
    recipe, corpus, tmp_path
):
    noise = "{kind: split, rate: 1.0, parts: 2, by: session, seed: 3}"
    done = train(
        recipe,
        corpus,
        tmp_path,
        number_of_epochs=1,
        label_noise=noise,
        dev_label_noise="{kind: session, rate: 0.5}",
    )
    assert done.returncode == 0, done.stderr
    save = tmp_path / "save"
    report = json.loads((save / "label_noise.json").read_text())
    assert report["classes_before"] == 4
    assert report["classes_after"] == 8
    noisy = read_manifest(save / "train_noisy.csv")
    clean = read_manifest(save / "train.csv")
    assert list(noisy["spk_id_clean"]) == list(clean["spk_id"])
    head = torch.load(tmp_path / "pretrained" / "classifier.ckpt")
    assert head["weight"].shape[0] == 8
    assert "train_noisy.csv" in done.stdout
    # what development is measured on stays as it was
    dev = read_manifest(save / "dev.csv")
    assert not set(dev["spk_id"]) & set(noisy["spk_id"])
    # but for its trials, which have noise of their own
    report = json.loads((save / "dev_label_noise.json").read_text())
    assert (report["sessions"], report["sessions_corrupted"]) == (4, 2)
    given = read_manifest(save / "dev_noisy.csv").set_index("ID")["spk_id"]
    trials = read_trials(save / "dev_trials_noisy.txt")
    same = trials["enrol"].map(given) == trials["test"].map(given)
    assert list(same) == list(trials["target"])
    report = json.loads((save / "label_noise.json").read_text())
    out = tmp_path / "labels"
    words = ["noisy_label_report.py", "--drop=0.25"]
    words += [tmp_path / "pretrained", save / "train_noisy.csv", out]
    done = run_script(list(map(str, words)), recipe)
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "label_report.json").read_text())
    assert found["utterances"] == len(noisy)
    assert found["wrong"] == report["corrupted"]
    assert 0 <= found["ROC AUC"] <= 1
    assert len(read_manifest(out / "cleaned.csv")) == len(noisy) * 3 // 4
    assert (out / "label_cosines.png").read_bytes().startswith(b"\x89PNG")
    done = train(recipe, corpus, tmp_path / "x", label_noise="{rate: 0.1}")
    assert done.returncode == 1
    assert "`label_noise` lacks 'kind'" in done.stderr


def test_fine_tuning_goes_on_from_a_trained_encoder_and_its_head(
    recipe, corpus, trained, tmp_path
):
    start = trained[0] / "pretrained"
    options = {
        "yaml": "resnet_csphereface2_large_margin.yaml",
        "start_from": start,
        "sentence_len": 1.0,
        "number_of_epochs": 1,
    }
    done = train(
        recipe, corpus, tmp_path / "still", initial_lr=1e-30, **options
    )
    assert done.returncode == 0, done.stderr
    assert "margin: 0.3 - " in (tmp_path / "still/train_log.txt").read_text()
    for name in ("embedding_model", "classifier", "loss", "label_encoder"):
        one = start / f"{name}.ckpt"
        other = tmp_path / "still" / "pretrained" / f"{name}.ckpt"
        if name == "label_encoder":
            assert one.read_text() == other.read_text()
            continue
        for key, value in torch.load(one).items():
            if "running" not in key and "batches" not in key:
                torch.testing.assert_close(torch.load(other)[key], value)
    done = train(recipe, corpus, tmp_path / "moved", **options)
    assert done.returncode == 0, done.stderr
    found = weights(tmp_path / "moved")
    assert any(
        not torch.equal(value, found[key])
        for key, value in weights(trained[0]).items()
    )
