"""All scores of a manifest's labels, for each kind of head."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from speechbrain.dataio.encoder import CategoricalEncoder

from speechbrain_ext.inference.label_scores import (
    SCORES,
    epoch_losses,
    label_scores,
)
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.processing.label_error_detection import (
    label_cosines,
    label_losses,
)
from speechbrain_ext.utils.checkpoints import AtomicCheckpointer


def encoder_of(head, names):
    """An encoder whose network is a linear layer."""
    labels = CategoricalEncoder()
    labels.update_from_iterable(names)
    mods = {"embedding_model": torch.nn.Linear(3, 3), "classifier": head}
    return SimpleNamespace(
        mods=torch.nn.ModuleDict(mods),
        hparams=SimpleNamespace(label_encoder=labels),
    )


@pytest.fixture
def manifest():
    """Six utterances of two labels; b has one session."""
    ids = ["a/s/1", "a/s/2", "a/t/1", "b/s/1", "b/s/2", "b/s/3"]
    return pd.DataFrame({"ID": ids, "spk_id": [name[0] for name in ids]})


def test_classes_of_other_speeds_are_no_other_speakers(manifest):
    head = CosineClassifier(3, 4)
    names = ["b", "b#speed0.9", "a", "a#speed0.9"]
    x = torch.randn(6, 3)
    x[0] = head.weight[3].detach()  # the speaker's own class, slower
    scores, single = label_scores(encoder_of(head, names), x, manifest)
    assert set(scores) == {"cosine", "margin", "best_other", "session"}
    assert scores["best_other"].tolist() == list("bbbaaa")
    expected = label_cosines(x, [2, 2, 2, 0, 0, 0], head)
    torch.testing.assert_close(
        torch.tensor(scores["cosine"].to_numpy()), expected
    )
    assert single == 3
    known = scores["session"][:3]
    assert scores["session"][3:].tolist() == [known.median()] * 3


def test_a_head_with_sub_centers_gives_all_scores(manifest):
    head = CosineClassifier(3, 2, sub_centers=3)
    encoder = encoder_of(head, ["b", "a"])
    scores, _ = label_scores(encoder, torch.randn(6, 3), manifest)
    assert set(SCORES) - {"loss"} <= set(scores)


def test_without_a_head_means_are_the_classes(manifest):
    encoder, x = encoder_of(torch.nn.Identity(), []), torch.randn(6, 3)
    scores, _ = label_scores(encoder, x, manifest)
    expected = label_cosines(x, manifest["spk_id"].tolist())
    torch.testing.assert_close(
        torch.tensor(scores["cosine"].to_numpy()), expected
    )
    one = manifest.assign(spk_id="a")
    assert "margin" not in label_scores(encoder, x, one)[0]
    one = manifest.assign(ID=[f"{i}/s/1" for i in range(6)], spk_id=range(6))
    scores, single = label_scores(encoder, x, one)
    assert "session" not in scores and single == 6


def test_other_label_maps_are_rejected(manifest):
    x = torch.randn(6, 3)
    for names, words in (
        (["a", "c"], r"not trained on 1 of the labels, among them \['b'\]"),
        (["a", "b", "c"], "has 3 speakers, but its classifier 2 classes"),
        ([], "no speakers in its label map"),
    ):
        with pytest.raises(ValueError, match=words):
            label_scores(encoder_of(CosineClassifier(3, 2), names), x, manifest)


def test_losses_are_those_of_each_checkpoint(manifest, tmp_path):
    head = CosineClassifier(3, 2)
    encoder, x = encoder_of(head, ["a", "b"]), torch.randn(6, 3)
    checkpointer = AtomicCheckpointer(tmp_path, dict(encoder.mods))
    expected = {}
    for epoch in (9, 10):
        with torch.no_grad():
            for weight in encoder.mods.parameters():
                weight.normal_()
            found = label_losses(
                encoder.mods.embedding_model(x), [0, 0, 0, 1, 1, 1], head
            )
        expected[f"loss_epoch_{epoch}"] = found.numpy()
        checkpointer.save_checkpoint(meta={"epoch": epoch})
    with torch.no_grad():
        head.weight.zero_()
    losses = epoch_losses(
        encoder,
        tmp_path,
        manifest,
        lambda encoder, name: encoder.mods.embedding_model(x).detach(),
    )
    assert list(losses) == ["loss_epoch_9", "loss_epoch_10", "loss"]
    for name, values in expected.items():
        assert losses[name].to_numpy() == pytest.approx(values, abs=1e-5)
    mean = sum(expected.values()) / 2
    assert losses["loss"].to_numpy() == pytest.approx(mean, abs=1e-5)
    assert not head.weight.any()  # as it was
    with pytest.raises(ValueError, match="no checkpoint of a whole epoch"):
        epoch_losses(encoder, tmp_path / "no", manifest, None)
    assert not (tmp_path / "no").exists()
    other = encoder_of(CosineClassifier(3, 5), list("abcde"))
    with pytest.raises(ValueError, match="is of another network"):
        epoch_losses(other, tmp_path, manifest, lambda encoder, name: x)
