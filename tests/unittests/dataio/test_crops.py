"""Crops and their order: real files, any number of workers."""

import pathlib

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from speechbrain.dataio.batch import PaddedBatch

from speechbrain_ext.augment.noise import NoiseAndReverberation
from speechbrain_ext.dataio.crops import (
    CropDataset,
    Draw,
    evenly_spaced_crops,
    wrap,
)
from speechbrain_ext.dataio.samplers import CropSampler


@pytest.fixture
def manifest(tmp_path):
    """Six files whose samples count up, two of them odd."""
    rows = []
    for row, (seconds, rate, channels) in enumerate(
        [(2.0, 16000, 1)] * 4 + [(0.3, 16000, 1), (2.0, 8000, 2)]
    ):
        path = tmp_path / f"{row}.wav"
        samples = int(seconds * rate)
        signal = np.arange(samples, dtype=np.int16)
        signal = np.stack([signal] * channels, axis=1)
        soundfile.write(path, signal, rate, subtype="PCM_16")
        rows.append((f"s{row}/a/{row}", seconds, str(path), 0, samples, "s"))
    columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
    return pd.DataFrame(rows, columns=columns)


def batches(manifest, workers, epochs=(1, 2), rank=0, world_size=1):
    """All batches of some epochs, by some workers of a process."""
    noises = pathlib.Path(manifest["wav"][0]).parent
    dataset = CropDataset(
        manifest,
        [[row, 6 + row] for row in range(6)],
        sentence_len=0.5,
        seed=7,
        speeds=(1.0, 0.9),
        augment=NoiseAndReverberation(noises, noises),
    )
    sampler = CropSampler(
        manifest,
        4,
        seed=7,
        min_draws=2,
        rank=rank,
        world_size=world_size,
    )
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=PaddedBatch,
    )
    found = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        for batch in loader:
            found.append((batch.id, batch.sig.data.numpy(), batch.seed))
    return found


def test_workers_change_nothing(manifest):
    alone = batches(manifest, workers=0)
    for workers in (1, 4):
        np.random.seed(workers)
        torch.manual_seed(workers)
        others = batches(manifest, workers=workers)
        assert len(alone) == len(others) == 6
        for (ids, sig, seed), (ids2, sig2, seed2) in zip(
            alone, others, strict=True
        ):
            assert ids == ids2
            assert np.array_equal(sig, sig2)
            assert torch.equal(seed, seed2)


@pytest.mark.parametrize("workers", [0, 2])
def test_two_processes_have_the_crops_of_one(manifest, workers):
    def crops(found):  # a seed tells the draw, and so a crop from its repeat
        return {
            (name, int(seed)): sig.tobytes()
            for ids, sigs, seeds in found
            for name, sig, seed in zip(ids, sigs, seeds, strict=True)
        }

    alone = batches(manifest, 0, epochs=[3])
    shares = [batches(manifest, workers, [3], rank, 2) for rank in (0, 1)]
    for batch, *parts in zip(alone, *shares, strict=True):
        one, other = crops([parts[0]]), crops([parts[1]])
        assert len(one) == len(other) == 2
        assert one | other == crops([batch])


def test_resuming_at_an_epoch_gives_that_epoch(manifest):
    both, second = batches(manifest, 0), batches(manifest, 0, epochs=[2])
    assert [b[0] for b in both[3:]] == [b[0] for b in second]
    assert [b[0] for b in both[:3]] != [b[0] for b in second]


def test_crop_is_what_stands_at_its_offset(manifest):
    dataset = CropDataset(manifest, range(6), sentence_len=0.5, seed=7)
    offsets = set()
    for epoch in range(5):
        item = dataset[Draw(0, epoch, 0)]
        counted = (item["sig"] * 2**15).round().long()
        assert len(counted) == 8000
        assert torch.equal(counted.diff(), torch.ones(7999, dtype=int))
        offsets.add(int(counted[0]))
        assert item["id"] == "s0/a/0"
        assert item["spk_id_encoded"].tolist() == [0]
    assert len(offsets) == 5  # a new place each epoch


def test_speeds_are_classes_of_their_own(tmp_path):
    # a sine of 1 kHz becomes one of 900 and 1100 Hz, and the crop is as long
    time = np.arange(32000) / 16000
    path = tmp_path / "sine.wav"
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 1000 * time), 16000)
    row = ("a/b/c", 2.0, str(path), 0, 32000, "a")
    columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
    table = pd.DataFrame([row], columns=columns)
    dataset = CropDataset(
        table, [[4, 5, 6]], 1.0, seed=7, speeds=(1.0, 0.9, 1.1)
    )
    seen = {}
    for epoch in range(30):
        item = dataset[Draw(0, epoch, 0)]
        assert item["sig"].shape == (16000,)
        peak = int(np.abs(np.fft.rfft(item["sig"])).argmax())
        seen.setdefault(item["spk_id_encoded"].item(), []).append(peak)
    assert {label: set(peaks) for label, peaks in seen.items()} == {
        4: {1000},
        5: {900},
        6: {1100},
    }
    assert min(map(len, seen.values())) > 4


def test_deferred_changes_are_those_of_the_crop(manifest):
    noises = pathlib.Path(manifest["wav"][0]).parent
    augment = NoiseAndReverberation(noises, noises)
    items = {}
    for deferred in (False, True):
        dataset = CropDataset(
            manifest, range(6), 0.5, 7, augment=augment, deferred=deferred
        )
        draws = [Draw(row, epoch, 0) for row in range(6) for epoch in (1, 2)]
        items[deferred] = PaddedBatch([dataset[draw] for draw in draws])
    batch, alone = items[True], items[False]
    found = augment.apply(*batch.sig, batch.noise.data, batch.response.data)
    assert not torch.equal(batch.sig.data, alone.sig.data)
    torch.testing.assert_close(found, alone.sig.data, rtol=1e-3, atol=1e-4)


def test_short_is_wrapped_and_another_rate_resampled(manifest):
    dataset = CropDataset(manifest, range(6), sentence_len=0.5, seed=7)
    short = dataset[Draw(4, 1, 0)]["sig"]
    assert torch.equal(short[:3200], short[4800:])
    resampled = dataset[Draw(5, 1, 0)]["sig"]
    assert resampled.shape == (8000,)
    # the file counts at 8 kHz, so the middle rises by half a step a sample
    rise = (resampled[6000] - resampled[2000]) * 2**15 / 4000
    assert rise.item() == pytest.approx(0.5, rel=1e-2)


def test_wrap_cuts_and_repeats():
    signal = torch.arange(3)
    assert wrap(signal, 2).tolist() == [0, 1]
    assert wrap(signal, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: CropDataset(m, [0], 1.0, 0), r"\(6\), got 1"),
        (lambda m: CropDataset(m, range(6), 0.0, 0), "got 0.0"),
        (
            lambda m: CropDataset(m, range(6), 1.0, 0, speeds=(1.0, 0.9)),
            "each of the 2 speeds, got 1",
        ),
        (
            lambda m: CropDataset(m, range(6), 1.0, 0, speeds=[-1]),
            r"positive, got \[-1\]",
        ),
    ],
)
def test_bad_arguments_are_rejected(make, message, manifest):
    with pytest.raises(ValueError, match=message):
        make(manifest)


# What loadWAV of Clova's trainer (voxceleb_trainer@f51bab8, DatasetLoader.py)
# cuts in evaluation from the samples 0, 1, 2, ...: frames of a crop, samples of
# the file, first sample of each of the ten crops, last sample of the first crop
REPEATED = [0] * 9 + [1]
PUBLISHED = [
    (400, 150001, [9529 * i for i in range(10)], 64239),
    (400, 64241, REPEATED, 64239),
    (400, 64240, REPEATED, 64239),
    (400, 64000, REPEATED, 239),
    (400, 30001, REPEATED, 4237),
    (2, 1000, [0, 48, 97, 146, 195, 244, 293, 342, 391, 440], 559),
    (2, 561, REPEATED, 559),
    (2, 200, REPEATED, 159),
    (2, 250, REPEATED, 59),
]


@pytest.mark.parametrize("frames, length, first, last", PUBLISHED)
def test_evenly_spaced_crops_match_clova(frames, length, first, last):
    samples = frames * 160 + 240
    crops = evenly_spaced_crops(torch.arange(length), 10, samples)
    assert crops.shape == (10, samples)
    assert crops[:, 0].tolist() == first
    assert crops[:, -1].tolist() == [(last + i) % length for i in first]
    assert torch.all(crops.diff(dim=1).remainder(length) == 1)


def test_evenly_spaced_crops_reject_no_crop_and_no_sample():
    with pytest.raises(ValueError, match="`number` .* got 0"):
        evenly_spaced_crops(torch.ones(3), 0, 2)
    with pytest.raises(ValueError, match="`samples` .* got 0"):
        evenly_spaced_crops(torch.ones(3), 2, 0)
