"""Random and balanced batches: what they promise, on any number of processes."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from speechbrain_ext.dataio.samplers import BalancedSampler, CropSampler


def manifest(durations, speakers=None):
    """A manifest with as much as the samplers read."""
    columns = {"duration": durations}
    if speakers is not None:
        columns["spk_id"] = list(speakers)
    return pd.DataFrame(columns)


def test_draws_follow_the_durations():
    sampler = CropSampler(manifest([1.0, 5.0, 9.1]), 2, 0, seconds_per_draw=2.0)
    drawn = np.bincount([draw.row for batch in sampler for draw in batch])
    # 1, 3 and 5 draws (rounded, at least one) but for one of an odd last
    assert sampler.rows.tolist() == [0] + [1] * 3 + [2] * 5
    assert drawn.sum() == 2 * len(sampler) == 8


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_share_each_batch(world_size):
    def epoch(rank, size):
        sampler = CropSampler(
            manifest([1.0] * 30), 8, 3, rank=rank, world_size=size, min_draws=2
        )
        sampler.set_epoch(2)
        return list(sampler)

    alone = epoch(0, 1)
    shares = [epoch(rank, world_size) for rank in range(world_size)]
    for batch, parts in zip(alone, zip(*shares, strict=True), strict=True):
        union = [draw for part in parts for draw in part]
        assert sorted(union) == sorted(batch)
        assert len({len(part) for part in parts}) == 1


# utterances of speakers a to h: most speakers have few, one has many
UNEVEN = "a" + "bb" + "ccc" + "dddd" + "e" * 5 + "f" * 9 + "g" * 40 + "hh"


def balanced(speakers=UNEVEN, batch=8, epoch=1, **options):
    """The batches of one epoch."""
    table = manifest([2.0] * len(speakers), speakers)
    sampler = BalancedSampler(table, batch, 5, **options)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


@pytest.mark.parametrize("per_speaker", [2, 4])
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_batches_hold_different_speakers_in_groups(per_speaker, epoch):
    for batch in balanced(epoch=epoch, utterances_per_speaker=per_speaker):
        names = [UNEVEN[draw.row] for draw in batch]
        groups = [names[i : i + per_speaker] for i in range(0, 8, per_speaker)]
        assert all(len(set(group)) == 1 for group in groups)
        assert len({group[0] for group in groups}) == 8 // per_speaker
        assert all(draw.epoch == epoch for draw in batch)


@pytest.mark.parametrize(
    "speakers",
    [UNEVEN, "abcdefghijk", "aabbccddeeffgghhii", "abcd" + "e" * 99],
)
def test_no_speaker_is_ever_dropped(speakers):
    for epoch in range(1, 6):
        drawn = [d.row for b in balanced(speakers, epoch=epoch) for d in b]
        assert {speakers[row] for row in drawn} == set(speakers)


def test_many_utterances_are_used_as_far_as_batches_can_differ():
    # four speakers a batch; 10 groups each, so that nothing is left out
    speakers = "".join(name * 20 for name in "abcdefgh")
    batches = balanced(speakers)
    assert len(batches) == 20
    assert len({d.row for b in batches for d in b}) == 160
    # one speaker with most of the utterances comes once a batch, not more
    batches = balanced("abcd" + "e" * 99)
    names = ["abcdeeeee"[min(d.row, 5)] for b in batches for d in b]
    assert Counter(names)["e"] <= 2 * len(batches)


def test_a_group_holds_different_utterances_where_there_are_enough():
    speakers = "".join(name * 4 for name in "abcdefgh")
    table = manifest([10.0] * len(speakers), speakers)
    sampler = BalancedSampler(table, 8, 5, 2, seconds_per_draw=2.0)
    seen = set()
    for epoch in range(1, 4):
        sampler.set_epoch(epoch)
        for batch in sampler:
            for one, other in zip(batch[::2], batch[1::2], strict=True):
                assert one.row != other.row
            seen |= set(batch)
            assert len(set(batch)) == len(batch)
    # five draws of an utterance, each with a repeat of its own
    assert {draw.repeat for draw in seen} == {0, 1, 2, 3, 4}


def test_a_speaker_has_a_largest_number_of_draws():
    # Clova's trainer: at most so many utterances of a speaker, other ones
    # each epoch; what fills the last batch may be one group more
    speakers = "a" * 90 + "b" * 7 + "".join(name * 9 for name in "cdefgh")
    for per_speaker in (1, 2):
        seen = set()
        for epoch in range(1, 9):
            batches = balanced(
                speakers,
                epoch=epoch,
                utterances_per_speaker=per_speaker,
                max_per_speaker=6,
            )
            assert len(batches) == 6  # of 8 * 6 draws, 8 a batch
            drawn = [draw.row for batch in batches for draw in batch]
            counts = Counter(speakers[row] for row in drawn)
            assert set(counts.values()) == {6}
            assert len(set(drawn)) == len(drawn)
            seen |= set(drawn)
        assert sum(speakers[row] == "a" for row in seen) > 30


def test_batches_of_single_utterances_hold_different_speakers():
    for batch in balanced(batch=6, utterances_per_speaker=1):
        assert len({UNEVEN[draw.row] for draw in batch}) == 6


def test_epochs_differ_and_repeat():
    assert balanced(epoch=2) == balanced(epoch=2) != balanced(epoch=3)


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_speakers_of_a_batch(world_size):
    alone = balanced()
    shares = [
        balanced(rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    for batch, parts in zip(alone, zip(*shares, strict=True), strict=True):
        assert sorted(d for part in parts for d in part) == sorted(batch)
        for part in parts:
            assert len(part) == 8 // world_size
            counts = Counter(UNEVEN[draw.row] for draw in part)
            assert set(counts.values()) == {2}


ROWS = manifest([1.0, 1.0, 1.0, 1.0], "aabb")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CropSampler(ROWS, 3, 0, world_size=2), "2 processes, got 3"),
        (lambda: CropSampler(ROWS, 5, 0), "at most the 4 draws.*got 5"),
        (lambda: CropSampler(ROWS, 1, 0, min_draws=0), "got 0"),
        (lambda: CropSampler(ROWS, 1, 0, -2.0), "got -2.0"),
        (lambda: BalancedSampler(ROWS, 4, 0, 0), "at least 1, got 0"),
        (
            lambda: BalancedSampler(ROWS, 4, 0, max_per_speaker=1),
            "at least the 2 utterances.*got 1",
        ),
        (lambda: BalancedSampler(ROWS, 5, 0), "multiple of 2.*got 5"),
        (
            lambda: BalancedSampler(ROWS, 6, 0, world_size=2),
            "multiple of 4.*got 6",
        ),
        (lambda: BalancedSampler(ROWS, 6, 0), "the 2 speakers, got 6"),
    ],
)
def test_bad_arguments_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()
