"""Published checkpoints: what fits is loaded, what does not is named."""

import hashlib
import pathlib
import re
import subprocess
import sys

import pytest
import torch
from speechbrain.inference.speaker import SpeakerRecognition
from wespeaker_shapes import TINY, wespeaker_shapes

from speechbrain_ext.integrations.golden_gemini import DF
from speechbrain_ext.integrations.published_checkpoints import (
    _config,
    describe_checkpoint,
    export_published,
)
from speechbrain_ext.lobes.features import KaldiFbank, SentenceMeanNorm
from speechbrain_ext.lobes.models.DFResNet import DFResNet
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.utils.conversion import convert_checkpoint, main


@pytest.fixture
def state(rule_weights):
    """A published state dict of the tiny network."""
    return rule_weights(wespeaker_shapes())


def test_modules_are_the_interfaces(state):
    modules = convert_checkpoint("wespeaker", TINY, state)
    assert sorted(modules) == [
        "compute_features",
        "embedding_model",
        "mean_var_norm",
    ]
    modules = modules.float().eval()
    features = modules["compute_features"](torch.rand(2, 16000) - 0.5)
    features = modules["mean_var_norm"](features, torch.ones(2))
    assert modules["embedding_model"](features, torch.ones(2)).shape == (
        2,
        1,
        6,
    )


@pytest.mark.parametrize(
    ("kind", "computed"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_modules_of_any_type_can_be_chained(state, kind, computed):
    state = {key: value.to(kind) for key, value in state.items()}
    modules = convert_checkpoint("wespeaker", TINY, state).eval()
    x = 0.1 * torch.randn(2, 16000)
    for name in ("compute_features", "mean_var_norm", "embedding_model"):
        x = modules[name](x)
    assert x.dtype == computed


def test_training_head_is_left_out(state):
    state["projection.weight"] = torch.zeros(5, 6)
    convert_checkpoint("wespeaker", TINY, state)


def test_published_names_give_the_published_networks():
    full = ResNet(80, (2, 2, 2, 2), 4, 16).state_dict()
    state = {
        key.replace("embedding.", "seg_1.")
        .replace("stages.0", "layer1")
        .replace("stages.1", "layer2")
        .replace("stages.2", "layer3")
        .replace("stages.3", "layer4"): value
        for key, value in full.items()
    }
    model = convert_checkpoint("wespeaker", "ResNet18", state)
    for key, value in model["embedding_model"].state_dict().items():
        assert torch.equal(value, full[key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("bn1.bias"), "1 places: missing bn1.bias"),
        (
            lambda s: s.update({"layer5.0.x": torch.zeros(1)}),
            "unexpected layer5.0.x",
        ),
        (
            lambda s: s.update({"seg_1.bias": torch.zeros(7)}),
            r"seg_1.bias of shape \[7\] instead of \[6\]",
        ),
        (lambda s: s.pop("seg_1.weight"), "lacks 'seg_1.weight'"),
    ],
)
def test_every_misfit_is_named(state, change, message):
    change(state)
    with pytest.raises(ValueError, match=message):
        convert_checkpoint("wespeaker", TINY, state)


def test_unknown_names_are_rejected(state):
    with pytest.raises(ValueError, match="got 'kaldi'"):
        convert_checkpoint("kaldi", TINY, state)
    with pytest.raises(ValueError, match="got 'ResNet9'"):
        convert_checkpoint("wespeaker", "ResNet9", state)


@pytest.fixture
def published(state, tmp_path, rule_weights):
    """A file of DF-ResNet60 as its authors publish it, narrow, and a config."""
    model = DFResNet(80, DF["60"], (4, 4, 4, 4, 4), 6)
    state = {
        key.replace("downsampling", "downsample_layers"): value
        for key, value in model.state_dict().items()
    }
    torch.save(state, tmp_path / "avg_model.pt")
    return tmp_path / "avg_model.pt", model.eval()


def convert(*options):
    """Runs the command and returns its exit code and last line."""
    done = subprocess.run(
        [sys.executable, "-m", "speechbrain_ext.utils.conversion", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stderr
    return done.returncode, lines[-1] if lines else ""


def refused(*options):
    """What the command, in this process, says as it ends."""
    with pytest.raises(SystemExit) as left:
        main(options)
    return left.value.code


def test_command_writes_a_folder_that_speechbrain_loads(published, tmp_path):
    path, model = published
    options = ["--family", "golden_gemini", "--checkpoint", str(path)]
    options += ["--architecture", "Gemini_df_resnet60"]
    code, line = convert(*options, "--output_folder", str(tmp_path / "p"))
    assert code == 0, line
    loaded = SpeakerRecognition.from_hparams(source=str(tmp_path / "p"))
    wavs = 0.1 * torch.randn(2, 16000)
    features = SentenceMeanNorm()(KaldiFbank(80)(wavs))
    model.pooling.epsilon = 1e-10
    torch.testing.assert_close(loaded.encode_batch(wavs), model(features))
    card = (tmp_path / "p" / "README.md").read_text()
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    assert "Golden Gemini" in card
    assert "the Python package `speechbrain_ext`" in card


def test_config_names_network_pooling_and_filterbanks(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: ResNet34\nmodel_args: {feat_dim: 40, pooling_func: ASTP}\n"
    )
    assert _config(config, "wespeaker") == ("ResNet34_ASTP", 40, 16000)
    text = "model: ResNetSE34L\nencoder_type: SAP\nn_mels: 40\n"
    config.write_text(text + "log_input: true\n")
    assert _config(config, "clova") == ("ResNetSE34L_SAP", 40, 16000)
    config.write_text(text)
    with pytest.raises(ValueError, match="`log_input` of .* True, got False"):
        _config(config, "clova")
    config.write_text(
        "model: Gemini_DF_ResNet60\n"
        "model_args: {feat_dim: 80, pooling_func: TSTP}\n"
    )
    assert _config(config, "golden_gemini") == ("Gemini_DF_ResNet60", 80, 16000)


def test_sample_rate_of_a_config_reaches_the_folder(tmp_path):
    full = ResNet(40, (2, 2, 2, 2), 4, 6).state_dict()
    state = {
        re.sub(r"stages\.(\d)", lambda m: f"layer{int(m[1]) + 1}", key): value
        for key, value in full.items()
    }
    state = {k.replace("embedding.", "seg_1."): v for k, v in state.items()}
    torch.save(state, tmp_path / "avg_model.pt")
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: ResNet18\nmodel_args: {feat_dim: 40}\n"
        "dataset_args: {resample_rate: 8000, fbank_args: {frame_shift: 10}}\n"
    )
    folder = export_published(
        "wespeaker", tmp_path / "avg_model.pt", tmp_path / "p", config
    )
    loaded = SpeakerRecognition.from_hparams(source=str(folder))
    assert loaded.audio_normalizer.sample_rate == 8000
    wavs = 0.1 * torch.randn(2, 8000)
    features = SentenceMeanNorm()(KaldiFbank(40, sample_rate=8000)(wavs))
    model = loaded.mods.embedding_model
    torch.testing.assert_close(loaded.encode_batch(wavs), model(features))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dataset_args: {cmvn_args: {norm_var: true}}", "norm_var.* got True"),
        ("dataset_args: {fbank_args: {frame_shift: 12}}", "must be 10, got 12"),
        ("dataset_args: {fbank_args: {frame_length: 20}}", "25, got 20"),
        ("dataset_args: {resample_rate: 8k}", "whole number of Hz.* got '8k'"),
        ("log_input: false", "`log_input` of .* must be True, got False"),
    ],
)
def test_other_front_ends_are_not_taken_for_ours(tmp_path, text, said):
    config = tmp_path / "config.yaml"
    config.write_text(f"model: ResNet34\n{text}\n")
    with pytest.raises(ValueError, match=said):
        _config(config, "wespeaker")


class Bomb:
    """What runs code when it is unpickled carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_bad_files_are_refused_and_nothing_is_written(published, tmp_path):
    path, _ = published
    out = tmp_path / "out"
    options = ["--family", "golden_gemini", "--output_folder", str(out)]
    options += ["--architecture", "Gemini_df_resnet60", "--checkpoint"]
    whole = path.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"x": Bomb(tmp_path / "exploded")}, tmp_path / "bomb.pt")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pt")
    for name, said in (
        ("none.pt", "does not exist"),
        ("cut.pt", "is truncated, or not a file of torch.save"),
        ("bomb.pt", "more than tensors"),
        ("other.pt", "not of family 'golden_gemini'"),
    ):
        # a text as the code is written to stderr, and the code is 1
        line = refused(*options, str(tmp_path / name))
        assert line.startswith("error: "), line
        assert said in line, line
    assert not out.exists()
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("kaldi", "ResNet34", "got 'kaldi'"),
        ("wespeaker", "ResNet9", "got 'ResNet9'"),
        ("wespeaker", "Gemini_DF_ResNet61", "got 'Gemini_DF_ResNet61'"),
        ("golden_gemini", "114", "got '114'"),
        ("golden_gemini", "ResNet34", "got 'ResNet34'"),
        ("clova", "RawNet3", "lacks 'fc.weight'"),
    ],
)
def test_unknown_architectures_are_rejected(family, name, message):
    with pytest.raises(ValueError, match=message):
        describe_checkpoint(family, name, {})
