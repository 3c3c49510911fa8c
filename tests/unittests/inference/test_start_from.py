"""What a training starts from: weights, rows of speakers, mean embeddings."""

import logging

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
from processes import on_processes
from scipy.io import wavfile
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
from verification_runs import RECIPE as EXPORTED
from wespeaker_shapes import wespeaker_shapes

from speechbrain_ext.inference.embedding import utterance_loader
from speechbrain_ext.inference.export import export_pretrained
from speechbrain_ext.inference.safe_weights import has_safetensors
from speechbrain_ext.inference.start_from import (
    front_end_changes,
    head_folder,
    load_pretrained,
    mean_embeddings,
    require_cosine_head,
    set_class_means,
    weights_path,
)
from speechbrain_ext.integrations.published_checkpoints import (
    export_checkpoint,
)
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet.classifiers import CosineClassifier, LinearClassifier
from speechbrain_ext.nnet.losses import (
    AAMSoftmax,
    AngularPrototypical,
    SphereFace2,
)
from speechbrain_ext.nnet.sharded import ShardedCosineClassifier
from speechbrain_ext.utils.distributed import rank, world_size


@pytest.fixture
def labels():
    """The label map of three speakers."""
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(["a", "b", "c"])
    return encoder


def equal(module, state):
    """Whether a module has these weights."""
    own = module.state_dict()
    return all(torch.equal(own[key], state[key]) for key in own)


def test_a_new_head_needs_an_encoder():
    assert head_folder("folder") == "folder"
    assert head_folder("folder", "random") is None
    assert head_folder(None) is None
    with pytest.raises(ValueError, match="`head_from` is means, which needs"):
        head_folder(None, "means")


@pytest.mark.parametrize("head_from", [None, "random", "means"])
def test_a_converted_checkpoint_starts_with_a_new_head(
    head_from, labels, tmp_path, rule_weights, caplog
):
    path = tmp_path / "avg_model.pt"
    shapes = wespeaker_shapes()
    deeper = {  # of ResNet34's depth, with the same few channels
        key: list(value.shape)
        for key, value in ResNet(40, (3, 4, 6, 3), 4, 6).state_dict().items()
    }
    for key, shape in deeper.items():
        key = key.replace("embedding.", "seg_1.")
        for stage in range(4):
            key = key.replace(f"stages.{stage}", f"layer{stage + 1}")
        shapes.setdefault(key, shape)
    torch.save(rule_weights(shapes), path)
    folder = tmp_path / "converted"
    export_checkpoint("wespeaker", "ResNet34", path, folder)
    modules = {
        "embedding_model": ResNet(40, (3, 4, 6, 3), 4, 6),
        "classifier": CosineClassifier(6, 3),
        "loss": SphereFace2(),
    }
    drawn = modules["classifier"].weight.detach().clone()
    with caplog.at_level(logging.INFO):
        assert load_pretrained(folder, modules, labels, head_from) == 0
    state = torch.load(folder / "embedding_model.ckpt")
    assert equal(modules["embedding_model"], state)
    assert torch.equal(modules["classifier"].weight, drawn)
    assert "only its encoder is used" in caplog.text
    modules["embedding_model"] = ResNet(40, (1, 1, 1, 1), 4, 6)
    form = "safetensors" if has_safetensors() else "ckpt"
    with pytest.raises(
        ValueError, match=f"embedding_model.{form} does not fit"
    ):
        load_pretrained(folder, modules, labels, head_from)


@pytest.mark.parametrize("head_from", [None, "random"])
def test_a_folder_of_safetensors_is_enough(head_from, labels, tmp_path):
    torch.manual_seed(5)
    modules = {
        "embedding_model": ResNet(40, (1, 1, 1, 1), 4, 8),
        "classifier": CosineClassifier(8, 3),
        "loss": AAMSoftmax(),
    }
    folder = export_pretrained(
        tmp_path / "pretrained", EXPORTED, modules, labels, 8
    )
    for name in modules:
        (folder / f"{name}.ckpt").unlink()
    own = {
        "embedding_model": ResNet(40, (1, 1, 1, 1), 4, 8),
        "classifier": CosineClassifier(8, 3),
        "loss": AAMSoftmax(),
    }
    if not has_safetensors():
        with pytest.raises(FileNotFoundError, match="embedding_model.ckpt"):
            load_pretrained(folder, own, labels, head_from)
        (folder / "embedding_model.safetensors").write_bytes(b"")
        with pytest.raises(FileNotFoundError, match="pip install safetensors"):
            load_pretrained(folder, own, labels, head_from)
        return
    known = load_pretrained(folder, own, labels, head_from)
    assert known == (0 if head_from else 3)
    for name in ("embedding_model", "classifier"):
        if name == "embedding_model" or not head_from:
            assert equal(own[name], modules[name].state_dict())


def test_a_model_on_the_hub_is_downloaded_and_found_offline(
    hub, labels, tmp_path, monkeypatch
):
    torch.manual_seed(5)
    modules = {
        "embedding_model": ResNet(40, (1, 1, 1, 1), 4, 8),
        "classifier": CosineClassifier(8, 3),
    }
    folder = export_pretrained(
        tmp_path / "pretrained", EXPORTED, modules, labels, 8
    )
    hub.add("owner/name", {p.name: p.read_bytes() for p in folder.iterdir()})
    map_folder = head_folder("hf:owner/name")
    assert map_folder.is_relative_to(hub.cache)
    assert head_folder("hf:owner/name", "means") is None
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert head_folder("hf:owner/name") == map_folder
    own = {
        "embedding_model": ResNet(40, (1, 1, 1, 1), 4, 8),
        "classifier": CosineClassifier(8, 3),
    }
    assert load_pretrained("hf:owner/name", own, labels) == 3
    for name, module in own.items():
        assert equal(module, modules[name].state_dict())
    with pytest.raises(OSError, match="it is not in the cache"):
        load_pretrained("hf:owner/other", own, labels)
    assert len(hub.asked) == asked


@pytest.fixture
def speechbrain_folder(tmp_path):
    """A pretrained folder as SpeechBrain publishes ECAPA-TDNNs."""
    torch.manual_seed(3)
    folder = tmp_path / "ecapa"
    folder.mkdir()
    encoder = ECAPA_TDNN(8, channels=[8] * 5, lin_neurons=6)
    head = Classifier(6, out_neurons=2)
    torch.save(encoder.state_dict(), folder / "encoder.pt")
    torch.save(head.state_dict(), folder / "classifier.ckpt")
    known = CategoricalEncoder()
    known.update_from_iterable(["c", "z"])
    known.save(folder / "label_encoder.txt")
    (folder / "hyperparams.yaml").write_text(
        "pretrained_path: owner/name\n"
        "compute_features: !new:speechbrain.lobes.features.Fbank\n"
        "    n_mels: 8\n"
        "bad: !apply:os.abort []\n"
        "pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer\n"
        "    paths:\n"
        "        embedding_model: !ref <pretrained_path>/encoder.pt\n"
    )
    return folder, encoder.state_dict(), head.state_dict()


def test_a_folder_of_speechbrains_is_read_but_not_run(
    speechbrain_folder, labels
):
    folder, encoder, head = speechbrain_folder
    modules = {
        "embedding_model": ECAPA_TDNN(8, channels=[8] * 5, lin_neurons=6),
        "classifier": CosineClassifier(6, 3),
        "loss": AAMSoftmax(),
    }
    drawn = modules["classifier"].weight.detach().clone()
    assert load_pretrained(folder, modules, labels) == 1
    assert equal(modules["embedding_model"], encoder)
    rows = modules["classifier"].weight
    assert torch.equal(rows[2], head["weight"][0])
    assert torch.equal(rows[:2], drawn[:2])


@pytest.mark.parametrize(("old", "new"), [(1, 3), (3, 1)])
def test_rows_of_another_number_of_sub_centers_are_refused(
    old, new, speechbrain_folder, labels
):
    folder, _, head = speechbrain_folder
    head["weight"] = head["weight"].repeat_interleave(old, dim=0)
    torch.save(head, folder / "classifier.ckpt")
    modules = {
        "embedding_model": ECAPA_TDNN(8, channels=[8] * 5, lin_neurons=6),
        "classifier": CosineClassifier(6, 3, sub_centers=new),
        "loss": AAMSoftmax(),
    }
    said = f"has {old} vectors per class, but the recipe's has {new};"
    with pytest.raises(ValueError, match=said):
        load_pretrained(folder, modules, labels)


def test_counters_of_batches_may_be_missing(speechbrain_folder, labels):
    folder, encoder, _ = speechbrain_folder
    old = {k: v for k, v in encoder.items() if "batches_tracked" not in k}
    assert len(old) < len(encoder)
    torch.save(old, folder / "encoder.pt")
    model = ECAPA_TDNN(8, channels=[8] * 5, lin_neurons=6)
    load_pretrained(folder, {"embedding_model": model}, labels, "random")
    assert equal(model, encoder)


def test_a_metric_loss_leaves_the_head_out(speechbrain_folder, labels):
    folder, encoder, _ = speechbrain_folder
    torch.save({"bias": torch.zeros(1)}, folder / "loss.ckpt")
    modules = {
        "embedding_model": ECAPA_TDNN(8, channels=[8] * 5, lin_neurons=6),
        "classifier": torch.nn.Identity(),
        "loss": AngularPrototypical(),
    }
    assert load_pretrained(folder, modules, labels) == 0
    assert equal(modules["embedding_model"], encoder)


def test_what_is_missing_or_no_weights_is_said(speechbrain_folder, labels):
    folder, encoder, _ = speechbrain_folder
    modules = {"embedding_model": torch.nn.Linear(2, 2)}
    with pytest.raises(ValueError, match="encoder.pt does not fit the recipe"):
        load_pretrained(folder, modules, labels)
    modules["classifier"] = CosineClassifier(5, 3)
    modules["embedding_model"] = ECAPA_TDNN(8, channels=[8] * 5, lin_neurons=6)
    with pytest.raises(ValueError, match="or pass --head_from=means or"):
        load_pretrained(folder, modules, labels)
    (folder / "label_encoder.txt").unlink()
    with pytest.raises(ValueError, match="label_encoder.ckpt does not exist"):
        load_pretrained(folder, modules, labels)
    torch.save([encoder], folder / "encoder.pt")
    with pytest.raises(ValueError, match="must be a state dict, got a list"):
        load_pretrained(folder, modules, labels)
    torch.save({"weight": FloatingPointError}, folder / "encoder.pt")
    with pytest.raises(ValueError, match="no code was run"):
        load_pretrained(folder, modules, labels)
    (folder / "encoder.pt").unlink()
    with pytest.raises(FileNotFoundError, match="embedding_model.ckpt does"):
        load_pretrained(folder, modules, labels)


@pytest.mark.parametrize(
    "path", ["", "owner/", "../../etc/hostname", "[a]", "{path: x}", "3"]
)
def test_weights_never_come_from_outside_the_folder(path, tmp_path):
    (tmp_path / "hyperparams.yaml").write_text(
        f"pretrainer: {{paths: {{embedding_model: {path}}}}}\n"
    )
    found = weights_path(tmp_path, "embedding_model")
    assert found == tmp_path / "embedding_model.ckpt"


RECIPE = """\
sample_rate: 16000
n_mels: 8
compute_features: !new:speechbrain_ext.lobes.features.KaldiFbank
    n_mels: 8
    dither: 1.0
mean_var_norm: !new:speechbrain_ext.lobes.features.SentenceMeanNorm
"""


def test_another_front_end_is_a_warning(speechbrain_folder, labels, caplog):
    folder = speechbrain_folder[0]
    model = ECAPA_TDNN(8, channels=[8] * 5, lin_neurons=6)
    load_pretrained(
        folder, {"embedding_model": model}, labels, "random", RECIPE
    )
    assert "compute_features tag: !new:speechbrain.lobes" in caplog.text
    own = RECIPE.replace("compute_features", "front_end")
    (folder / "hyperparams.yaml").write_text(own.replace("1.0", "0.0"))
    assert front_end_changes(folder, RECIPE) == []
    (folder / "hyperparams.yaml").write_text(own.replace("16000", "8000"))
    assert front_end_changes(folder, RECIPE) == ["sample_rate: 8000 -> 16000"]
    (folder / "hyperparams.yaml").unlink()
    assert front_end_changes(folder, RECIPE) == []


def test_an_omitted_argument_of_the_front_end_has_its_default(tmp_path):
    more = RECIPE.replace("dither: 1.0", "window: povey\n    low_freq: 20")
    for old, new, changes in (
        (more, RECIPE, ["compute_features.window: povey -> hamming"]),
        (RECIPE, more, ["compute_features.window: hamming -> povey"]),
        (RECIPE.replace("KaldiFbank", "Other"), more, 1),  # only its tag
    ):
        (tmp_path / "hyperparams.yaml").write_text(old)
        found = front_end_changes(tmp_path, new)
        assert changes in (found, len(found))


def encode(batch):
    """Three numbers of a signal in place of an encoder."""
    wavs, lengths = batch.sig
    size = (lengths * wavs.shape[1]).round().unsqueeze(1)
    sums = torch.stack([wavs.clamp(min=0), wavs.square(), wavs.abs()], -1)
    return (sums.sum(1) / size).unsqueeze(1)


def made_means(manifest, classes, seconds=2.0):
    """The means of this process's part of a manifest."""
    loader = utterance_loader(manifest, seconds, 0, rank(), world_size())
    return mean_embeddings(encode, loader, classes, (5, 3))


@pytest.fixture
def spoken(tmp_path):
    """Seven utterances, one of them silent, and their classes."""
    rng, rows = np.random.default_rng(0), []
    for number in range(7):
        size = 4000 + 1000 * number
        wav = (3000 * rng.standard_normal(size)).astype(np.int16)
        if number == 3:
            wav[:] = 0
        path = str(tmp_path / f"{number}.wav")
        wavfile.write(path, 16000, wav)
        rows.append((f"u{number}", size / 16000, path, 0, size))
    columns = ["ID", "duration", "wav", "start", "stop"]
    speeds = [[0, 3], [1, 4], [0, 3], [2, 2], [1, 4], [0, 3], [1, 4]]
    return pd.DataFrame(rows, columns=columns), np.array(speeds)


def test_means_are_those_of_each_utterance_by_hand(spoken):
    manifest, classes = spoken
    found = made_means(manifest, classes)
    for number in range(5):
        every = []
        for row in np.flatnonzero((classes == number).any(axis=1)):
            wav = wavfile.read(manifest.wav[row])[1] / 32768
            if not wav.any():
                continue
            one = [wav.clip(0).mean(), (wav**2).mean(), abs(wav).mean()]
            every.append(np.array(one) / np.linalg.norm(one))
        wanted = np.sum(every, axis=0) if every else np.zeros(3)
        wanted /= np.linalg.norm(wanted) or 1
        np.testing.assert_allclose(found[number], wanted, atol=1e-5)
    assert not found[2].any()  # a class of silence


@pytest.mark.parametrize("seconds", [2.0, 100.0])  # one has no utterance
def test_means_of_two_processes_are_those_of_one(spoken, seconds):
    wanted = made_means(*spoken)
    for found in on_processes(made_means, 2, *spoken, seconds):
        torch.testing.assert_close(found, wanted, atol=1e-7, rtol=0)


@pytest.mark.parametrize("kind", [CosineClassifier, ShardedCosineClassifier])
def test_a_head_gets_the_means_that_there_are(kind):
    head, means = kind(2, 3), torch.tensor([[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]])
    drawn = head.weight.detach().clone()
    require_cosine_head(head)
    set_class_means(head, means)
    assert torch.equal(head.weight[[0, 2]], means[[0, 2]])
    assert torch.equal(head.weight[1], drawn[1])
    assert head.weight.requires_grad and head.weight.is_leaf


@pytest.mark.parametrize(
    "head",
    [
        CosineClassifier(2, 3, sub_centers=2),
        ShardedCosineClassifier(2, 3, sub_centers=2),
        LinearClassifier(2, 3),
    ],
)
def test_other_heads_have_no_means(head):
    with pytest.raises(ValueError, match=type(head).__name__):
        require_cosine_head(head)
