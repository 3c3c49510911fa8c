"""Fine-tuning from any encoder, as docs/your_own_speakers.md describes it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from conftest import RECIPE, ROOT
from processes import run_script
from recipe_runs import TINY, put_into_hub_cache, train

from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.synthetic.toy_corpus import synthesise_corpus

PAGE = ROOT / "docs" / "your_own_speakers.md"
OPTIONS = TINY | {"average_checkpoints": 1, "device": "cpu"}


def eers(folder):
    """The development EER by epoch, as logged."""
    text = (folder / "train_log.txt").read_text()
    found = re.findall(r"^epoch: (\d+)/.*valid EER: (\S+)", text, re.M)
    return {int(epoch): float(eer) for epoch, eer in found}


def weights(folder, name="embedding_model"):
    """A module that a run exported."""
    return torch.load(folder / "pretrained" / f"{name}.ckpt")


@pytest.fixture
def published(tmp_path, rule_weights):
    """WeSpeaker's ResNet34, narrow, with weights by rule, and its config."""
    shapes = {}
    for key, value in ResNet(80, (3, 4, 6, 3), 8, 16).state_dict().items():
        key = key.replace("embedding.", "seg_1.")
        for stage in range(4):
            key = key.replace(f"stages.{stage}", f"layer{stage + 1}")
        shapes[key] = list(value.shape)
    torch.save(rule_weights(shapes), tmp_path / "avg_model.pt")
    (tmp_path / "config.yaml").write_text(
        "model: ResNet34\nmodel_args: {feat_dim: 80, pooling_func: TSTP}\n"
    )
    return tmp_path


def test_the_commands_of_the_page_work_one_after_another(
    published, corpus, tmp_path
):
    place = tmp_path / "SpeakerRec"
    shutil.copytree(RECIPE, place)
    for name in ("avg_model.pt", "config.yaml"):
        shutil.move(published / name, place / name)
    for wav, name in zip(
        sorted(corpus.rglob("*.wav")), ("one.wav", "other.wav"), strict=False
    ):
        shutil.copy(wav, place / name)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.S)
    own = OPTIONS.keys() - {"block_sizes"}  # a ResNet34
    tiny = [f"--{key}={OPTIONS[key]}" for key in sorted(own)]
    said = []
    for block in blocks:
        command = block.replace("/data/my_speakers", str(corpus))
        words = shlex.split(command.replace("\\\n", " "))[1:]
        if words[0] == "-m":
            words[:2] = [find_spec(words[1]).origin]
        if words[0] == "train_speaker_embeddings.py":
            words += tiny
        done = run_script(words, place)
        assert done.returncode == 0, done.stderr[-3000:]
        said.append(done.stdout)
    assert len(said) == 3
    assert "only its encoder is used" in said[1]
    assert "front end" not in said[1]  # the recipe has WeSpeaker's
    run = place / "results" / "resnet_finetune" / "42"
    lines = (run / "train_log.txt").read_text().splitlines()
    assert re.fullmatch(r"epoch: 0/2 - valid EER: [\d.]+", lines[0])
    assert sorted(eers(run)) == [0, 1, 2]
    # frozen in the first epoch
    assert eers(run)[1] == eers(run)[0]
    before = torch.load(place / "pretrained/resnet34/embedding_model.ckpt")
    checkpoints = sorted((run / "save").glob("CKPT*/embedding_model.ckpt"))
    after = [torch.load(path) for path in checkpoints]
    same = [
        all(torch.equal(before[key], state[key]) for key in before)
        for state in after
    ]
    assert same == [True, False]


def test_a_small_model_gets_better_in_two_epochs(recipe, tmp_path):
    corpus = synthesise_corpus(
        tmp_path / "corpus",
        train_speakers=24,
        test_speakers=2,
        sessions=2,
        utterances=4,
        seconds=(1.0, 2.0),
        trials=40,
        workers=2,
    )
    options = {"dev_speakers": 6, "dev_trials": 400, "batch_size": 16}
    options |= {"block_sizes": "[1, 1, 1, 1]", "average_checkpoints": 1}
    small = tmp_path / "small"  # it has hardly learned anything
    done = train(
        *(recipe, corpus, small), initial_lr=1e-5, min_draws=1, **options
    )
    assert done.returncode == 0, done.stderr
    options |= {
        "yaml": "resnet_finetune_small.yaml",
        "start_from": small / "pretrained",
        "min_draws": 8,
        "initial_lr": 0.1,
        "warmup_epochs": 0,
        "frozen_epochs": 0.25,
        "encoder_lr_scale": 0.5,
    }
    done = train(recipe, corpus, tmp_path / "tuned", **options)
    assert done.returncode == 0, done.stderr
    found = eers(tmp_path / "tuned")
    assert found[0] == eers(small)[2]
    assert found[2] < found[0] - 1  # percent; it is 4 on one machine


def test_a_run_that_was_stopped_while_frozen_ends_as_one_left_alone(
    recipe, corpus, trained, tmp_path
):
    options = {
        "start_from": trained[0] / "pretrained",
        "head_from": "means",
        "frozen_epochs": 1.5,
        "encoder_lr_scale": 0.3,
    }
    runs = {}
    for name, steps in (("whole", {}), ("stopped", {"epoch_counter": 1})):
        folder = tmp_path / name
        if steps:
            done = train(
                recipe, corpus, folder, epoch_counter="{limit: 1}", **options
            )
            assert done.returncode == 0, done.stderr
        done = train(recipe, corpus, folder, **options)
        assert done.returncode == 0, done.stderr
        runs[name] = folder
    for module in ("embedding_model", "classifier", "loss"):
        wanted = weights(runs["whole"], module)
        for key, value in weights(runs["stopped"], module).items():
            assert torch.equal(value, wanted[key]), key
    assert sorted(eers(runs["whole"])) == [0, 1, 2]
    text = (runs["stopped"] / "train_log.txt").read_text()
    assert text.count("epoch: 0/") == 1  # not said again by the second run


def test_two_processes_start_and_freeze_as_one(
    recipe, corpus, trained, tmp_path
):
    options = OPTIONS | {
        "data_folder": corpus,
        "start_from": trained[0] / "pretrained",
        "head_from": "means",
        "frozen_epochs": 2,  # batch statistics would differ by rounding
    }
    launcher = ["-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc_per_node=2"]
    for name, before in (("one", []), ("two", launcher)):
        options["output_folder"] = tmp_path / name
        options["shard_classifier"] = name == "two"
        done = subprocess.run(
            [
                *(sys.executable, *before, "train_speaker_embeddings.py"),
                "hparams/resnet_csphereface2_small.yaml",
                *(f"--{key}={value}" for key, value in options.items()),
            ],
            cwd=recipe,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = tmp_path / "one", tmp_path / "two"
    start = torch.load(trained[0] / "pretrained" / "embedding_model.ckpt")
    assert eers(one) == eers(two) and sorted(eers(one)) == [0, 1, 2]
    for key, value in weights(two).items():
        assert torch.equal(value, start[key]), key
    for name in ("classifier", "loss"):
        for key, value in weights(one, name).items():
            torch.testing.assert_close(
                weights(two, name)[key], value, atol=1e-5, rtol=0
            )


def test_a_new_head_without_an_encoder_is_an_error(recipe, corpus, tmp_path):
    done = train(recipe, corpus, tmp_path / "run", head_from="means")
    assert done.returncode == 1
    assert "`head_from` is means, which needs an encoder" in done.stderr


def test_training_starts_from_a_model_in_the_hubs_cache(
    recipe, corpus, trained, tmp_path, monkeypatch
):
    pretrained = trained[0] / "pretrained"
    put_into_hub_cache(pretrained, tmp_path / "hub", monkeypatch)
    options = {"start_from": "hf:owner/name", "frozen_epochs": 1}
    options |= {"number_of_epochs": 1, "average_checkpoints": 1}
    folder = tmp_path / "run"
    done = train(recipe, corpus, folder, **options)
    assert done.returncode == 0, done.stderr
    assert eers(folder)[0] == eers(folder)[1]  # only the head was trained
    before = torch.load(pretrained / "embedding_model.ckpt")
    for key, value in weights(folder).items():
        assert torch.equal(value, before[key]), key
    options["start_from"] = "hf:owner/other"
    done = train(recipe, corpus, tmp_path / "other", **options)
    assert done.returncode == 1
    assert "hf:owner/other cannot be used (it is not in" in done.stderr
    assert "Traceback" not in done.stderr
