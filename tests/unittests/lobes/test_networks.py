"""What holds for every network and every pooling, none forgotten."""

import copy
import importlib
import inspect
import io

import pytest
import torch
from conftest import ROOT
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.speaker import SpeakerRecognition

from speechbrain_ext.inference.export import export_pretrained
from speechbrain_ext.lobes.models.DFResNet import DFResNet
from speechbrain_ext.lobes.models.ResNet import GOLDEN_GEMINI, ResNet
from speechbrain_ext.lobes.models.SEResNet import SEResNet
from speechbrain_ext.lobes.models.TDNN import ResSETDNN
from speechbrain_ext.lobes.models.VGG import VGG
from speechbrain_ext.nnet import pooling as poolings

ONES = (1, 1, 1, 1)
# Every network, tiny: arguments behind the number of filterbanks
NETWORKS = {
    "ResNet": (ResNet, {"block_sizes": ONES, "channels": 4}),
    "ResNet bottleneck": (
        ResNet,
        {"block_sizes": ONES, "channels": 4, "block": "bottleneck"},
    ),
    "ResNet T14c": (
        ResNet,
        {"block_sizes": (2, 1, 1, 1), "channels": 4, "strides": GOLDEN_GEMINI},
    ),
    "ResNet SE MSEA": (
        ResNet,
        {
            "block_sizes": ONES,
            "channels": 4,
            "reduction": 2,
            "all_stages": True,
            "activated": True,
            "norm_momentum": 0.5,
        },
    ),
    "DFResNet": (
        DFResNet,
        {"block_sizes": ONES, "channels": (4, 4, 4, 8, 8)},
    ),
    "SEResNet fast": (SEResNet, {"block_sizes": ONES, "channels": 8}),
    "SEResNet thin": (
        SEResNet,
        {
            "block_sizes": ONES,
            "channels": 8,
            "form": "thin",
            "strides": (1, 2, 2, 2),
        },
    ),
    "SEResNet v2": (
        SEResNet,
        {
            "block_sizes": ONES,
            "channels": 8,
            "form": "v2",
            "strides": (1, 2, 2, 2),
            "average_frequency": False,
        },
    ),
    "VGG": (VGG, {"width": 0.0625}),
    "ResSETDNN": (ResSETDNN, {"channels": 8, "pooled_channels": 12}),
}
POOLINGS = {
    "TemporalStatisticsPooling": {},
    "TemporalAveragePooling": {},
    "MaxPooling": {},
    "SelfAttentivePooling": {},
    "AttentiveStatisticsPooling": {"attention_channels": 5},
    "ChannelAttentiveStatisticsPooling": {"global_context": True},
    "MultiHeadAttentivePooling": {"heads": 2},
}


def network(name, n_mels=40, **more):
    """A tiny network with batch statistics that are not the first ones."""
    maker, arguments = NETWORKS[name]
    model = maker(n_mels, lin_neurons=6, **arguments, **more)
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.randn(4, 90, n_mels) * 2 + 1)
    return model


def test_registries_hold_all_of_the_package():
    folder = ROOT / "speechbrain_ext" / "lobes" / "models"
    makers = set()
    for path in folder.glob("*.py"):
        module = importlib.import_module(
            f"speechbrain_ext.lobes.models.{path.stem}"
        )
        makers |= {
            value
            for _, value in inspect.getmembers(module, inspect.isclass)
            if value.__module__ == module.__name__
            and not inspect.isabstract(value)
            and "lengths" in inspect.signature(value.forward).parameters
        }
    assert makers == {maker for maker, _ in NETWORKS.values()}
    classes = {
        name
        for name, value in inspect.getmembers(poolings, inspect.isclass)
        if value.__module__ == poolings.__name__
        and not inspect.isabstract(value)
    }
    assert classes == set(POOLINGS)


@pytest.mark.parametrize("name", NETWORKS)
class TestNetworks:
    """The contract of a network."""

    def test_hooks_see_what_each_layer_gave(self, name):
        model, kept, pulls = network(name), [], []
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.register_forward_hook(
                    lambda *given: kept.append((given[2], given[2].clone()))
                )
                layer.register_full_backward_hook(
                    lambda *given: pulls.append(given[2])
                )
        model(torch.randn(2, 90, 40)).sum().backward()
        assert len(kept) == len(pulls)
        assert all(torch.equal(now, then) for now, then in kept)

    @pytest.mark.parametrize("n_mels", [40, 64, 80, 81])
    def test_any_filterbanks_and_every_gradient(self, name, n_mels):
        model = network(name, n_mels)
        embeddings = model(torch.randn(3, 90, n_mels))
        assert embeddings.shape == (3, 1, 6)
        embeddings.square().sum().backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key

    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_padded_batch_equals_one_by_one(self, name, pooling):
        maker = getattr(poolings, pooling)
        model = network(name, pooling=maker).double().eval()
        frames = [131, 130, 97, 64, 63]
        x = torch.randn(len(frames), 131, 40, dtype=torch.float64)
        batch = model(x, torch.tensor(frames).double() / 131)
        for row, count in enumerate(frames):
            alone = model(x[row : row + 1, :count])[0]
            torch.testing.assert_close(batch[row], alone, rtol=1e-9, atol=1e-9)
        # the test of the test: without lengths the padding leaks
        assert (batch - model(x)).abs()[2:].amax(dim=2).min() > 1e-6

    @pytest.mark.parametrize(
        "pooling", ["TemporalStatisticsPooling", "AttentiveStatisticsPooling"]
    )
    def test_more_padding_changes_nothing_in_training(self, name, pooling):
        maker = getattr(poolings, pooling)
        model = network(name, pooling=maker).double().train()
        frames = [64, 77, 90, 63]
        x = torch.randn(len(frames), 90, 40, dtype=torch.float64)
        onto = torch.randn(len(frames), 1, 6, dtype=torch.float64)
        found = []
        for total in (90, 137):
            copied = copy.deepcopy(model)
            padded = torch.nn.functional.pad(x, (0, 0, 0, total - 90))
            padded.requires_grad_()
            embeddings = copied(padded, torch.tensor(frames).double() / total)
            (embeddings * onto).sum().backward()
            gradients = {k: p.grad for k, p in copied.named_parameters()}
            found.append(
                {"embeddings": embeddings, "x": padded.grad[:, :90]}
                | gradients
                | dict(copied.named_buffers())
            )
            assert not padded.grad[:, 90:].any()
        close = {"rtol": 1e-9, "atol": 1e-9}
        torch.testing.assert_close(found[1], found[0], **close)
        # the test of the test: without lengths the padding counts
        without = copy.deepcopy(model)(padded)
        assert (without - found[0]["embeddings"]).abs().max() > 1e-3

    def test_lengths_of_a_whole_batch_change_nothing_in_training(self, name):
        # torch's own batch norms, against those of true frames
        whole = network(name).double().train()
        framed = copy.deepcopy(whole)
        x = torch.randn(3, 90, 40, dtype=torch.float64)
        found = [whole(x), framed(x, torch.ones(3))]
        for embeddings in found:
            embeddings.square().sum().backward()
        close = {"rtol": 1e-9, "atol": 1e-9}
        torch.testing.assert_close(*found, **close)
        for one, other in zip(
            whole.parameters(), framed.parameters(), strict=True
        ):
            torch.testing.assert_close(one.grad, other.grad, **close)
        torch.testing.assert_close(
            dict(whole.named_buffers()), dict(framed.named_buffers()), **close
        )

    def test_export_and_reload_give_the_same_embeddings(self, name, tmp_path):
        model = network(name).eval()
        maker, arguments = NETWORKS[name]
        recipe = io.StringIO()
        recipe.write(
            "compute_features: !new:speechbrain_ext.lobes.features.KaldiFbank\n"
            "    n_mels: 40\n"
            "mean_var_norm: "
            "!new:speechbrain_ext.lobes.features.SentenceMeanNorm\n"
            f"embedding_model: !new:{maker.__module__}.{maker.__name__}\n"
            "    input_size: 40\n    lin_neurons: 6\n"
        )
        for key, value in arguments.items():
            if isinstance(value, tuple):
                value = [list(v) if isinstance(v, tuple) else v for v in value]
            recipe.write(f"    {key}: {value}\n")
        recipe.write("classifier: !name:torch.nn.Identity\n")
        modules = {"embedding_model": model, "classifier": torch.nn.Identity()}
        folder = export_pretrained(
            tmp_path / "p", recipe.getvalue(), modules, CategoricalEncoder(), 6
        )
        loaded = SpeakerRecognition.from_hparams(source=str(folder))
        wavs = 0.1 * torch.randn(2, 16000)
        features = loaded.mods.compute_features(wavs)
        features = loaded.mods.mean_var_norm(features, torch.ones(2))
        torch.testing.assert_close(loaded.encode_batch(wavs), model(features))

    def test_wrong_features_are_rejected(self, name):
        with pytest.raises(ValueError, match=r"40\].*got \[2, 90, 41\]"):
            network(name)(torch.rand(2, 90, 41))


@pytest.mark.parametrize("name", POOLINGS)
class TestPoolings:
    """The contract of a pooling."""

    def make(self, name):
        """The pooling of six channels, in float64."""
        return getattr(poolings, name)(6, **POOLINGS[name]).double().eval()

    def test_padding_does_not_count(self, name):
        pooling = self.make(name)
        x = torch.randn(3, 20, 6, dtype=torch.float64)
        frames = [20, 13, 1]
        padded = x.clone()
        for row, count in zip(padded, frames, strict=True):
            row[count:] = 1e3
        both = pooling(padded, torch.tensor(frames).double() / 20)
        assert both.shape == (3, 1, 6 * pooling.widening)
        for row, count in enumerate(frames):
            alone = pooling(x[row : row + 1, :count])[0]
            torch.testing.assert_close(both[row], alone)

    def test_one_frame_is_finite_with_its_gradient(self, name):
        pooling = self.make(name)
        x = torch.randn(2, 1, 6, dtype=torch.float64, requires_grad=True)
        pooled = pooling(x)
        pooled.sum().backward()
        assert pooled.isfinite().all()
        assert x.grad.isfinite().all()

    def test_nothing_is_drawn(self, name):
        pooling = self.make(name)
        x = torch.randn(2, 9, 6, dtype=torch.float64)
        assert torch.equal(pooling(x), pooling(x))
