"""Class numbers of speakers, and the label map that a run keeps."""

import numpy as np
import pandas as pd
import pytest
from speechbrain.dataio.encoder import CategoricalEncoder

from speechbrain_ext.dataio.encoder import speaker_classes

SPEAKERS = pd.Series(["b", "a", "b", "c"])


def test_a_resumed_run_has_the_same_classes(tmp_path):
    path = tmp_path / "label_encoder.txt"
    first = speaker_classes(SPEAKERS, CategoricalEncoder(), path)
    assert first.tolist() == [[1], [0], [1], [2]]
    again = speaker_classes(SPEAKERS[::-1], CategoricalEncoder(), path)
    assert again.tolist() == first[::-1].tolist()


def test_speeds_are_speakers_of_their_own(tmp_path):
    encoder = CategoricalEncoder()
    classes = speaker_classes(
        SPEAKERS, encoder, tmp_path / "map", None, (1.0, 0.9, 1.1)
    )
    assert len(encoder) == 9
    assert np.unique(classes[:2]).tolist() == [0, 1, 3, 4, 6, 7]
    # the plain speakers keep the numbers that they have without speeds
    assert classes[:, 0].tolist() == [1, 0, 1, 2]


def test_fine_tuning_keeps_the_numbers_of_its_start(tmp_path):
    start = CategoricalEncoder()
    start.update_from_iterable(["d", "c", "b", "a"])
    start.save(tmp_path / "label_encoder.ckpt")
    encoder = CategoricalEncoder()
    classes = speaker_classes(SPEAKERS, encoder, tmp_path / "map", tmp_path)
    assert len(encoder) == 4 and classes[:, 0].tolist() == [2, 3, 2, 1]


@pytest.mark.parametrize(
    ("known", "wanted"),
    [(["d", "c"], ["d", "c", "a", "b"]), (["d", "e"], ["a", "b", "c"])],
)
def test_fine_tuning_adds_speakers_to_a_map_that_knows_some(
    known, wanted, tmp_path
):
    start = CategoricalEncoder()
    start.update_from_iterable(known)
    start.save(tmp_path / "label_encoder.ckpt")
    for _ in range(2):  # the second is a run that goes on
        encoder = CategoricalEncoder()
        classes = speaker_classes(SPEAKERS, encoder, tmp_path / "map", tmp_path)
        assert [encoder.ind2lab[i] for i in range(len(encoder))] == wanted
        assert [wanted[row[0]] for row in classes] == list(SPEAKERS)


@pytest.mark.parametrize("others", [["a", "b"], ["a", "b", "x"], list("abcd")])
def test_a_map_that_does_not_fit_is_refused(others, tmp_path):
    path = tmp_path / "map"
    speaker_classes(pd.Series(others), CategoricalEncoder(), path)
    with pytest.raises(ValueError, match="do not fit. Train into another"):
        speaker_classes(SPEAKERS, CategoricalEncoder(), path)


def test_a_start_without_a_map_is_refused(tmp_path):
    with pytest.raises(ValueError, match="train the first stage first"):
        speaker_classes(
            SPEAKERS, CategoricalEncoder(), tmp_path / "map", tmp_path / "none"
        )
