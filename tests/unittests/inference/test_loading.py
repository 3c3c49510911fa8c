"""Pretrained folders: what loads, and a sentence for each that does not."""

import os
import pickle
import shutil

import huggingface_hub
import pytest
import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
from speechbrain.processing.features import InputNormalization

from speechbrain_ext.inference import safe_weights
from speechbrain_ext.inference.export import export_pretrained
from speechbrain_ext.inference.folder_checks import check_files
from speechbrain_ext.inference.loading import (
    load_encoder,
    read_weights,
    require_device,
    training_speakers,
)
from speechbrain_ext.inference.start_from import load_pretrained
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet.classifiers import CosineClassifier

RECIPE = """\
compute_features: !new:speechbrain_ext.lobes.features.KaldiFbank
    n_mels: 40
mean_var_norm: !new:speechbrain_ext.lobes.features.SentenceMeanNorm
embedding_model: !new:speechbrain_ext.lobes.models.ResNet.ResNet
    input_size: 40
    block_sizes: [1, 1, 1, 1]
    channels: 4
    lin_neurons: 8
classifier: !name:speechbrain_ext.nnet.classifiers.CosineClassifier
    input_size: 8
"""
# As SpeechBrain's own spkrec-ecapa-voxceleb has it, but small
ECAPA = """\
pretrained_path: speechbrain/spkrec-ecapa-voxceleb
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 20
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 20
    channels: [8, 8, 8, 8, 24]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 4
    lin_neurons: 6
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 6
    out_neurons: 2
mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        mean_var_norm_emb: !ref <mean_var_norm_emb>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        mean_var_norm_emb: !ref <pretrained_path>/mean_var_norm_emb.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing may be looked for on the network."""

    def refuse(*arguments, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder of a tiny encoder of two speakers at two speeds."""
    labels = CategoricalEncoder()
    labels.update_from_iterable(["a", "b", "a#speed0.9", "b#speed0.9"])
    torch.manual_seed(0)
    modules = {
        "embedding_model": ResNet(40, (1, 1, 1, 1), 4, 8),
        "classifier": CosineClassifier(8, 4),
    }
    folder = tmp_path_factory.mktemp("exported") / "pretrained"
    return export_pretrained(folder, RECIPE, modules, labels, 8)


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of it to break."""
    folder = shutil.copytree(exported, tmp_path / "pretrained")
    for path in folder.glob("*.safetensors"):
        path.unlink()  # the tests break the .ckpt
    return folder


def test_local_folder_loads_as_by_speechbrain_and_stays_as_it_was(
    exported, tmp_path, monkeypatch
):
    before = sorted(os.listdir(exported))
    monkeypatch.chdir(tmp_path)
    encoder = load_encoder(exported, {"device": "cpu"})
    wav = torch.randn(1, 8000)
    expected = EncoderClassifier.from_hparams(source=str(exported))
    assert torch.equal(encoder.encode_batch(wav), expected.encode_batch(wav))
    assert not encoder.mods.embedding_model.training
    assert training_speakers(encoder) == {"a", "b"}
    assert sorted(os.listdir(exported)) == before
    assert os.listdir(tmp_path) == []


def test_speechbrains_own_folder_is_read_from_disk(tmp_path):
    torch.manual_seed(0)
    model = ECAPA_TDNN(
        20,
        channels=[8, 8, 8, 8, 24],
        kernel_sizes=[5, 3, 3, 3, 1],
        attention_channels=4,
        lin_neurons=6,
    )
    mean = InputNormalization(norm_type="global", std_norm=False)
    mean(torch.randn(1, 3, 6), torch.ones(1))
    head = Classifier(6, out_neurons=2)
    (tmp_path / "hyperparams.yaml").write_text(ECAPA)
    torch.save(model.state_dict(), tmp_path / "embedding_model.ckpt")
    torch.save(head.state_dict(), tmp_path / "classifier.ckpt")
    mean._save(tmp_path / "mean_var_norm_emb.ckpt")
    labels = CategoricalEncoder()
    labels.update_from_iterable(["id00012", "id00015"])
    labels.save(tmp_path / "label_encoder.txt")
    encoder = load_encoder(tmp_path)
    for key, value in model.state_dict().items():
        loaded = encoder.mods.embedding_model.state_dict()[key]
        assert torch.equal(loaded, value)
    assert training_speakers(encoder) == {"id00012", "id00015"}
    assert encoder.encode_batch(torch.randn(1, 8000)).shape == (1, 1, 6)


def test_name_of_the_hub_is_asked_for_only_with_its_prefix():
    # with it: tests/unittests/integrations/test_hub.py
    for name in ("speechbrain/spkrec-ecapa-voxceleb", "resluts/pretrained"):
        with pytest.raises(FileNotFoundError, match="has no hyperparams.yaml"):
            load_encoder(name)
    with pytest.raises(AssertionError, match="the network was asked"):
        load_encoder("hf:owner/name")


@pytest.mark.parametrize("done", [False, True])
def test_output_folder_of_a_training_is_refused(done, tmp_path):
    for name in ("hyperparams.yaml", "train_log.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / ("pretrained" if done else "save")).mkdir()
    for load in (load_encoder, check_files):
        with pytest.raises(ValueError, match="a training; pass .*pretrained"):
            load(tmp_path)


def test_file_as_a_folder_is_said(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(FileNotFoundError, match="has no hyperparams.yaml"):
        load_encoder(tmp_path / "a")


def edit(folder, old, new):
    """Replaces a text in the folder's YAML."""
    path = folder / "hyperparams.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "old, new, match",
    [
        ("channels: 4", "channels: four", "hyperparams.yaml cannot be used"),
        ("ResNet.ResNet", "ResNet.RestNet", "hyperparams.yaml cannot be used"),
        ("n_mels: 40", "n_mels: [", "hyperparams.yaml cannot be used"),
        ("n_mels: 40", "n_mels: !ref <x>", "hyperparams.yaml cannot be used"),
        ("lin_neurons: 8", "lin_neurons: 9", "does not fit the folder's"),
        ("pretrainer:", "other:", "keys `modules` and `pretrainer`"),
        ("    classifier: !ref", "    head: !ref", "must have classifier"),
        (
            "block_sizes: [1, 1, 1, 1]",
            "block_sizes: [1, 1, 2, 1]",
            "lacks [0-9]+ tensors of the folder's",
        ),
    ],
)
def test_yaml_that_cannot_be_used_is_said(old, new, match, folder):
    edit(folder, old, new)
    with pytest.raises(ValueError, match=match) as error:
        load_encoder(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("text", ["", "- a", "3", "a: b: c", "\x00", "&a [*a]"])
def test_yaml_that_is_none_is_said(text, folder):
    (folder / "hyperparams.yaml").write_text(text)
    with pytest.raises(ValueError, match="hyperparams.yaml"):
        load_encoder(folder)


class Evil:
    """What a pickle must not run."""

    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_weights_that_cannot_be_used_are_said(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = folder / "embedding_model.ckpt"
    whole = path.read_bytes()
    state = torch.load(path)
    key = "embedding.weight"

    def said(match, kind=ValueError):
        with pytest.raises(kind, match=match) as error:
            load_encoder(folder)
        assert "\n" not in str(error.value)
        assert "embedding_model.ckpt" in str(error.value)
        assert "weights_only" not in str(error.value)

    for content in (b"", whole[:1000], whole[:-1000]):
        path.write_bytes(content)
        said(
            "is truncated, or not a file of torch.save|contains more than tensors"
        )
    for content in (b"no weights at all", pickle.dumps(Evil())):
        path.write_bytes(content)
        said("is not a file of torch.save, or contains more than tensors")
    assert not (tmp_path / "evil").exists()
    torch.save([1, 2], path)
    said("must be a state dict, got a list")
    for value in (float("nan"), float("inf")):
        torch.save({**state, key: torch.full_like(state[key], value)}, path)
        said(f"not finite in 1 of {len(state)} tensors .{key}.")
    torch.save({k: v for k, v in state.items() if k != key}, path)
    said(f"lacks 1 tensors.*{key}")
    path.unlink()
    said("has no embedding_model.ckpt", FileNotFoundError)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_weights(path)


def test_label_map_that_is_damaged_is_said(folder):
    path = folder / "label_encoder.ckpt"
    for text in ("a map", "'a' => x\n", "b => 0\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="label_encoder.ckpt is damaged"):
            load_encoder(folder)
    CategoricalEncoder().save(path)
    (folder / "sums.json").unlink()
    assert training_speakers(load_encoder(folder)) is None


def test_device_that_is_not_there_is_said(exported, monkeypatch):
    with pytest.raises(ValueError, match="`device` cuda:99 cannot be used"):
        load_encoder(exported, {"device": "cuda:99"})
    with pytest.raises(ValueError, match="`device` gpu cannot be used"):
        require_device("gpu")
    require_device(None)
    for fault in (AssertionError, ImportError):  # of devices torch lacks

        def lacking(*_, kind=fault, **__):
            raise kind("not compiled")

        monkeypatch.setattr(torch, "zeros", lacking)
        with pytest.raises(ValueError, match="cannot be used .not compiled"):
            require_device("cpu")


def test_training_does_not_start_from_nan(exported, folder):
    labels, head = CategoricalEncoder(), CosineClassifier(8, 4)
    labels.load(exported / "label_encoder.ckpt")
    assert load_pretrained(exported, {"classifier": head}, labels) == 4
    state = torch.load(folder / "classifier.ckpt")
    state["weight"][1, 1] = torch.nan
    torch.save(state, folder / "classifier.ckpt")
    with pytest.raises(
        ValueError, match="classifier.ckpt contains NaN in weight"
    ):
        load_pretrained(folder, {"classifier": head}, labels)


def test_trust_reads_a_folder_with_safetensors_only(
    folder, exported, monkeypatch
):
    torch_form = pytest.importorskip("safetensors.torch")
    for path in folder.glob("*.ckpt"):
        if path.name != "label_encoder.ckpt":
            twin = path.with_suffix(".safetensors")
            torch_form.save_file(torch.load(path), twin)
            path.unlink()
    (folder / "sums.json").unlink(missing_ok=True)
    wav = torch.randn(1, 16000)
    found, known = (
        load_encoder(one, trust=True).encode_batch(wav)
        for one in (folder, exported)
    )
    assert torch.equal(found, known)
    monkeypatch.setattr(safe_weights, "has_safetensors", lambda: False)
    with pytest.raises(ValueError, match="pip install safetensors"):
        load_encoder(folder, trust=True)


def test_code_of_a_folder_runs_only_with_trust(folder, tmp_path):
    made = tmp_path / "made"
    with open(folder / "hyperparams.yaml", "a") as stream:
        stream.write(f"\nx: !apply:os.mkdir [{made}]\n")
    (folder / "sums.json").unlink()
    with pytest.raises(ValueError, match="!apply:os.mkdir is refused"):
        load_encoder(folder)
    assert not made.exists()
    assert training_speakers(load_encoder(folder, trust=True)) == {"a", "b"}
    assert made.is_dir()
