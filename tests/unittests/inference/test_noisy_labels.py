"""Label noise by an encoder: each speaker is confused with the nearest."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier
from test_export import RECIPE

from speechbrain_ext.dataio.manifests import read_manifest, write_manifest
from speechbrain_ext.inference.embedding import embed_utterances
from speechbrain_ext.inference.export import export_pretrained
from speechbrain_ext.inference.noisy_labels import (
    noise_options,
    noisy_manifest,
    speaker_means,
    training_manifest,
)
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet.classifiers import CosineClassifier


@pytest.fixture
def encoder(tmp_path):
    """A pretrained folder."""
    known = CategoricalEncoder()
    known.update_from_iterable(["a", "b"])
    modules = {
        "embedding_model": ResNet(40, (1, 1, 1, 1), 4, 8),
        "classifier": CosineClassifier(8, 2),
    }
    return str(export_pretrained(tmp_path / "p", RECIPE, modules, known, 8))


@pytest.fixture
def manifest(tmp_path):
    """Five speakers with four tones each, and a silent utterance."""
    rows, rng = [], np.random.default_rng(0)
    for speaker, pitch in enumerate((200, 3000, 230, 2700, 800)):
        for number in range(4):
            path = tmp_path / f"{speaker}-{number}.wav"
            tone = np.sin(2 * np.pi * pitch * np.arange(8000) / 16000)
            tone = 0.3 * tone + 0.01 * rng.standard_normal(8000)
            soundfile.write(path, tone * ((speaker, number) != (4, 1)), 16000)
            name = f"s{speaker}"
            row = (f"{name}/x/{number}", 0.5, str(path), 0, 8000, name)
            rows.append(row)
    columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
    return pd.DataFrame(rows, columns=columns)


def test_nearest_is_the_highest_cosine_of_the_means(encoder, manifest):
    asked = {"kind": "pair", "rate": 1.0, "embeddings_from": encoder}
    noisy, report = noisy_manifest(manifest, asked, 1986)
    spoken = manifest[manifest.ID != "s4/x/1"]
    found = embed_utterances(EncoderClassifier.from_hparams(encoder), spoken)
    found = (found / found.norm(dim=1, keepdim=True)).numpy()
    means = pd.DataFrame(found).groupby(spoken.spk_id.to_numpy()).mean()
    cosines = means.to_numpy() @ means.to_numpy().T
    norms = np.sqrt(np.diag(cosines))
    cosines /= np.outer(norms, norms)
    np.fill_diagonal(cosines, -2)
    nearest = {f"s{n}": f"s{m}" for n, m in enumerate(cosines.argmax(axis=1))}
    assert noisy.spk_id.tolist() == manifest.spk_id.map(nearest).tolist()
    assert report["options"] == {"embeddings_from": encoder}
    json.dumps(report)


def test_few_utterances_and_any_order_give_the_means(encoder, manifest):
    some = speaker_means(encoder, manifest, utterances=2)
    assert set(some) == {"s0", "s1", "s2", "s3", "s4"}
    again = speaker_means(encoder, manifest[::-1], utterances=2)
    for name, mean in some.items():
        np.testing.assert_allclose(mean, again[name], rtol=1e-4, atol=1e-5)
    others = speaker_means(encoder, manifest, utterances=3)
    assert not np.allclose(some["s0"], others["s0"], rtol=1e-6, atol=1e-7)


def test_a_folder_that_is_none_is_refused(manifest, tmp_path):
    asked = {"kind": "pair", "rate": 1.0, "embeddings_from": str(tmp_path)}
    with pytest.raises(FileNotFoundError, match="has no hyperparams.yaml"):
        noisy_manifest(manifest, asked, 1986)


def test_command_confuses_with_the_nearest(
    encoder, manifest, tmp_path, recipe_folder, capsys
):
    from make_noisy_labels import main

    (tmp_path / "made").mkdir()
    clean, noisy = tmp_path / "made" / "a.csv", tmp_path / "made" / "b.csv"
    write_manifest(manifest, clean)
    command = [str(clean), str(noisy), "--kind=pair", "--rate=1", "--seed=1"]
    main([*command, f"--embeddings_from={encoder}"])
    asked = {"kind": "pair", "rate": 1.0, "embeddings_from": encoder}
    expected, _ = noisy_manifest(manifest, asked, 1)
    assert read_manifest(noisy).spk_id.tolist() == expected.spk_id.tolist()
    for more, message in (
        (["--by=nearest"], "give `embeddings_from`"),
        (["--parts=0"], "`parts` does not go with kind"),
        (["--embeddings_from=/no/such"], "/no/such has no hyperparams.yaml"),
    ):
        with pytest.raises(SystemExit, match=f"^error: .*{message}"):
            main([*command, *more])
    with pytest.raises(SystemExit, match="corrupted already"):
        main([str(noisy), str(clean), *command[2:]])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (5, "must be a mapping such as .*, got 5"),
        (True, "got True"),
        ("symmetric", "got 'symmetric'"),
        ([0.3], r"got \[0.3\]"),
        ({}, "lacks 'kind'"),
        ({"kind": "pair"}, "lacks 'rate'"),
        (
            {"kind": "pair", "rtae": 0.3},
            "unknown key 'rtae'; valid keys are kind,",
        ),
        ({"kind": "pair", "rate": 0.3, 7: 1}, "unknown key 7"),
        ({"kind": "pair", "rate": 0.3, "outside": 7}, "a path, got 7"),
        (
            {"kind": "pair", "rate": 0.3, "embeddings_from": ["a"]},
            r"a path, got \['a'\]",
        ),
        (
            {"kind": "split", "rate": 0.3, "embeddings_from": "a"},
            "is valid only with kind 'pair', got kind 'split'",
        ),
    ],
)
def test_noise_options_rejects(asked, message):
    with pytest.raises(ValueError, match=message):
        noise_options(asked, 1986)


@pytest.mark.parametrize("asked", [5, 0, "symmetric", {"kind": "pair"}])
def test_training_refuses_label_noise_that_is_none(asked, manifest, tmp_path):
    (tmp_path / "save").mkdir()
    write_manifest(manifest, tmp_path / "save" / "train.csv")
    with pytest.raises(ValueError, match="^`label_noise` .* a mapping"):
        training_manifest(tmp_path / "save", asked, seed=1)


def test_training_confuses_with_the_nearest(encoder, manifest, tmp_path):
    save = tmp_path / "save"
    save.mkdir()
    write_manifest(manifest, save / "train.csv")
    asked = {"kind": "pair", "rate": 1.0, "embeddings_from": encoder}
    found, path = training_manifest(save, asked, seed=1)
    expected, report = noisy_manifest(manifest, asked, 1)
    assert found.spk_id.tolist() == expected.spk_id.tolist()
    assert path == save / "train_noisy.csv"
    assert json.loads((save / "label_noise.json").read_text()) == report


def test_noise_options_takes_the_seed_of_the_run_or_its_own():
    asked = {"kind": "pair", "rate": 0.3}
    assert noise_options(asked, 7) == {**asked, "seed": 7}
    assert noise_options({**asked, "seed": 8}, 7) == {**asked, "seed": 8}
