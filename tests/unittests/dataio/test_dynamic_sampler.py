"""Batches by total duration: bounds, lengths and any number of processes."""

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_ext.dataio.crops import CropDataset, drawn_speed
from speechbrain_ext.dataio.dynamic_sampler import DynamicSampler

DURATIONS = np.random.default_rng(0).uniform(1, 20, 300).round(2)


def sampler(durations=DURATIONS, batch_seconds=100.0, **options):
    """A sampler over utterances of these seconds."""
    table = pd.DataFrame({"duration": list(durations)})
    return DynamicSampler(table, batch_seconds, seed=3, **options)


@given(
    st.lists(st.floats(0.5, 30), min_size=8, max_size=60),
    st.floats(60, 200),
    st.integers(1, 9),
    st.integers(1, 2),
)
@settings(max_examples=40, deadline=None)
def test_batches_keep_the_bound_and_the_length(seconds, bound, buckets, size):
    parts = []
    for rank in range(size):
        try:
            made = sampler(
                seconds, bound, buckets=buckets, rank=rank, world_size=size
            )
        except ValueError as error:
            assert "at most what an epoch has" in str(error)
            return
        epochs = []
        for epoch in (1, 2):
            made.set_epoch(epoch)
            epochs.append(list(made))
            assert len(epochs[-1]) == len(made)
        parts.append(epochs[0])
    rows = []
    for shares in zip(*parts, strict=True):
        assert len({len(share) for share in shares}) == 1
        batch = [draw for share in shares for draw in share]
        padded = max(draw.seconds for draw in batch) * len(batch)
        assert padded <= bound + 1e-6
        rows += [draw.row for draw in batch]
    assert len(set(rows)) == len(rows)
    # what is left out would not have filled one more batch of the longest
    left = len(seconds) - len(rows)
    assert left < max(bound // max(seconds), size)


def test_long_ones_are_cut_and_padding_is_little():
    made = sampler(max_seconds=8.0, buckets=20)
    assert {
        draw.seconds for b in made for draw in b if draw.seconds > 8
    } == set()
    spoken = sum(draw.seconds for batch in made for draw in batch)
    padded = sum(max(d.seconds for d in b) * len(b) for b in made)
    assert spoken > 0.9 * padded


def test_epochs_differ_and_repeat():
    made = sampler(min_draws=2)
    epochs = []
    for epoch in (1, 2, 1):
        made.set_epoch(epoch)
        epochs.append(list(made))
    assert epochs[0] == epochs[2] != epochs[1]
    assert {draw.repeat for batch in epochs[0] for draw in batch} == {0, 1}


def test_two_processes_share_each_batch():
    def epoch(rank, size):
        return list(sampler(multiple_of=4, rank=rank, world_size=size))

    shares = zip(epoch(0, 2), epoch(1, 2), strict=True)
    for whole, (one, other) in zip(epoch(0, 1), shares, strict=True):
        assert len(one) == len(other) > 0
        assert sorted(one + other) == sorted(whole)


def corpus(folder, rate=16000):
    """A manifest of three files, 0.5, 1 and 3 s."""
    rows = []
    for row, seconds in enumerate((0.5, 1.0, 3.0)):
        path, samples = folder / f"{row}.wav", int(rate * seconds)
        rising = np.linspace(-0.9, 0.9, samples)  # the end is not the start
        soundfile.write(path, rising, rate, subtype="FLOAT")
        rows.append((f"a/b/{row}", seconds, str(path), 0, samples, "a"))
    columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
    return pd.DataFrame(rows, columns=columns)


def test_crops_have_the_length_of_their_draw(tmp_path):
    table = corpus(tmp_path)
    dataset = CropDataset(table, [0] * 3, 9.0, 7)
    made = DynamicSampler(table, 2.0, seed=1, max_seconds=2.0, buckets=3)
    for epoch in (1, 2, 3):
        made.set_epoch(epoch)
        for batch in made:
            for draw in batch:
                wanted = 16000 * min(table.duration[draw.row], 2.0)
                assert len(dataset[draw]["sig"]) == wanted


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_whole_utterance_at_a_speed_is_whole(tmp_path, rate):
    table, speeds = corpus(tmp_path, rate), (1.0, 0.9, 1.1)
    dataset = CropDataset(table, [[0, 1, 2]] * 3, 9.0, 7, speeds=speeds)
    made = DynamicSampler(
        table, 3.0, seed=7, max_seconds=2.9, buckets=3, speeds=speeds
    )
    seen = set()
    for epoch in range(1, 9):
        made.set_epoch(epoch)
        for draw in (draw for batch in made for draw in batch):
            item = dataset[draw]
            seconds = min(table.duration[draw.row] / draw.speed, 2.9)
            assert draw.seconds == seconds
            assert len(item["sig"]) == round(16000 * seconds)
            assert speeds[item["spk_id_encoded"]] == draw.speed
            seen.add((draw.row, draw.speed))
            if seconds < 2.9:  # it begins and ends as the file does
                inside = item["sig"][200:-200]
                assert inside.diff().mean() > 0
                assert inside[0] < -0.8 and inside[-1] > 0.8
                assert inside.diff().abs().max() < 0.01
    assert len(seen) == 9


def test_speeds_keep_the_bound_and_are_those_of_the_dataset():
    table = pd.DataFrame({"duration": DURATIONS})
    table["ID"] = [f"a/b/{row}" for row in range(len(table))]
    speeds = [1.0, 0.9, 1.1]
    made = DynamicSampler(table, 100.0, seed=3, max_seconds=15.0, speeds=speeds)
    for epoch in (1, 2):
        made.set_epoch(epoch)
        batches = list(made)
        assert len(batches) == len(made)
        for batch in batches:
            longest = max(draw.seconds for draw in batch)
            assert longest * len(batch) <= 100 + 1e-6
            for draw in batch:
                duration = DURATIONS[draw.row] / draw.speed
                assert draw.seconds == min(duration, 15.0)
                which = drawn_speed(
                    *(3, epoch, draw.repeat, table.ID[draw.row]), speeds
                )
                assert speeds[which] == draw.speed
        # sorted by what they are at their speed: little padding
        spoken = sum(draw.seconds for b in batches for draw in b)
        padded = sum(max(d.seconds for d in b) * len(b) for b in batches)
        assert spoken > 0.85 * padded


def test_sampler_and_dataset_must_have_the_same_speeds(tmp_path):
    table = corpus(tmp_path)
    dataset = CropDataset(table, [[0, 1]] * 3, 9.0, 7, speeds=(1.0, 0.9))
    plain = DynamicSampler(table, 4.0, seed=7, buckets=1)
    with pytest.raises(ValueError, match="give it `speeds: !ref <speeds>`"):
        dataset[next(iter(plain))[0]]
    other = DynamicSampler(table, 4.0, seed=7, buckets=1, speeds=[1.1])
    with pytest.raises(ValueError, match="speed 1.1, which is not among"):
        dataset[next(iter(other))[0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_seconds": 10.0}, r"hold 1 .*\(19.95 s\), got 10.0"),
        ({"batch_seconds": 30.0, "world_size": 2}, "hold 2 .*.39.90"),
        ({"batch_seconds": 99999.0}, "at most what an epoch has"),
        ({"max_seconds": 0.0}, "positive, got 0.0"),
        ({"buckets": 0}, "positive, got 0"),
        ({"min_draws": 0}, "at least 1, got 0"),
        ({"speeds": []}, r"positive, got \[\]"),
        ({"speeds": [1.0, -1.1]}, "positive, got .*-1.1"),
    ],
)
def test_bad_arguments_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        sampler(**options)
