"""Label noise by an encoder: each speaker is confused with the nearest."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
from processes import on_processes
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier
from test_export import RECIPE

from speechbrain_ext.dataio.label_noise_report import labels_fingerprint
from speechbrain_ext.dataio.manifests import read_manifest, write_manifest
from speechbrain_ext.dataio.trials import make_trials, write_trials
from speechbrain_ext.inference.embedding import embed_utterances
from speechbrain_ext.inference.export import export_pretrained
from speechbrain_ext.inference.noisy_labels import (
    development_data,
    noise_options,
    noisy_manifest,
    speaker_means,
    training_manifest,
)
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.utils.distributed import main_process_first


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
        main([str(noisy), str(tmp_path / "other.csv"), *command[2:]])
    with pytest.raises(SystemExit, match="was not written by this command"):
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
        ({"kind": "clusters", "clusters": 7}, "a path, got 7"),
        (
            {"kind": "mixture", "kinds": [{"kind": "pair"}]},
            "`kinds` of `label_noise` lacks 'rate'",
        ),
        (
            {"kind": "mixture", "kinds": [{"kind": "pair", "rate": 0, "x": 1}]},
            "`kinds` of `label_noise` has an unknown key 'x'",
        ),
        ({"kind": "speaker", "rate": 0.3}, r"one of \['symmetric', .*speaker"),
        ({"kind": "pair", "rate": 30}, "a share in .*got 30; 30 % is 0.3"),
        ({"kind": "pair", "rate": 0.3, "parts": 2}, "does not go with kind"),
        ({"kind": "mixture"}, "`kinds` must be a list of kinds"),
        (
            {"kind": "mixture", "kinds": [{"kind": "par", "rate": 0.1}]},
            r"one of \['symmetric', .*got 'par'",
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


@pytest.mark.parametrize("asked", [5, {"kind": "pair"}])
def test_an_error_names_the_key(asked, manifest, tmp_path):
    write_manifest(manifest, tmp_path / "dev.csv")
    with pytest.raises(ValueError, match="^`dev_label_noise` .* a mapping"):
        development_data(tmp_path, 2, 10, asked, seed=1)


def test_a_folder_that_needs_trust_is_refused(encoder, manifest):
    with open(f"{encoder}/hyperparams.yaml", "a") as file:
        file.write("run: !apply:os.getcwd []\n")
    asked = {"kind": "pair", "rate": 1.0, "embeddings_from": encoder}
    with pytest.raises(ValueError, match="!apply:os.getcwd is refused"):
        noisy_manifest(manifest, asked, 1986)


def test_clusters_are_read_from_a_file(manifest, tmp_path):
    path = tmp_path / "clusters.txt"
    lines = [f"wav/{name}.wav c{name[1]}\n" for name in manifest["ID"]]
    path.write_text("".join(lines[:-1]))
    asked = {"kind": "clusters", "clusters": str(path)}
    with pytest.raises(ValueError, match="lacks 1 of 20 .*'s4/x/3'"):
        noisy_manifest(manifest, asked, 1986)
    path.write_text("".join(lines))
    noisy, report = noisy_manifest(manifest, asked, 1986)
    assert noisy.spk_id.tolist() == manifest.spk_id.tolist()
    assert report["options"] == {"clusters": str(path)}
    assert report["clustering"]["clusters"] == 5


def test_a_mixture_reads_the_files_of_its_parts(encoder, manifest, tmp_path):
    outside = manifest.copy()
    for column in ("ID", "spk_id"):
        outside[column] = "x" + outside[column]
    write_manifest(outside, tmp_path / "outside.csv")
    parts = [
        {
            "kind": "pair",
            "rate": 0.5,
            "exact": True,
            "embeddings_from": encoder,
        },
        {"kind": "open_set", "rate": 0.1, "outside": tmp_path / "outside.csv"},
    ]
    asked = {"kind": "mixture", "kinds": parts}
    noisy, report = noisy_manifest(manifest, asked, 1986)
    pair, added = report["kinds"]
    assert (pair["corrupted"], added["corrupted"]) == (10, 1)
    assert pair["options"] == {"exact": True, "embeddings_from": encoder}
    assert added["options"] == {"outside": str(tmp_path / "outside.csv")}
    assert len(noisy) == 21
    json.dumps(report)


@pytest.fixture
def save(manifest, tmp_path):
    """The folder of a preparation: each tone is a session of its own."""
    manifest["ID"] = [f"{n[:2]}/v{n[-1]}/1" for n in manifest["ID"]]
    save = tmp_path / "save"
    save.mkdir()
    write_manifest(manifest, save / "train.csv")
    write_manifest(manifest, save / "dev.csv")
    write_trials(make_trials(manifest, 20, seed=1), save / "dev_trials.txt")
    return save


def test_outside_speakers_are_not_those_of_test_or_development(save, manifest):
    fresh = manifest.copy()
    for column in ("ID", "spk_id"):
        fresh[column] = "x" + fresh[column]
    write_manifest(fresh, save / "fresh.csv")
    for name in ("test", "dev"):
        held = manifest.copy()
        held["ID"] = name + held["ID"]
        held["spk_id"] = name + held["spk_id"]
        write_manifest(held, save / f"{name}.csv")
    write_manifest(held.assign(spk_id="other"), save / "ids.csv")

    def asked(name):
        path = str(save / f"{name}.csv")
        return {"kind": "open_set", "rate": 0.2, "outside": path}

    for name, message in (
        ("test", "speakers of .*test.csv .which `label_noise` must not use"),
        ("dev", "speakers of .*dev.csv .which"),
        ("ids", "IDs of .*dev.csv .which"),
    ):
        mixture = {"kind": "mixture", "kinds": [asked(name)]}
        for options in (asked(name), mixture):
            with pytest.raises(ValueError, match=message):
                training_manifest(save, options, 1)
    with pytest.raises(ValueError, match="train.csv .which `dev_label_noise`"):
        development_data(save, 5, 20, asked("train"), 1)
    assert len(training_manifest(save, asked("fresh"), 1)[0]) == 25
    assert len(development_data(save, 5, 20, asked("fresh"), 1)[0]) == 25


def test_wrong_labels_of_a_list_are_counted(save, manifest, caplog):
    wrong = manifest.assign(spk_id_clean=manifest["spk_id"])
    wrong.loc[:2, "spk_id"] = manifest["spk_id"].iloc[-1]
    for name, read in (
        ("train.csv", lambda: training_manifest(save, None, 1)),
        ("dev.csv", lambda: development_data(save, 5, 20, None, 1)),
    ):
        write_manifest(wrong, save / name)
        assert read()[0].spk_id.tolist() == wrong.spk_id.tolist()
        assert f"3 of {len(wrong)} labels in {name} are wrong" in caplog.text


def test_development_trials_are_made_from_the_noisy_labels(save, manifest):
    assert development_data(save, 0, 20, None, seed=1) is None
    found, clean = development_data(save, 5, 20, None, seed=1)
    assert found.spk_id.tolist() == manifest.spk_id.tolist()
    assert clean.equals(make_trials(manifest, 20, seed=1))
    asked = {"kind": "session", "rate": 0.5}
    found, trials = development_data(save, 5, 20, asked, seed=1)
    expected, report = noisy_manifest(manifest, asked, 1)
    assert found.spk_id.tolist() == expected.spk_id.tolist()
    given = dict(zip(expected.ID, expected.spk_id, strict=True))
    same = trials.enrol.map(given) == trials.test.map(given)
    assert same.tolist() == trials.target.tolist()
    assert trials.equals(make_trials(expected, 20, seed=1))
    assert not trials.equals(clean)
    written = json.loads((save / "dev_label_noise.json").read_text())
    assert written == report and report["sessions_corrupted"] == 10
    assert read_manifest(save / "dev_noisy.csv").spk_id_clean.tolist() == (
        manifest.spk_id.tolist()
    )
    with pytest.raises(ValueError, match="needs development speakers, but"):
        development_data(save, 0, 20, asked, seed=1)


def test_the_suite_has_the_nearest_speakers_of_an_encoder(
    encoder, save, manifest, recipe_folder, tmp_path, capsys
):
    from make_noisy_labels import main

    arguments = [str(save / "train.csv"), str(tmp_path / "lists"), "--suite"]
    main([*arguments, f"--embeddings_from={encoder}", "--workers=1"])
    assert "42 lists" in capsys.readouterr().out
    asked = json.loads((tmp_path / "lists" / "suite.json").read_text())
    asked = asked["lists"]["nearest-40-seed43"]["label_noise"]
    asked["embeddings_from"] = encoder
    noisy, _ = noisy_manifest(manifest, asked, 1)
    lines = sorted(noisy["ID"] + " " + noisy["spk_id"] + "\n")
    found = (tmp_path / "lists" / "nearest-40-seed43.txt").read_text()
    assert found == "".join(lines)


def corrupted_on_a_process(save, asked):
    """What a process of a training reads."""
    train = main_process_first(training_manifest, save, asked, 1)[0]
    dev = main_process_first(development_data, save, 5, 20, asked, 1)
    return [labels_fingerprint(m["ID"], m["spk_id"]) for m in (train, dev[0])]


def test_three_processes_train_on_the_labels_of_one(save, manifest):
    asked = {"kind": "symmetric", "rate": 0.4, "exact": True}
    report = noisy_manifest(manifest, asked, 1)[1]
    found = on_processes(corrupted_on_a_process, 3, str(save), asked)
    assert found == 3 * [2 * [report["fingerprint"]]]


def test_noise_options_takes_the_seed_of_the_run_or_its_own():
    asked = {"kind": "pair", "rate": 0.3}
    assert noise_options(asked, 7) == {**asked, "seed": 7}
    assert noise_options({**asked, "seed": 8}, 7) == {**asked, "seed": 8}
