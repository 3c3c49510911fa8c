"""What a user can get wrong: one clear line, exit code 1, nothing broken."""

import functools
import json

import numpy as np
import pytest
import soundfile
from recipe_runs import run, train

from speechbrain_ext.dataio.score_files import read_scores
from speechbrain_ext.inference.safe_weights import has_safetensors


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
    rates = summary["sample_rates"]
    assert summary["files"] - rates["16000"] == 2
    # and the same kinds of files among the trials
    lines = (
        "1 id3/odd/stereo.wav id3/odd/slow.wav\n"
        "1 id3/odd/fast.wav id3/odd/{}.wav\n"
        "0 id3/odd/short.wav id4/s1/1.wav\n"
    )
    verified = tmp_path / "verified"
    verify = functools.partial(
        run,
        recipe,
        "speaker_verification_cosine.py",
        "verification_resnet_small.yaml",
        data_folder=broken_corpus,
        pretrained_folder=out / "pretrained",
        output_folder=verified,
        max_unreadable=0.2,
        num_workers=0,
    )
    trials.write_text(lines.format("silent"))
    line = one_clear_line(verify())
    assert "1 utterance has no speech: id3/odd/silent (digital silence" in line
    trials.write_text(lines.format("slow"))
    done = verify()
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


# every option: test_verification_bad_input.py
def test_verification_says_what_is_missing(recipe, corpus, tmp_path):
    done = run(
        recipe,
        "speaker_verification_cosine.py",
        "verification_resnet_small.yaml",
        data_folder=corpus,
        output_folder=tmp_path / "out",
        pretrained_folder=tmp_path / "nothing",
    )
    assert "nothing" in one_clear_line(done)
    assert not (tmp_path / "out" / "results.json").exists()


def test_start_that_does_not_fit_is_said(recipe, corpus, trained, tmp_path):
    options = {
        "yaml": "resnet_csphereface2_large_margin.yaml",
        "sentence_len": 0.6,
    }
    line = one_clear_line(train(recipe, corpus, tmp_path / "a", **options))
    assert "`start_from`" in line
    assert "results/resnet_csphereface2/42/pretrained" in line
    options |= {"start_from": trained[0] / "pretrained", "channels": 4}
    line = one_clear_line(train(recipe, corpus, tmp_path / "a", **options))
    form = "safetensors" if has_safetensors() else "ckpt"
    assert f"embedding_model.{form} does not fit" in line
