"""Batches that go on where a run was stopped."""

import pandas as pd
import torch

from speechbrain_ext.dataio.dataloader import ResumableBatches
from speechbrain_ext.dataio.samplers import CropSampler


def test_batches_go_on_behind_those_that_were_trained_on():
    manifest = pd.DataFrame({"duration": [2.0] * 12})
    sampler = CropSampler(manifest, batch_size=3, seed=1)
    batches = ResumableBatches(sampler)
    batches.set_epoch(4)
    every = list(batches)
    assert every == list(sampler) and sampler.epoch == 4
    batches.start = 3
    assert list(batches) == every[3:]
    assert len(batches) == 4
    loader = torch.utils.data.DataLoader(
        range(12), batch_sampler=batches, collate_fn=list
    )
    assert len(loader) == 4
