"""Pretrained folders, written and loaded by SpeechBrain's own interface."""

import pytest
import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier

from speechbrain_ext.inference.export import export_pretrained, load_pretrained
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import SoftmaxAngularPrototypical, SphereFace2

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
data_folder: /somewhere
"""


@pytest.fixture
def parts():
    """An encoder, a head and a label map of three speakers."""
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(["a", "b", "c"])
    modules = {
        "embedding_model": ResNet(40, (1, 1, 1, 1), 4, 8),
        "classifier": CosineClassifier(8, 3),
        "loss": SphereFace2(),
    }
    return modules, encoder


def test_interface_loads_what_was_exported(tmp_path, parts):
    folder = export_pretrained(tmp_path / "pretrained", RECIPE, *parts, 8)
    loaded = EncoderClassifier.from_hparams(source=str(folder))
    wavs = torch.randn(2, 8000) * 0.1
    for key, value in parts[0]["embedding_model"].state_dict().items():
        assert torch.equal(loaded.mods.embedding_model.state_dict()[key], value)
    scores, _, index, names = loaded.classify_batch(wavs)
    assert scores.shape == (2, 3)
    loss = torch.load(folder / "loss.ckpt")  # what fine-tuning goes on with
    assert loss.keys() == {"bias"}
    assert names == [["a", "b", "c"][i] for i in index]
    assert "/somewhere" not in (folder / "hyperparams.yaml").read_text()


@pytest.mark.parametrize("tag", ["!name", "!new"])
def test_head_without_arguments_is_exported(tag, tmp_path, parts):
    recipe = RECIPE.split("classifier:")[0]
    recipe += f"classifier: {tag}:torch.nn.Identity\n"
    modules, encoder = parts
    modules["classifier"] = torch.nn.Identity()
    folder = export_pretrained(tmp_path / "p", recipe, modules, encoder, 8)
    loaded = EncoderClassifier.from_hparams(source=str(folder))
    assert loaded.encode_batch(torch.randn(8000)).shape == (1, 1, 8)


def test_folder_is_replaced_whole_or_not_at_all(tmp_path, parts, monkeypatch):
    folder = export_pretrained(tmp_path / "pretrained", RECIPE, *parts, 8)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with torch.no_grad():
        parts[0]["embedding_model"].embedding.bias += 1
    monkeypatch.setattr(torch, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_pretrained(folder, RECIPE, *parts, 8)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    monkeypatch.undo()
    export_pretrained(folder, RECIPE, *parts, 8)
    assert (folder / "embedding_model.ckpt").read_bytes() != before[
        "embedding_model.ckpt"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["pretrained"]


def test_what_was_exported_is_gone_on_from(tmp_path, parts):
    folder = export_pretrained(tmp_path / "p", RECIPE, *parts, 8)
    other = {
        "embedding_model": ResNet(40, (1, 1, 1, 1), 4, 8),
        "classifier": CosineClassifier(8, 3),
        "loss": SphereFace2(),
    }
    assert load_pretrained(folder, other, parts[1]) == 3
    for name, module in other.items():
        for key, value in module.state_dict().items():
            assert torch.equal(parts[0][name].state_dict()[key], value)
    with pytest.raises(ValueError, match="not fit the recipe's classifier"):
        load_pretrained(
            folder, {"classifier": CosineClassifier(8, 4)}, parts[1]
        )


def test_rows_of_a_head_are_matched_by_name(tmp_path, parts):
    torch.manual_seed(1)
    parts[0]["classifier"] = CosineClassifier(8, 3, sub_centers=2)
    parts[0]["loss"] = SoftmaxAngularPrototypical(8, 3)
    folder = export_pretrained(tmp_path / "p", RECIPE, *parts, 8)
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(["x", "c", "a", "y", "b"])
    head = CosineClassifier(8, 5, sub_centers=2)
    drawn = head.weight.detach().clone()
    loss = SoftmaxAngularPrototypical(8, 5)
    other = {"classifier": head, "loss": loss}
    assert load_pretrained(folder, other, encoder) == 3
    rows = head.weight.view(5, 2, 8)
    known = parts[0]["classifier"].weight.view(3, 2, 8)
    assert torch.equal(rows[[2, 4, 1]], known)
    assert torch.equal(rows[[0, 3]], drawn.view(5, 2, 8)[[0, 3]])
    known = parts[0]["loss"].classifier
    assert torch.equal(loss.classifier.bias[[2, 4, 1]], known.bias)
    with pytest.raises(ValueError, match="not fit the recipe's classifier"):
        load_pretrained(folder, {"classifier": CosineClassifier(7, 5)}, encoder)
