"""A tiny network on synthetic voices, trained once for all tests."""

import shutil

import pytest
from processes import run_script

from speechbrain_ext.synthetic.toy_corpus import synthesise_corpus

TINY = {
    "block_sizes": "[1, 1, 1, 1]",
    "channels": 8,
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
    """Runs a script of the recipe in a separate process, by its YAML if any."""
    flags = [
        f"--{key}={value}"
        for key, value in options.items()
        if value is not None
    ]
    words = [f"hparams/{yaml}", "--device=cpu"] if yaml else []
    return run_script([script, *words, *flags], recipe)


def put_into_hub_cache(pretrained, folder, monkeypatch):
    """Copies a folder to where the Hub's client keeps hf:owner/name."""
    place = folder / "models--owner--name"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0123")
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return shutil.copytree(pretrained, place / "snapshots" / "0123")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A synthetic corpus of six training and three test speakers."""
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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def trained(recipe, corpus, tmp_path_factory):
    """The output folder of a run, and the finished process."""
    folder = tmp_path_factory.mktemp("results") / "trained"
    done = train(recipe, corpus, folder)
    assert done.returncode == 0, done.stderr
    return folder, done
