"""Speakers held out: by seed and name, never too many."""

import pandas as pd
import pytest

from speechbrain_ext.dataio.splits import choose_speakers, hold_out_speakers


def manifest_of(sizes):
    """A manifest with so many utterances of each speaker."""
    speakers = [name for name, size in sizes.items() for _ in range(size)]
    return pd.DataFrame({"spk_id": speakers})


def test_choose_speakers_depends_on_seed_and_names_alone():
    manifest = manifest_of({f"id{n}": 2 + n % 3 for n in range(50)})
    chosen = choose_speakers(manifest, 10, seed=1)
    shuffled = manifest.sample(frac=1, random_state=0)
    assert choose_speakers(shuffled, 10, seed=1) == chosen
    assert choose_speakers(manifest, 10, seed=2) != chosen
    assert choose_speakers(manifest, 5, seed=1) == chosen[:5]
    # Pinned, since a manifest must be the same on every machine.
    assert chosen[:3] == ["id24", "id5", "id35"]


def test_choose_speakers_takes_only_those_with_two_utterances():
    manifest = manifest_of({"a": 1, "b": 2, "c": 1, "d": 3})
    assert sorted(choose_speakers(manifest, 2, seed=0)) == ["b", "d"]
    with pytest.raises(ValueError, match="is 3, but only 2 .* at most 2, or"):
        choose_speakers(manifest, 3, seed=0)


@pytest.mark.parametrize(
    ("speakers", "said"), [("abcdef", "choose at most 4, or 0"), ("abc", "e 0")]
)
def test_the_number_that_a_message_names_leaves_speakers(speakers, said):
    manifest = manifest_of(dict.fromkeys(speakers, 2))
    with pytest.raises(ValueError, match=f"{said} for no development"):
        hold_out_speakers(manifest, set(), 50, seed=0)


def test_hold_out_speakers_keeps_the_splits_apart():
    manifest = manifest_of(dict.fromkeys("abcdefgh", 3))
    train, dev = hold_out_speakers(manifest, {"a", "b"}, 2, seed=0)
    assert set(train.spk_id) | set(dev.spk_id) == set("cdefgh")
    assert not set(train.spk_id) & set(dev.spk_id)
    assert dev.spk_id.nunique() == 2 and len(dev) == 6


@pytest.mark.parametrize("tests, count", [({"a", "b", "c"}, 0), ({"a"}, 2)])
def test_hold_out_speakers_rejects_nothing_left(tests, count):
    manifest = manifest_of(dict.fromkeys("abc", 2))
    with pytest.raises(ValueError, match=f"of 3 speakers {len(tests)} are"):
        hold_out_speakers(manifest, tests, count, seed=0)
