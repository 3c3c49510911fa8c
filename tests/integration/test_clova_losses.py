"""Clova's networks with other losses, by the options that a document lists."""

import re
import shlex
import sys

import pytest
from conftest import RECIPE, ROOT

TABLE = (ROOT / "docs" / "encoders.md").read_text("utf-8")
ROWS = re.findall(
    r"^\| ([^|]+) \| `\*_(\w+)` \| `([^`]+)` \|$", TABLE, re.MULTILINE
)
NETWORKS = {  # and what makes each small
    "fastresnetse34": ["--block_sizes=[1,1,1,1]", "--channels=8"],
    "thinresnetse34": ["--block_sizes=[1,1,1,1]", "--channels=8"],
    "vggm40": ["--channels=0.06"],
}


def test_every_loss_of_the_paper_is_listed():
    # the recipes have angular prototypical and AM
    names = " ".join(name for name, _, _ in ROWS)
    for loss in (
        *("prototypical", "GE2E", "triplet", "contrastive", "softmax"),
        "AAM softmax",
    ):
        assert loss in names
    assert len(ROWS) == 7


@pytest.mark.parametrize("place", range(len(ROWS)))
def test_options_train_the_loss_that_they_name(
    place, corpus, tmp_path, monkeypatch, no_pictures
):
    monkeypatch.syspath_prepend(str(RECIPE))
    monkeypatch.delitem(sys.modules, "train_speaker_embeddings", raising=False)
    from train_speaker_embeddings import main

    name, kind, options = ROWS[place]
    network = list(NETWORKS)[place % len(NETWORKS)]
    folder = main(
        [
            str(ROOT / "hparams" / f"{network}_{kind}.yaml"),
            *shlex.split(options),
            *NETWORKS[network],
            f"--data_folder={corpus}",
            f"--output_folder={tmp_path / 'out'}",
            *("--embedding_size=16", "--number_of_epochs=1"),
            *("--batch_size=4", "--sentence_len=0.7", "--dev_speakers=2"),
            *("--dev_trials=40", "--device=cpu"),
            "--train_dataloader_opts={num_workers: 0}",
        ]
    )
    assert (folder / "embedding_model.ckpt").is_file()
    loss = re.search(r"losses\.(\w+)", options)[1]
    written = (tmp_path / "out" / "hyperparams.yaml").read_text()
    assert f"speechbrain_ext.nnet.losses.{loss}" in written
    (value,) = re.findall(
        r"train loss: (\S+?),", (tmp_path / "out" / "train_log.txt").read_text()
    )
    assert 0 <= float(value) < 100, name
