"""One sample rate from the preparation to the decision on two files."""

import logging

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from recipe_runs import TINY
from speechbrain.dataio import audio_io
from speechbrain.dataio.preprocess import AudioNormalizer
from speechbrain.inference.speaker import SpeakerRecognition

from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.inference.embedding import (
    embed_utterances,
    encoder_rate,
    utterance_loader,
)
from speechbrain_ext.inference.embedding_store import (
    EmbeddingStore,
    model_fingerprint,
    utterance_keys,
)
from speechbrain_ext.processing.development import DevelopmentTrials

RATE = 8000


def argv(recipe_folder, yaml, **options):
    """The command line of a script of the recipe."""
    flags = [f"--{key}={value}" for key, value in options.items()]
    return [str(recipe_folder / "hparams" / yaml), "--device=cpu", *flags]


@pytest.fixture
def trained_at_8_khz(recipe_folder, corpus, tmp_path, monkeypatch, caplog):
    """The pretrained folder, the embeddings of development, and the log."""
    import train_speaker_embeddings as recipe

    kept = []

    def eer(trials, embeddings):
        kept.append(embeddings.clone())
        return real(trials, embeddings)

    real = DevelopmentTrials.eer
    monkeypatch.setattr(DevelopmentTrials, "eer", eer)
    with caplog.at_level(logging.INFO):
        folder = recipe.main(
            argv(
                recipe_folder,
                "resnet_csphereface2_small.yaml",
                data_folder=corpus,
                output_folder=tmp_path / "out",
                sample_rate=RATE,
                **TINY
                | {"number_of_epochs": 1, "average_checkpoints": 1}
                | {"margin_fix_epoch": 1.5, "margin_start_epoch": 1},
            )
        )
    return folder, kept[-1], caplog.text


def test_8_khz_from_training_to_the_decision(
    trained_at_8_khz, recipe_folder, corpus, tmp_path
):
    folder, development, log = trained_at_8_khz
    assert "16 kHz" not in log
    assert "sample rates: 16000 Hz (54 files)" in log
    encoder = SpeakerRecognition.from_hparams(source=str(folder))
    assert encoder_rate(encoder) == RATE
    # development heard what the exported folder hears
    manifest = read_manifest(folder.parent / "save" / "dev.csv")
    exported = embed_utterances(encoder, manifest, 20.0)
    torch.testing.assert_close(exported, development, rtol=1e-3, atol=1e-4)
    # and both are what the file gives at 8 kHz, read by hand
    path = manifest.wav[0]
    signal, rate = audio_io.load(path, channels_first=False)
    assert rate == 16000
    by_hand = AudioNormalizer(RATE)(signal, rate)
    assert len(by_hand) == len(signal) // 2
    alone = encoder.encode_batch(by_hand).flatten()
    torch.testing.assert_close(exported[0], alone, rtol=1e-3, atol=1e-4)
    soundfile.write(tmp_path / "8.wav", by_hand.numpy(), RATE, "FLOAT")
    score, same = encoder.verify_files(path, str(tmp_path / "8.wav"))
    assert score.item() == pytest.approx(1, abs=1e-4) and same.item()
    # verification too
    from speaker_verification_cosine import main

    main(
        argv(
            recipe_folder,
            "verification_resnet_small.yaml",
            data_folder=corpus,
            pretrained_folder=folder,
            output_folder=tmp_path / "verified",
            num_workers=0,
            scorings="[cosine]",
            calibrate="[]",
            bootstrap=0,
        )
    )
    test = read_manifest(tmp_path / "verified" / "save" / "test.csv")
    store = EmbeddingStore(
        tmp_path / "verified" / "embeddings", model_fingerprint(folder)
    )
    found = store.read()
    found = np.stack([found[key] for key in utterance_keys(test)])
    torch.testing.assert_close(
        torch.from_numpy(found),
        embed_utterances(encoder, test, 20.0),
        rtol=1e-3,
        atol=1e-4,
    )


def test_loader_reads_at_the_rate_of_the_model(tmp_path, corpus):
    path = sorted(corpus.rglob("*.wav"))[0]
    frames = soundfile.info(path).frames
    table = pd.DataFrame(
        {"ID": ["a"], "duration": [1.0], "wav": [str(path)]}
    ).assign(start=0, stop=frames)
    (batch,) = utterance_loader(table, sample_rate=RATE)
    assert batch.sig.data.shape == (1, -(-frames // 2))
