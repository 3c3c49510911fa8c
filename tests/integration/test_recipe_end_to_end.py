"""The recipe as a user runs it: real files, real processes, a tiny network."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.inference.speaker import SpeakerRecognition

from speechbrain_ext.dataio.score_files import read_scores
from speechbrain_ext.dataio.toy_corpus import synthesise_corpus
from speechbrain_ext.utils.metrics import EER

TINY = {
    "channels": 4,
    "embedding_size": 16,
    "number_of_epochs": 2,
    "warmup_epochs": 0.5,
    "margin_start_epoch": 1.5,
    "margin_fix_epoch": 2,
    "batch_size": 8,
    "sentence_len": 0.6,
    "dev_speakers": 2,
    "dev_trials": 40,
    "average_checkpoints": 2,
    "precision": "fp32",
    "train_dataloader_opts": "{num_workers: 0}",
}


def run(recipe, script, yaml, **options):
    """Runs a script of the recipe as a process of its own."""
    flags = [f"--{key}={value}" for key, value in options.items()]
    return subprocess.run(
        [sys.executable, script, f"hparams/{yaml}", "--device=cpu", *flags],
        cwd=recipe,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A synthetic corpus of six speakers to train on and three to test."""
    return synthesise_corpus(
        tmp_path_factory.mktemp("data") / "corpus",
        train_speakers=6,
        test_speakers=3,
        sessions=2,
        utterances=3,
        seconds=(0.7, 1.4),
        trials=40,
        workers=2,
    )


@pytest.fixture(scope="module")
def recipe(request):
    """The recipe's folder."""
    return request.config.rootpath / "recipes" / "VoxCeleb" / "SpeakerRec"


def train(recipe, corpus, folder, **options):
    """Trains the tiny network and returns the finished process."""
    return run(
        recipe,
        "train_speaker_embeddings.py",
        options.pop("yaml", "resnet_csphereface2_small.yaml"),
        **{
            "data_folder": corpus,
            "output_folder": folder,
            **TINY,
            **options,
        },
    )


@pytest.fixture(scope="module")
def trained(recipe, corpus, tmp_path_factory):
    """The output folder of a run, and what the run said."""
    folder = tmp_path_factory.mktemp("results") / "trained"
    done = train(recipe, corpus, folder)
    assert done.returncode == 0, done.stderr
    return folder, done


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
    done = subprocess.run(
        [
            sys.executable,
            *words[1:],
            "--num_workers=0",
            f"--output_folder={tmp_path}",
        ],
        cwd=recipe,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_results_are_those_of_the_score_files(verified):
    folder, done = verified
    results = json.loads((folder / "results.json").read_text())
    assert len(results) == 6
    for row in results:
        _, _, scores, targets = read_scores(folder / row["scores"])
        assert len(scores) == 40
        eer, _ = EER(scores[targets], scores[~targets])
        assert row["EER %"] == pytest.approx(100 * eer)
        assert 0 <= row["minDCF 0.01"] <= 1
        assert row["scoring"] in done.stdout
    picture = (folder / "det.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


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


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_no_loss(workers, recipe, corpus, trained, tmp_path):
    options = f"{{num_workers: {workers}, persistent_workers: True}}"
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


@pytest.mark.parametrize(
    "loss", ["asphereface2", "aam", "aam_subcenter", "am", "softmax"]
)
def test_every_loss_trains_with_the_one_brain(loss, recipe, corpus, tmp_path):
    done = train(
        recipe,
        corpus,
        tmp_path,
        yaml=f"resnet_{loss}_small.yaml",
        number_of_epochs=1,
        dev_speakers=0,
    )
    assert done.returncode == 0, done.stderr
    assert "EER" not in (tmp_path / "train_log.txt").read_text()
    assert (tmp_path / "pretrained" / "hyperparams.yaml").is_file()


def test_loss_that_is_not_finite_stops_and_names_the_batch(
    recipe, corpus, tmp_path
):
    done = train(
        recipe,
        corpus,
        tmp_path,
        initial_lr=1e30,
        final_lr=1e30,
        warmup_epochs=0,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "The loss is nan" in last or "The loss is inf" in last
    assert last.count("id1000") == 8
    assert not (tmp_path / "pretrained").exists()


@pytest.fixture
def broken_corpus(tmp_path):
    """A corpus of four real files to break."""
    rng = np.random.default_rng(0)
    for speaker in ("id1", "id2", "id3", "id4"):
        folder = tmp_path / "corpus" / "wav" / speaker / "s1"
        folder.mkdir(parents=True)
        for name in ("1.wav", "2.wav"):
            signal = 0.1 * rng.standard_normal(16000)
            soundfile.write(folder / name, signal, 16000)
    (tmp_path / "corpus" / "meta").mkdir()
    trials = tmp_path / "corpus" / "meta" / "veri_x.txt"
    trials.write_text(
        "1 id1/s1/1.wav id1/s1/2.wav\n0 id1/s1/1.wav id2/s1/1.wav\n"
    )
    return tmp_path / "corpus"


def test_odd_audio_is_read_and_what_cannot_be_read_is_listed(
    recipe, broken_corpus, tmp_path
):
    # stereo, 8 kHz, 48 kHz, silent, shorter than the crop, flac, truncated
    rng = np.random.default_rng(1)
    noise = 0.1 * rng.standard_normal((48000, 2))
    folder = broken_corpus / "wav" / "id3" / "odd"
    folder.mkdir()
    soundfile.write(folder / "stereo.wav", noise[:16000], 16000)
    soundfile.write(folder / "slow.wav", noise[:8000, 0], 8000)
    soundfile.write(folder / "fast.flac", noise[:, 0], 48000)
    soundfile.write(folder / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(folder / "short.ogg", noise[:3000, 0], 16000)
    soundfile.write(folder / "cut.flac", noise[:16000, 0], 16000)
    whole = (folder / "cut.flac").read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    trials = broken_corpus / "meta" / "veri_x.txt"
    options = {"dev_speakers": 0, "batch_size": 4, "min_draws": 2}
    out = tmp_path / "out"
    line = one_clear_line(train(recipe, broken_corpus, out, **options))
    assert "cut.flac" in line
    assert "max_unreadable" in line
    options |= {"max_unreadable": 0.2, "number_of_epochs": 1}
    done = train(recipe, broken_corpus, out, **options)
    assert done.returncode == 0, done.stderr
    rejected = (out / "save" / "rejected.csv").read_text().splitlines()
    assert len(rejected) == 2
    assert "cut.flac" in rejected[1]
    summary = json.loads((out / "save" / "prepare.json").read_text())["summary"]
    assert summary["stereo"] == 1
    assert summary["resampled"] == 2
    # and the same kinds of files among the trials
    trials.write_text(
        "1 id3/odd/stereo.wav id3/odd/slow.wav\n"
        "1 id3/odd/fast.wav id3/odd/silent.wav\n"
        "0 id3/odd/short.wav id4/s1/1.wav\n"
    )
    verified = tmp_path / "verified"
    done = run(
        recipe,
        "speaker_verification_cosine.py",
        "verification_resnet_small.yaml",
        data_folder=broken_corpus,
        pretrained_folder=out / "pretrained",
        output_folder=verified,
        max_unreadable=0.2,
        num_workers=0,
    )
    assert done.returncode == 0, done.stderr
    *_, scores, _ = read_scores(verified / "scores_veri_x_asnorm.txt")
    assert scores.isfinite().all()


def one_clear_line(done):
    """What a run that failed said: nothing but one line, and exit code 1."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    errors = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


def test_bad_input_is_one_clear_line(recipe, broken_corpus, tmp_path):
    folder, trials = tmp_path / "out", broken_corpus / "meta" / "veri_x.txt"
    good = trials.read_text()

    def said(**options):
        done = train(recipe, broken_corpus, folder, **options)
        assert not (folder / "pretrained").exists()
        return one_clear_line(done)

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "nowhere" in said(data_folder=tmp_path / "nowhere")
    assert str(empty) in said(data_folder=empty)
    assert "'number_of_epochs'" in said(number_of_epoch=3)
    trials.write_text(good + "1 id1/s1/1.wav id9/s1/7.wav\n")
    assert "id9/s1/7" in said()
    trials.write_text(good + "1 id1/s1/1.wav\n")
    line = said()
    assert "veri_x.txt" in line
    assert "3" in line
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_label_map_that_does_not_fit_is_said(recipe, corpus, trained, tmp_path):
    folder = tmp_path / "out"
    (folder / "save").mkdir(parents=True)
    encoder = (trained[0] / "save" / "label_encoder.txt").read_text()
    (folder / "save" / "label_encoder.txt").write_text(
        encoder.replace("id10001", "id99999")
    )
    line = one_clear_line(train(recipe, corpus, folder))
    assert "label_encoder.txt" in line
    assert "id10001" in line


def test_verification_says_what_is_missing(recipe, corpus, trained, tmp_path):
    def said(**options):
        return one_clear_line(
            run(
                recipe,
                "speaker_verification_cosine.py",
                "verification_resnet_small.yaml",
                **{
                    "data_folder": corpus,
                    "output_folder": tmp_path / "out",
                    "pretrained_folder": trained[0] / "pretrained",
                    **options,
                },
            )
        )

    assert "nothing" in said(pretrained_folder=tmp_path / "nothing")
    assert "'plda'" in said(scorings="[plda]")
    assert "veri_none.txt" in said(trial_lists="veri_none.txt")
    assert not (tmp_path / "out" / "results.json").exists()
