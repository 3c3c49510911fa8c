"""Class numbers of speakers, and the label map that a run keeps."""

import numpy as np
import pandas as pd
import pytest
from speechbrain.dataio.encoder import CategoricalEncoder

from speechbrain_ext.dataio.speaker_labels import (
    LabelMapCheck,
    read_label_map,
    require_same_labels,
    speaker_classes,
)
from speechbrain_ext.utils.checkpoints import AtomicCheckpointer

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
    (tmp_path / "CKPT+1").mkdir()
    with pytest.raises(ValueError, match="do not fit. Train into another"):
        speaker_classes(SPEAKERS, CategoricalEncoder(), path)


def test_a_start_that_is_no_folder_is_said(tmp_path):
    with pytest.raises(ValueError, match="nope is not a folder; check its"):
        speaker_classes(
            SPEAKERS, CategoricalEncoder(), tmp_path / "map", tmp_path / "nope"
        )


def test_a_map_that_no_checkpoint_needs_is_made_anew(tmp_path):
    path = tmp_path / "map"
    speaker_classes(pd.Series(["a", "b"]), CategoricalEncoder(), path)
    speaker_classes(SPEAKERS, CategoricalEncoder(), path)
    assert read_label_map(path) == ["a", "b", "c"]
    path.write_text(path.read_text().replace("'c'", "'d'"))  # by a person
    with pytest.raises(ValueError, match="do not fit. Train into another"):
        speaker_classes(SPEAKERS, CategoricalEncoder(), path)


def permuted(path):
    """Swaps the first two labels of a map, which keep their numbers."""
    one, other, *rest = path.read_text().splitlines(keepends=True)
    one, other = one.replace("=> 0", "=> 1"), other.replace("=> 1", "=> 0")
    path.write_text("".join([other, one, *rest]))


@pytest.mark.parametrize("start", [False, True])
def test_a_map_of_another_order_is_refused(start, tmp_path):
    path, folder = tmp_path / "label_encoder.txt", None
    if start:
        folder, encoder = tmp_path, CategoricalEncoder()
        encoder.update_from_iterable(["c", "b", "a"])
        encoder.save(tmp_path / "label_encoder.ckpt")
    first = CategoricalEncoder()
    speaker_classes(SPEAKERS, first, path, folder)
    assert read_label_map(path) == list(first.lab2ind)
    permuted(path)
    before = path.read_text()
    with pytest.raises(ValueError, match="label_encoder.txt .*another order"):
        speaker_classes(SPEAKERS, CategoricalEncoder(), path, folder)
    assert path.read_text() == before
    path.unlink()  # as the sentence says
    again = CategoricalEncoder()
    speaker_classes(SPEAKERS, again, path, folder)
    assert again.lab2ind == first.lab2ind


def test_a_broken_map_of_the_start_is_named(tmp_path):
    start = tmp_path / "label_encoder.ckpt"
    start.write_text("'a' => 0\n'b' =")
    with pytest.raises(ValueError, match="label_encoder.ckpt is cut .*copy"):
        speaker_classes(
            SPEAKERS, CategoricalEncoder(), tmp_path / "map", tmp_path
        )
    assert not (tmp_path / "map").exists()


@pytest.mark.parametrize(
    ("speakers", "reason"),
    [
        (["a", "a"], "at least two speakers, .* 1 .a.*--layout.*--file_list"),
        (["a", "b => c"], "'b => c' has ` => `"),
        (["a", "b\rc"], "line break"),
        (["a", "a#speed0.9"], "a#speed0.9 has the name that another speaker"),
    ],
)
def test_speakers_that_cannot_be_classes_are_refused(
    speakers, reason, tmp_path
):
    with pytest.raises(ValueError, match=reason):
        speaker_classes(
            pd.Series(speakers),
            CategoricalEncoder(),
            tmp_path / "map",
            None,
            (1.0, 0.9),
        )
    assert not list(tmp_path.iterdir())


def test_odd_names_are_read_again_as_they_were(tmp_path):
    names = ["a=b", 'it\'s "c"', "é 日", "d\te", "f=>g", "\\n", "=" * 16]
    encoder = CategoricalEncoder()
    speaker_classes(pd.Series(names), encoder, tmp_path / "map")
    assert read_label_map(tmp_path / "map") == sorted(names)
    speaker_classes(pd.Series(names), CategoricalEncoder(), tmp_path / "map")
    assert CategoricalEncoder.from_saved(tmp_path / "map").lab2ind == (
        encoder.lab2ind
    )


def test_a_checkpoint_knows_its_label_map(tmp_path):
    encoders = [CategoricalEncoder() for _ in range(3)]
    for encoder, names in zip(encoders, ("abc", "bac", "abd"), strict=True):
        encoder.update_from_iterable(list(names))

    def checkpointer(encoder):
        made = AtomicCheckpointer(tmp_path)
        made.add_recoverable(
            "label_map", LabelMapCheck(encoder), optional_load=True
        )
        return made

    checkpointer(encoders[0]).save_checkpoint()
    assert checkpointer(encoders[0]).recover_if_possible()
    for encoder in encoders[1:]:
        with pytest.raises(ValueError, match="another label map .3 labels"):
            checkpointer(encoder).recover_if_possible()


def test_a_checkpoint_knows_the_labels_of_its_utterances(tmp_path):
    table = pd.DataFrame({"ID": list("1234"), "spk_id": SPEAKERS})
    encoder = CategoricalEncoder()
    speaker_classes(SPEAKERS, encoder, tmp_path / "label_encoder.txt")
    saved = tmp_path / "CKPT+1" / "label_map.ckpt"
    saved.parent.mkdir()

    def refused(table):
        try:
            require_same_labels(tmp_path, None, (1.0,), table)
        except ValueError as error:
            return str(error)

    LabelMapCheck(encoder, table)._save(saved)
    LabelMapCheck(encoder)._recover(saved, True)
    assert refused(table) is None and refused(table[::-1]) is None
    swapped = table.assign(spk_id=["a", "b", "b", "c"])
    renamed = table.assign(ID=["1", "2", "3", "5"])
    for other in (swapped, renamed, table[:3].replace("a", "c")):
        assert refused(other) is not None
    assert "CKPT+1 was trained with other labels" in refused(swapped)
    # one that is damaged, or of an older version, says nothing
    for held in (b"", b"\xff\n\xff", saved.read_bytes()[:-9]):
        saved.write_bytes(held)
        assert refused(swapped) is None
    LabelMapCheck(encoder)._save(saved)
    assert refused(swapped) is None
    assert "speakers" in refused(swapped.replace("c", "d"))  # by the map


def test_a_checkpoint_of_before_has_no_label_map(tmp_path):
    AtomicCheckpointer(tmp_path).save_checkpoint()
    made = AtomicCheckpointer(tmp_path)
    check = LabelMapCheck(CategoricalEncoder())
    made.add_recoverable("label_map", check, optional_load=True)
    assert made.recover_if_possible()


def test_a_start_without_a_map_is_refused(tmp_path):
    with pytest.raises(ValueError, match="train the first stage first"):
        speaker_classes(
            SPEAKERS, CategoricalEncoder(), tmp_path / "map", tmp_path
        )
